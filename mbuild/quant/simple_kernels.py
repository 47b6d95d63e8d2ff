"""Kernels of the types without a search, the casts and the checks, compiled by numba."""

# numba and llvmlite are typed in part or not at all.
# mypy: disable-error-code="import-untyped,import-not-found,no-untyped-call,no-untyped-def"
# mypy: disable-error-code="call-overload,misc,no-any-return,attr-defined,untyped-decorator"

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant import emit, search, simple
from mbuild.quant.emit import half
from mbuild.quant.fits import DMIN, MXFP4_VALUES, D
from mbuild.quant.kernels import allow, compiled, fetch
from mbuild.quant.lane_bytes import (
    first_lane,
    greatest,
    largest,
    store_bits,
    store_bytes,
    store_halves,
    store_nibbles,
    store_words,
)
from mbuild.quant.ops import (
    absolute,
    away,
    bits,
    clamp,
    fill,
    load,
    select,
    truncate,
    unbits,
    whole,
)

MXFP4 = np.array(MXFP4_VALUES, np.float32)
LANES = 32
"""Lanes of every kernel here: one block of 32 values, or 32 blocks' scales at once."""


def range_of(w: Any, x: Any, rows: Any, first: Any, count: Any, st: Any, b: Any) -> None:
    """TOP and VALUE of one block: the greatest and the (first) least value."""
    value = load(w, rows, first)
    least = -greatest(-value)
    st[simple.TOP, b] = greatest(value)
    st[simple.VALUE, b] = x[first * LANES + first_lane(value == fill(w, least))]


def extreme_of(w: Any, x: Any, rows: Any, first: Any, count: Any, st: Any, b: Any) -> None:
    """TOP and VALUE of one block: the largest magnitude and the first value that has it."""
    if count == 1:
        value = load(w, rows, first)
        top = largest(value)
        st[simple.TOP, b] = top
        st[simple.VALUE, b] = x[first * LANES + first_lane(absolute(value) == fill(w, top))]
    else:
        top = largest(load(w, rows, first))
        for i in range(1, count):
            top = max(top, largest(load(w, rows, first + i)))
        st[simple.TOP, b] = top


def _truncated(w: Any, rows: Any, first: Any, nmax: Any, ranged: Any, st: Any, b: Any) -> Any:
    """Levels of the 32 values of a block that truncates; its LOW is 0 if not ``ranged``."""
    scaled = load(w, rows, first)
    if ranged:
        scaled = scaled - fill(w, st[simple.LOW, b])
    scaled = scaled * fill(w, st[simple.INVERSE, b]) + fill(w, st[simple.SHIFT, b])
    return clamp(truncate(scaled), 0, nmax)


def _rounded(w: Any, rows: Any, first: Any, st: Any, b: Any) -> Any:
    """Levels of 32 values of a block that rounds."""
    return truncate(away(load(w, rows, first) * fill(w, st[simple.INVERSE, b])))


def q4_0(
    w: Any, rows: Any, first: Any, st: Any, it: Any, b: Any, levels: Any, out: Any, o: Any
) -> None:
    """One float16, 16 bytes of levels."""
    half(out, o, it[D, b])
    store_nibbles(w, out, o + 2, _truncated(w, rows, first, 15, False, st, b))


def q4_1(
    w: Any, rows: Any, first: Any, st: Any, it: Any, b: Any, levels: Any, out: Any, o: Any
) -> None:
    """Two float16, 16 bytes of levels."""
    half(out, o, it[D, b])
    half(out, o + 2, it[DMIN, b])
    store_nibbles(w, out, o + 4, _truncated(w, rows, first, 15, True, st, b))


def q5_0(
    w: Any, rows: Any, first: Any, st: Any, it: Any, b: Any, levels: Any, out: Any, o: Any
) -> None:
    """One float16, 32 high bits, 16 bytes of levels."""
    half(out, o, it[D, b])
    level = _truncated(w, rows, first, 31, False, st, b)
    store_bits(w, out, o + 2, level > whole(w, 15))
    store_nibbles(w, out, o + 6, level)


def q5_1(
    w: Any, rows: Any, first: Any, st: Any, it: Any, b: Any, levels: Any, out: Any, o: Any
) -> None:
    """Two float16, 32 high bits, 16 bytes of levels."""
    half(out, o, it[D, b])
    half(out, o + 2, it[DMIN, b])
    level = _truncated(w, rows, first, 31, True, st, b)
    store_bits(w, out, o + 4, level > whole(w, 15))
    store_nibbles(w, out, o + 8, level)


def q8_0(
    w: Any, rows: Any, first: Any, st: Any, it: Any, b: Any, levels: Any, out: Any, o: Any
) -> None:
    """One float16, 32 bytes of levels."""
    half(out, o, it[D, b])
    store_bytes(w, out, o + 2, _rounded(w, rows, first, st, b))


def tq1_0(
    w: Any, rows: Any, first: Any, st: Any, it: Any, b: Any, levels: Any, out: Any, o: Any
) -> None:
    """54 bytes of five ternary digits, one float16."""
    for i in range(8):
        store_bytes(w, levels, i * LANES, _rounded(w, rows, first + i, st, b))
    emit.tq1_0(levels, it, b, out, o)


