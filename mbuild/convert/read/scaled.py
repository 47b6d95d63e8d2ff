"""Weights of 8 bits times their scales: one for the tensor, for a row, a block or an expert."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.dtypes import to_f32
from mbuild.convert.read.once import LoadedOnce
from mbuild.convert.read.packed import misfit
from mbuild.convert.read.rowwise import CodedRows, Coding, by_rows, rows_of
from mbuild.convert.read.safetensors import DType
from mbuild.core.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from mbuild.convert.read.lazy import Lazy

    Array = np.ndarray[Any, np.dtype[Any]]


def scaled(
    weight: Lazy, scale: Lazy, block: tuple[int, ...] | None, zeros: Lazy | None = None
) -> Lazy:
    """``weight`` less its zero points, times ``scale``, as float32; each step rounds once.

    ``block`` are the sizes of a block in the scale's last axes; without it a scale's axis is as
    long as the weight's, or 1. Axes that the scale lacks are the weight's last ones, as in
    llama.cpp's converter. Raises :class:`FormatError` for a scale that does not fit.
    """
    sizes = _sizes(weight, scale, block)
    if zeros is not None and zeros.shape != scale.shape:
        raise misfit(weight, scale, zeros)
    factors = LoadedOnce(lambda: to_f32(scale.load(), scale.dtype))
    points = LoadedOnce(lambda: to_f32(zeros.load(), zeros.dtype)) if zeros is not None else None
    if len(weight.shape) < 2:
        return weight.compute(lambda values: values * factors().reshape(-1))
    width = weight.shape[-1]
    by_groups = len(scale.shape) == len(weight.shape) and scale.shape[-1] > 1
    size, kind = sizes[-1] if by_groups else width, _KINDS.get(weight.dtype)
    coding = None if kind is None else Coding(kind, zeros is not None, size)

    def opened(first: int, last: int) -> Callable[[int, int], Array]:
        import numpy as np

        stored = rows_of(weight, first, last)
        own = _of_rows(factors(), sizes, weight.shape, first, last)
        zero = None if points is None else _of_rows(points(), sizes, weight.shape, first, last)

        def some(low: int, high: int) -> Array:
            out = to_f32(stored[low:high], weight.dtype)
            if out.dtype != np.float32 or not out.flags.writeable:
                out = out.astype(np.float32)
            if zero is not None:
                _apply(out, zero[low:high], size, np.subtract)
            _apply(out, own[low:high], size, np.multiply)
            return out

        if coding is None:
            return some
        return CodedRows(coding, lambda low, high: stored[low:high], own, zero, width, some)

    return by_rows(weight.shape, opened, weight.origin, coding=coding)


_KINDS = {DType.F8_E4M3: "e4m3", DType.I8: "i8"}
"""What machine code decodes, and its names for it."""


def _of_rows(
    factors: Array, sizes: Sequence[int], shape: tuple[int, ...], first: int, last: int
) -> Array:
    """What belongs to some rows, (rows, groups)."""
    import numpy as np

    lead = np.unravel_index(np.arange(first, last), shape[:-1])
    index = tuple(
        np.minimum(lead[axis] // sizes[axis], factors.shape[axis] - 1)
        for axis in range(min(factors.ndim, len(shape) - 1))
    )
    own = factors[index] if index else np.broadcast_to(factors.reshape(-1), (last - first, 1))
    return own[:, None] if own.ndim < 2 else own


def _apply(out: Array, own: Array, size: int, by: Any) -> None:
    """Change rows (rows, width) in their place by what belongs to their groups."""
    width = out.shape[1]
    if own.shape[1] == 1:
        by(out, own, out=out)
    elif own.shape[1] * size == width:
        view = out.reshape(len(out), -1, size)
        by(view, own[:, :, None], out=view)
    else:
        by(out, own.repeat(size, axis=1)[:, :width], out=out)


def _sizes(weight: Lazy, scale: Lazy, block: Sequence[int] | None) -> list[int]:
    """How many of the weight's positions a scale's stands for, axis by axis."""
    sizes = [1] * len(scale.shape)
    if block is not None:
        if len(scale.shape) < len(block):
            raise FormatError(f"{scale.origin} has the shape {list(scale.shape)}")
        sizes[len(sizes) - len(block) :] = block
    fits = len(scale.shape) <= len(weight.shape) and all(
        count == -(-dim // size) or (count == 1 and block is None)
        for count, dim, size in zip(scale.shape, weight.shape, sizes, strict=False)
    )
    if not fits:
        raise FormatError(
            f"{scale.origin} of {list(scale.shape)} does not fit the weight of"
            f" {list(weight.shape)}",
            hint="config.json may give a different block size from the weights',"
            " or a file of another checkpoint lies here",
        )
    return sizes
