"""Weights in floats of four bits with a scale for 16 values (NVFP4) or 32 (MXFP4).

A code is a sign, two bits of exponent and one of fraction (E2M1). NVFP4's scales are E4M3 and one
F32 for the whole weight, MXFP4's are powers of two (E8M0). Both are kept: ggml has the types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.dtypes import to_f32
from mbuild.convert.read.kept import MXFP4, NVFP4, Factors, halves_of_runs, kept
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.packed import misfit
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import FormatError
from mbuild.gguf.memory import room
from mbuild.gguf.types import BLOCKS

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from mbuild.convert.read.kept import RunFormat
    from mbuild.gguf.types import GGMLType

    Array = np.ndarray[Any, np.dtype[Any]]

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""The numbers that the 16 codes stand for (OCP Microscaling Formats 1.0, section 5.3.3)."""

_NAN, _SIGN, _E8M0_NAN = 0x7F, 0x80, 0xFF
_DAMAGED = "the file is damaged: download or save the checkpoint again"


def nvfp4(codes: Lazy, scales: Lazy, factor: float, input_factor: float) -> Lazy:
    """A weight in NVFP4: ``codes`` U8 [..., n/2], ``scales`` F8_E4M3 [..., n/16].

    ``factor`` is what all values are multiplied by, ``input_factor`` belongs to the activations.
    KeptWeight in its bits where a row is whole blocks of ggml, else dequantized. Raises
    :class:`FormatError` for parts that do not fit.
    """
    shape = _shape_of(codes, scales, NVFP4.values)
    values = _dequantized(codes, scales, NVFP4.values, shape, factor)
    if shape[-1] % BLOCKS[NVFP4.type].weights or codes.part is None or scales.part is None:
        return values
    experts = 1 if len(shape) == 2 else shape[0]
    factors = Factors((factor,) * experts, (input_factor,) * experts)
    runs = _runs(codes, scales, NVFP4, _checked_e4m3)
    blocks = _blocks(codes, scales, NVFP4, _checked_e4m3)
    return kept(NVFP4, codes.origin, shape, runs, values, factors, blocks)


def mxfp4(codes: Lazy, scales: Lazy) -> Lazy:
    """A weight in MXFP4: ``codes`` U8 [..., n/2], ``scales`` U8 or F8_E8M0 [..., n/32]; kept."""
    shape = _shape_of(codes, scales, MXFP4.values)
    values = _dequantized(codes, scales, MXFP4.values, shape, 1.0)
    if codes.part is None or scales.part is None:
        return values
    runs = _runs(codes, scales, MXFP4, _checked_e8m0)
    blocks = _blocks(codes, scales, MXFP4, _checked_e8m0)
    return kept(MXFP4, codes.origin, shape, runs, values, encoded=blocks)


def _shape_of(codes: Lazy, scales: Lazy, group: int) -> tuple[int, ...]:
    """The weight's shape, from the codes'."""
    shape = (*codes.shape[:-1], 2 * codes.shape[-1]) if codes.shape else (0,)
    good = (
        len(shape) >= 2
        and codes.dtype is DType.U8
        and scales.shape[:-1] == codes.shape[:-1]
        and scales.shape[-1] * group == shape[-1]
    )
    if not good:
        raise misfit(codes, scales)
    return shape


def _runs(
    codes: Lazy, scales: Lazy, form: RunFormat, check: Callable[[Array, Lazy, int], Array]
) -> Callable[[int, int], Array]:
    """Runs as ggml has them: a byte of scale, then the codes."""
    half = form.values // 2
    code_part, scale_part = codes.part, scales.part
    assert code_part is not None and scale_part is not None

    def runs(start: int, stop: int) -> Array:
        import numpy as np

        out = np.empty((stop - start, form.nbytes), np.uint8)
        out[:, 0] = check(scale_part(start, stop).view(np.uint8), scales, start)
        out[:, 1:] = halves_of_runs(code_part(start * half, stop * half).reshape(-1, half))
        return out

    return runs


def _blocks(
    codes: Lazy, scales: Lazy, form: RunFormat, check: Callable[[Array, Lazy, int], Array]
) -> Callable[[int, int, GGMLType], Array | None]:
    """ggml's blocks by machine code, of whole blocks where there is some."""
    half, code_part, scale_part = form.values // 2, codes.part, scales.part
    assert code_part is not None and scale_part is not None

    def blocks(start: int, stop: int, type_: GGMLType) -> Array | None:
        from mbuild.quant.compiled.repacking import ready, repack

        runs = BLOCKS[form.type].weights // form.values
        if type_ is not form.type or start % runs or stop % runs or not ready(type_):
            return None
        own = check(scale_part(start, stop).view("u1"), scales, start)
        out = room((stop - start) // runs * BLOCKS[type_].size)
        repack(type_, code_part(start * half, stop * half).view("u1"), own, out)
        return out

    return blocks


def _checked_e4m3(scales: Array, source: Lazy, start: int) -> Array:
    """Scales without their sign, which ggml has no place for."""
    import numpy as np

    size = scales & np.uint8(_NAN)
    bad = (size == _NAN) | ((scales >= _SIGN) & (size > 0))
    if bad.any():
        at = int(bad.argmax())
        what = "NaN" if size[at] == _NAN else "a negative scale"
        raise FormatError(f"{source.origin} holds {what} (value {start + at})", hint=_DAMAGED)
    return size


def _checked_e8m0(scales: Array, source: Lazy, start: int) -> Array:
    bad = scales == _E8M0_NAN
    if bad.any():
        at = start + int(bad.argmax())
        raise FormatError(f"{source.origin} holds NaN (value {at})", hint=_DAMAGED)
    return scales


def _dequantized(
    codes: Lazy, scales: Lazy, group: int, shape: tuple[int, ...], factor: float
) -> Lazy:
    """Codes times their scales times the factor, as float32: the scales' product rounds first."""
    scale_type = DType.F8_E8M0 if scales.dtype is DType.U8 else scales.dtype
    half = group // 2

    def values(raw: Array, by: Array) -> Array:
        import numpy as np

        table = np.array(E2M1, np.float32)
        pairs = np.stack([np.tile(table, 16), np.repeat(table, 16)], axis=1)
        # Both floats of a pair are taken as one number of 8 bytes.
        taken = pairs.view(np.uint64).reshape(-1).take(raw.reshape(-1))
        out = taken.view(np.float32).reshape(-1, group)
        weights = to_f32(by.reshape(-1), scale_type) * np.float32(factor)
        out *= weights[:, None]
        return out.reshape(-1)

    def load() -> Array:
        return values(codes.load(), scales.load()).reshape(shape)

    code_part, scale_part = codes.part, scales.part
    if code_part is None or scale_part is None:
        return Lazy(DType.F32, shape, load, codes.origin)

    def part(start: int, stop: int) -> Array:
        first, last = start // group, -(-stop // group)
        out = values(code_part(first * half, last * half), scale_part(first, last))
        return out[start - first * group : stop - first * group]

    return Lazy(DType.F32, shape, load, codes.origin, part=part, grain=group)