def tq2_0(
    w: Any, rows: Any, first: Any, st: Any, it: Any, b: Any, levels: Any, out: Any, o: Any
) -> None:
    """64 bytes of four ternary digits, one float16."""
    for i in range(8):
        store_bytes(w, levels, i * LANES, _rounded(w, rows, first + i, st, b))
    emit.tq2_0(levels, it, b, out, o)


_EMIT = {
    GGMLType.Q4_0: q4_0,
    GGMLType.Q4_1: q4_1,
    GGMLType.Q5_0: q5_0,
    GGMLType.Q5_1: q5_1,
    GGMLType.Q8_0: q8_0,
    GGMLType.TQ1_0: tq1_0,
    GGMLType.TQ2_0: tq2_0,
}


@cache
def kernel_of(type_: GGMLType) -> Any:
    """kernel(w, e, source, kind, out), as :func:`mbuild.quant.kernels.plain` has it.

    ``w`` is the width ``LANES``, a tile 32 blocks.
    """
    for text in (search, emit, simple, fetch, sys.modules[__name__]):
        allow(text)
    row = simple.SIMPLE[type_]
    scale, count = row.scale, row.weights // LANES
    measure = range_of if row.ranged else extreme_of
    write, size = _EMIT[type_], BLOCKS[type_].size

    def kernel(w, e, source, kind, out):
        st = np.empty((simple.ROWS, LANES), np.float32)
        it = np.empty((2, LANES), np.int32)
        levels = np.empty(count * LANES, np.uint8)
        x = np.empty(LANES * count * LANES, np.float32)
        rows = x.reshape(x.size // LANES, LANES)
        for tile in range(out.size // (LANES * size)):
            if not fetch(e, source, kind, tile * x.size, x):
                return tile
            for b in range(LANES):
                measure(w, x, rows, b * count, count, st, b)
            scale(w, st, it)
            for b in range(LANES):
                at = (tile * LANES + b) * size
                write(w, rows, b * count, st, it, b, levels, out, at)
        return -1

    return compiled(kernel, f"simple-{type_.name}")


def put_f16(w: Any, out: Any, o: Any, value: Any) -> None:
    """float16, to nearest even."""
    store_halves(w, out, o, search.half_bits(w, value))


def put_bf16(w: Any, out: Any, o: Any, value: Any) -> None:
    """bfloat16, to nearest even."""
    pattern = bits(value)
    odd = (pattern >> 16) & 1
    store_halves(w, out, o, (pattern + odd + 0x7FFF) >> 16)


def put_f32(w: Any, out: Any, o: Any, value: Any) -> None:
    """float32 as it is."""
    store_words(w, out, o, bits(value))


_PUT = {GGMLType.F16: put_f16, GGMLType.BF16: put_bf16, GGMLType.F32: put_f32}


@cache
def cast_of(type_: GGMLType) -> Any:
    """A kernel like :func:`kernel_of` for a type without blocks; a tile is 1024 values."""
    for text in (search, fetch, sys.modules[__name__]):
        allow(text)
    put, size = _PUT[type_], BLOCKS[type_].size

    def kernel(w, e, source, kind, out):
        x = np.empty(LANES * LANES, np.float32)
        rows = x.reshape(LANES, LANES)
        for tile in range(out.size // (x.size * size)):
            if not fetch(e, source, kind, tile * x.size, x):
                return tile
            for i in range(LANES):
                put(w, out, (tile * x.size + i * LANES) * size, load(w, rows, i))
        return -1

    return compiled(kernel, f"cast-{type_.name}")


def write_mxfp4(w: Any, value: Any, out: Any, o: Any) -> None:
    """One exponent, 16 bytes of levels."""
    top = largest(value)
    exponent = 0
    if top > 0.0:
        # float32 rounds up to the next integer just below a power of two, as log2f does.
        exponent = (int(np.floor(np.float32(np.log2(np.float64(top))))) + 125) & 0xFF
    out[o] = exponent
    scale = unbits(whole(w, 0x00200000 << exponent if exponent < 2 else (exponent - 1) << 23))
    best = whole(w, 0)
    least = absolute(fill(w, 0.0) * scale - value)
    for i in range(1, 16):
        error = absolute(fill(w, MXFP4[i]) * scale - value)
        better = error < least
        best = select(better, whole(w, i), best)
        least = select(better, error, least)
    store_nibbles(w, out, o + 1, best)


@cache
def mxfp4() -> Any:
    """A kernel like :func:`kernel_of` for MXFP4."""
    for text in (search, fetch, sys.modules[__name__]):
        allow(text)

    def kernel(w, e, source, kind, out):
        x = np.empty(LANES * LANES, np.float32)
        rows = x.reshape(LANES, LANES)
        for tile in range(out.size // (LANES * 17)):
            if not fetch(e, source, kind, tile * x.size, x):
                return tile
            for b in range(LANES):
                write_mxfp4(w, load(w, rows, b), out, (tile * LANES + b) * 17)
        return -1

    return compiled(kernel, "simple-MXFP4")


def choose(type_: GGMLType) -> Any:
    """The kernel of a type of this module."""
    if type_ in _PUT:
        return cast_of(type_)
    return mxfp4() if type_ is GGMLType.MXFP4 else kernel_of(type_)


def supports(type_: GGMLType) -> bool:
    """Whether this module has a kernel for the type."""
    return type_ in _PUT or type_ in _EMIT or type_ is GGMLType.MXFP4


def tile_of(type_: GGMLType) -> int:
    """Blocks of a tile."""
    return LANES * LANES if type_ in _PUT else LANES
