"""Weights that are computed row by row, so that no more of them is in memory than is asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.dtypes import PIECE
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]


def by_rows(
    shape: tuple[int, ...],
    opened: Callable[[int, int], Callable[[int, int], Array]],
    origin: str,
    together: int = 1,
) -> Lazy:
    """A float32 tensor whose rows are computed.

    ``opened(first, last)`` reads what those rows are made of and gives a function of two rows,
    counted from ``first``, that computes what is between: (rows, shape[-1]). Rows are counted over
    all axes but the last. At least ``together`` of them are opened at once.
    """
    width = shape[-1]
    count = math.prod(shape[:-1])

    def part(start: int, stop: int) -> Array:
        first, last = start // width, -(-stop // width)
        made = opened(first, last)(0, last - first).reshape(-1)
        return made[start - first * width : stop - first * width]

    def steps(start: int, stop: int) -> Iterator[Array]:
        first, last = start // width, -(-stop // width)
        some, step = opened(first, last), max(PIECE // width, 1)
        for row in range(first, last, step):
            made = some(row - first, min(row + step, last) - first).reshape(-1)
            yield made[max(start - row * width, 0) : stop - row * width]

    return Lazy(
        DType.F32,
        shape,
        lambda: opened(0, count)(0, count).reshape(shape),
        origin,
        part=part if width else None,
        grain=width * together,
        steps=steps if width else None,
    )


def rows_of(lazy: Lazy, first: int, last: int) -> Array:
    """Some rows of a stored tensor, (rows, shape[-1]); rows are counted as in :func:`by_rows`."""
    width = lazy.shape[-1]
    if lazy.part is not None:
        return lazy.part(first * width, last * width).reshape(last - first, width)
    return lazy.load().reshape(-1, width)[first:last]
