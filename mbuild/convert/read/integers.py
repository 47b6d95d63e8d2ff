"""Symmetric integers of 4 and 8 bits in ggml's blocks: Q4_0 and Q8_0, where no value changes.

Both types have an F16 scale for 32 values. A checkpoint's scale is for a row or a group of it; it
is written once for each block. That is exact if the scale is a half, which is asked before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.dtypes import to_f32
from mbuild.convert.read.kept import Q4_0, Q8_0, halves_of_runs, kept
from mbuild.convert.read.once import LoadedOnce

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np

    from mbuild.convert.read.kept import RunFormat
    from mbuild.convert.read.lazy import Lazy

    Array = np.ndarray[Any, np.dtype[Any]]

_RUN = 32


def as_blocks(bits: int, values: Lazy, codes: Lazy, scales: Lazy) -> Lazy:
    """A weight (rows, width) as Q4_0 or Q8_0, or ``values`` where that would change one.

    ``codes`` are stored bytes in rows: two codes with a zero point of 8 in each, the first in its
    lower half; or one of 8 bits, signed (I8) or with a zero point of 128. ``scales`` are (rows,
    groups), (rows, 1), (rows,) or one number.
    """
    rows, width = values.shape[0], values.shape[-1]
    groups = scales.shape[1] if len(scales.shape) == 2 else 1
    part = codes.part
    whole = len(values.shape) == 2 and width % (groups * _RUN) == 0 and part is not None
    if not whole or scales.size not in (1, rows * groups):
        return values
    loaded = LoadedOnce(scales.load)  # most often still there when the weight's turn comes
    if not _are_halves(to_f32(loaded(), scales.dtype)):
        return values
    form: RunFormat = Q4_0 if bits == 4 else Q8_0
    each, per_row = form.nbytes - 2, width // _RUN
    runs_of = _coded(codes, bits)
    assert part is not None

    def runs(start: int, stop: int) -> Array:
        import numpy as np

        place = np.arange(start, stop)
        group = place % per_row // (per_row // groups)
        at = place // per_row * groups + group if scales.size > 1 else np.zeros_like(place)
        own = to_f32(loaded().reshape(-1)[at], scales.dtype).astype(np.float16)
        out = np.empty((stop - start, form.nbytes), np.uint8)
        out[:, :2] = own.view(np.uint8).reshape(-1, 2)
        out[:, 2:] = runs_of(start * each, stop * each).reshape(-1, each)
        return out

    return kept(form, values.origin, values.shape, runs, values)


def _coded(codes: Lazy, bits: int) -> Callable[[int, int], Array]:
    """Some bytes of codes as the blocks have them."""
    import numpy as np

    part = codes.part
    size = 4 if codes.dtype.value.endswith("32") else 1
    signed = size == 1
    assert part is not None

    def some(start: int, stop: int) -> Array:
        raw = part(start // size, stop // size).view(np.uint8).reshape(-1)
        if bits == 4:
            return halves_of_runs(raw.reshape(-1, _RUN // 2))
        return raw if signed else raw ^ np.uint8(128)

    return some


def _are_halves(exact: Array) -> bool:
    """Whether every value, as float32, is a half."""
    import numpy as np

    with np.errstate(all="ignore"):
        halves = exact.astype(np.float16)
    return bool(np.array_equal(halves.astype(np.float32), exact) and np.isfinite(exact).all())


def lost(before: Mapping[str, Lazy], after: Mapping[str, Lazy]) -> list[str]:
    """The names of weights that were integers and are dequantized."""
    from mbuild.convert.read.safetensors import DType

    return [
        name
        for name, lazy in after.items()
        if lazy.layout is None
        and lazy.dtype is DType.F32
        and (name not in before or before[name].dtype in (DType.I8, DType.U8))
    ]
