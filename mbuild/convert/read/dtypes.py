"""Element types: from what a checkpoint stores to what GGUF stores, bit for bit.

The arithmetic is that of llama.cpp's converter (numpy and torch on the CPU):
everything but F16 and F32 becomes F32 on loading, which is exact for BF16 and
the 8-bit floats; F16 and BF16 are made by rounding to nearest, ties to even;
F16 overflows to infinity; a BF16 NaN is made quiet. All of it is done in pieces that
fit the processor's cache; :mod:`mbuild.convert.read.rounding` has the roundings.

Arrays in this module hold BF16 as ``uint16`` bit patterns and the 8-bit floats
as ``uint8``; all other types are numpy's.
"""

from __future__ import annotations

import math
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from mbuild.convert.read.rounding import INFINITE, beyond, f32_to_bf16, f32_to_f16, f32_to_q8_0
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import UnsupportedError
from mbuild.gguf.memory import room
from mbuild.gguf.types import BLOCKS, GGMLType

if TYPE_CHECKING:
    from collections.abc import Callable

    Array = np.ndarray[Any, np.dtype[Any]]

PIECE = 1 << 17
"""Elements converted at a time: temporaries stay in the cache, and threads seldom meet."""


class OutType(StrEnum):
    """What matrices are stored as; vectors are always F32."""

    AUTO = "auto"
    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    TQ1_0 = "tq1_0"
    TQ2_0 = "tq2_0"


NUMPY: dict[DType, str] = {
    DType.BOOL: "|b1",
    DType.U8: "|u1",
    DType.I8: "|i1",
    DType.F8_E4M3: "|u1",
    DType.F8_E5M2: "|u1",
    DType.F8_E8M0: "|u1",
    DType.I16: "<i2",
    DType.U16: "<u2",
    DType.F16: "<f2",
    DType.BF16: "<u2",
    DType.I32: "<i4",
    DType.U32: "<u4",
    DType.F32: "<f4",
    DType.I64: "<i8",
    DType.U64: "<u8",
    DType.F64: "<f8",
}
"""How the bytes of a tensor are seen; a type that is missing cannot be converted."""


def to_f32(values: Array, dtype: DType) -> Array:
    """The values as float32, same shape: exact where float32 can hold them."""
    if dtype is DType.F32:
        return values
    if dtype is DType.BF16:
        wide = values.astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    decode = _EIGHT_BITS.get(dtype)
    if decode is not None:
        return decode(values)
    if dtype not in NUMPY:
        raise UnsupportedError(f"tensors of type {dtype} cannot be converted")
    with np.errstate(all="ignore"):
        return values.astype(np.float32)


class NotFinite(ValueError):
    """A value is infinite or not a number, or would be in the type that is asked for.

    ``index`` is its flat place, ``value`` what the source holds there.
    """

    def __init__(self, index: int, value: float) -> None:
        super().__init__(index, value)
        self.index, self.value = index, value


def encode(values: Array, dtype: DType, target: GGMLType, *, finite: bool = False) -> Array:
    """The stored bytes (uint8, one-dimensional) of values in GGUF's type ``target``.

    ``target`` is F32, F16, BF16, Q8_0 (rows a multiple of 32), TQ1_0 or TQ2_0 (of 256).
    The values' own memory is given back where nothing has to change. With
    ``finite`` every result has to be a finite number: the first that is none
    raises :class:`NotFinite`. The check is part of the pass over each piece.
    """
    flat = contiguous(values).reshape(-1)
    direct = _DIRECT.get((dtype, target))
    if direct is not None:
        return direct(flat, finite).view(np.uint8)
    size, from_f32 = _FROM_F32[target]
    block = BLOCKS[target]
    out = room(flat.size // block.weights * block.size if size is None else flat.size * size)
    at = 0
    for start in range(0, flat.size, PIECE):
        source = flat[start : start + PIECE]
        made = from_f32(to_f32(source, dtype))
        if finite:
            _check_made(made, source, dtype, target, start)
        piece = made.view(np.uint8).reshape(-1)
        out[at : at + piece.size] = piece
        at += piece.size
    return out


_F16_INFINITE = 0x7C00
_SCALE_AT = {GGMLType.Q8_0: 0, GGMLType.TQ1_0: 52, GGMLType.TQ2_0: 64}
"""Where a block has its scale, an F16."""


def _first_beyond(bits: Array, limit: int) -> int:
    mask = (1 << (8 * bits.itemsize - 1)) - 1
    return int(np.flatnonzero((bits & bits.dtype.type(mask)) >= limit)[0])


def _check_made(made: Array, source: Array, dtype: DType, target: GGMLType, start: int) -> None:
    """Raise :class:`NotFinite` for what one piece, from the flat place ``start`` on, became."""
    if target in _SCALE_AT:
        at = _SCALE_AT[target]
        bits = made[:, at : at + 2].copy().view(np.uint16).reshape(-1)
        each = BLOCKS[target].weights
    else:
        bits, each = made.reshape(-1).view(f"u{made.itemsize}"), 1
    half = target is GGMLType.F16 or target in _SCALE_AT
    limit = _F16_INFINITE if half else INFINITE[bits.itemsize]
    if not beyond(bits, limit):
        return
    index = _first_beyond(bits, limit) * each
    values = _as_doubles(source[index : index + each], dtype)
    worst = int(np.argmax(np.where(np.isfinite(values), np.abs(values), np.inf)))
    raise NotFinite(start + index + worst, float(values[worst]))


def _as_doubles(values: Array, dtype: DType) -> Array:
    return values if dtype is DType.F64 else to_f32(values, dtype).astype(np.float64)


def contiguous(values: Array) -> Array:
    """The values in the order of their indices, in their own memory if they lie so already."""
    if values.flags.c_contiguous:
        return values
    out = room(values.nbytes).view(values.dtype).reshape(values.shape)
    _copy(out, values)
    return out


_TILE = (512, 64)  # of a transposed matrix: whole cache lines, and both sides fit a core's cache


def _copy(out: Array, values: Array) -> None:
    """Copy values; matrices that lie by columns tile by tile, several times as fast as numpy."""
    by_columns = values.ndim > 1 and values.strides[-2] == values.itemsize != values.strides[-1]
    if not by_columns or values.shape[-2] * values.shape[-1] < math.prod(_TILE):
        np.copyto(out, values)
        return
    rows, columns = _TILE
    for matrix in np.ndindex(values.shape[:-2]):
        for row in range(0, values.shape[-2], rows):
            for column in range(0, values.shape[-1], columns):
                place = (*matrix, slice(row, row + rows), slice(column, column + columns))
                np.copyto(out[place], values[place])


def _bf16_to_f16(values: Array, finite: bool) -> Array:
    """BF16 to half: normal halves are a shift of the bits, the others come from a table.

    In the values' own memory where that can be written.
    """
    out = values if values.flags.writeable else np.empty_like(values)
    room = np.empty((3, min(values.size, PIECE)), dtype=np.uint16)
    table: Array | None = None
    for start in range(0, values.size, PIECE):
        bits = values[start : start + PIECE]
        size, sign, test = room[:, : bits.size]
        np.bitwise_and(bits, np.uint16(0x7FFF), out=size)
        np.bitwise_and(bits, np.uint16(0x8000), out=sign)
        size -= np.uint16(112 << 7)  # the exponents' biases are 127 and 15
        # Exponents outside 1 to 30: the half is subnormal, zero, infinite or not a number.
        np.subtract(size, np.uint16(1 << 7), out=test)
        odd = np.flatnonzero(test >= np.uint16(30 << 7))
        if odd.size and table is None:
            table = _half_table()
        others = table[bits[odd]] if table is not None else odd
        if finite and odd.size and beyond(others.view(np.uint16), _F16_INFINITE):
            index = int(odd[_first_beyond(others, _F16_INFINITE)])
            raise NotFinite(start + index, _value(bits, index, DType.BF16))
        half = out[start : start + PIECE]
        np.left_shift(size, np.uint16(3), out=half)
        half |= sign
        half[odd] = others
    return out


def _half_table() -> Array:
    every = np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)
    with np.errstate(all="ignore"):
        halves: Array = every.view(np.float32).astype(np.float16).view(np.uint16)
    return halves


def _value(values: Array, index: int, dtype: DType) -> float:
    return float(_as_doubles(values[index : index + 1], dtype)[0])


def _bf16_quiet(values: Array, finite: bool) -> Array:
    """BF16 as it is, but signalling NaNs made quiet, as a way through float32 does."""
    if finite:
        return _as_is(values, finite)
    for start in range(0, values.size, PIECE):
        piece = values[start : start + PIECE]
        if beyond(piece, 0x7F81):
            nan = (piece & np.uint16(0x7FFF)) > np.uint16(0x7F80)
            if not values.flags.writeable:
                values = values.copy()
            values[start : start + PIECE][nan] |= np.uint16(0x40)
    return values


def _bf16_to_f32(values: Array, finite: bool) -> Array:
    out = room(4 * values.size).view(np.uint32)
    for start in range(0, values.size, PIECE):
        if finite:
            _check_stored(values, start)
        part = out[start : start + PIECE]
        part[:] = values[start : start + PIECE]
        part <<= np.uint32(16)
    return out


def _check_stored(values: Array, start: int) -> None:
    """Raise :class:`NotFinite` for a piece of F32, F16 or (as ``uint16``) BF16."""
    piece = values[start : start + PIECE]
    half = piece.dtype == np.float16
    limit = _F16_INFINITE if half else INFINITE[piece.itemsize]
    bits = piece.view(f"u{piece.itemsize}")
    if beyond(bits, limit):
        index = _first_beyond(bits, limit)
        dtype = DType.F32 if piece.itemsize == 4 else DType.F16 if half else DType.BF16
        raise NotFinite(start + index, _value(piece, index, dtype))


def _as_is(values: Array, finite: bool) -> Array:
    if finite:
        for start in range(0, values.size, PIECE):
            _check_stored(values, start)
    return values


def _same(values: Array) -> Array:
    return values


_DIRECT: dict[tuple[DType, GGMLType], Callable[[Array, bool], Array]] = {
    (DType.F32, GGMLType.F32): _as_is,
    (DType.F16, GGMLType.F16): _as_is,
    (DType.BF16, GGMLType.BF16): _bf16_quiet,
    (DType.BF16, GGMLType.F16): _bf16_to_f16,
    (DType.BF16, GGMLType.F32): _bf16_to_f32,
}
"""Pairs of types that need no way through float32."""


def _ternary(type_: GGMLType) -> Callable[[Array], Array]:
    """Blocks of 256 values of -1, 0 and 1 times their scale, by the quantizer."""

    def made(values: Array) -> Array:
        from mbuild.quant.quantize import quantize

        return quantize(type_, GGMLType.F32, values, values.size).reshape(-1, BLOCKS[type_].size)

    return made


_FROM_F32: dict[GGMLType, tuple[int | None, Callable[[Array], Array]]] = {
    GGMLType.F32: (4, _same),
    GGMLType.F16: (2, f32_to_f16),
    GGMLType.BF16: (2, f32_to_bf16),
    GGMLType.Q8_0: (None, f32_to_q8_0),
    GGMLType.TQ1_0: (None, _ternary(GGMLType.TQ1_0)),
    GGMLType.TQ2_0: (None, _ternary(GGMLType.TQ2_0)),
}
"""Bytes an element (None: a block's) and the conversion."""


def _f8_e4m3(codes: Array) -> Array:
    """float8_e4m3fn: see :func:`_e4m3_table`."""
    values: Array = np.take(_e4m3_table(), codes)
    return values


@cache
def _e4m3_table() -> Array:
    """What each code stands for: bias 7, three bits of fraction, no infinity, S.1111.111 is NaN.

    The bits moved to float32's places are a value 2^120 too small; the
    multiplication is exact and makes subnormals normal.
    """
    codes = np.arange(256, dtype=np.uint8)
    bits = codes.view(np.int8).astype(np.int32)  # copies of the sign in all bits above it
    bits <<= np.int32(20)
    bits &= np.int32(0x07F00000 - (1 << 31))
    values: Array = bits.view(np.float32)
    values *= np.float32(2.0**120)
    nan = (codes & np.uint8(0x7F)) == 0x7F
    values[nan] = np.where(codes[nan] > 0x7F, -np.float32(np.nan), np.float32(np.nan))
    return values


def _f8_e5m2(codes: Array) -> Array:
    """float8_e5m2: the upper byte of a half."""
    halves: Array = (codes.astype(np.uint16) << np.uint16(8)).view(np.float16)
    return to_f32(halves, DType.F16)


def _f8_e8m0(codes: Array) -> Array:
    """float8_e8m0fnu: powers of two from 2^-127 to 2^127, 255 is NaN."""
    exact = np.exp2(codes - 127.0)
    exact[codes == 255] = np.nan
    values: Array = exact.astype(np.float32)
    return values


_EIGHT_BITS: dict[DType, Callable[[Array], Array]] = {
    DType.F8_E4M3: _f8_e4m3,
    DType.F8_E5M2: _f8_e5m2,
    DType.F8_E8M0: _f8_e8m0,
}
