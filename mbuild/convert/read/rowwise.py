"""Weights that are computed row by row, so that no more of them is in memory than is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.dtypes import PIECE
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType
from mbuild.gguf.memory import room
from mbuild.gguf.types import GGMLType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_STORED = {GGMLType.F32: "<f4", GGMLType.F16: "<f2", GGMLType.BF16: "<u2"}
"""Types that machine code makes of codes at once."""

_BYTES = {GGMLType.F32: 4, GGMLType.F16: 2, GGMLType.BF16: 2}


@dataclass(frozen=True, slots=True)
class CodedRows:
    """Rows of codes, each less its group's zero point and times its factor, as float32.

    ``codes(low, high)`` gives the bytes of some rows, contiguous, and ``plain`` the values without
    machine code. ``factors`` and ``points`` are (rows, groups), for ``group`` values each.
    """

    kind: str
    codes: Callable[[int, int], Array]
    factors: Array
    points: Array | None
    group: int
    width: int
    plain: Callable[[int, int], Array]

    def __call__(self, low: int, high: int) -> Array:
        """Some rows, (rows, width)."""
        import numpy as np

        out = np.empty((high - low, self.width), "<f4")
        return out if self.into(low, high, out) else self.plain(low, high)

    def into(self, low: int, high: int, out: Array) -> bool:
        """Some rows as what ``out`` holds; False, and nothing, where machine code cannot."""
        from mbuild.quant.compiled.decoding import decode

        points = None if self.points is None else self.points[low:high]
        codes, factors = self.codes(low, high), self.factors[low:high]
        return decode(codes, self.kind, factors, points, self.group, out)


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

    def encoded(start: int, stop: int, type_: GGMLType) -> Array | None:
        first, last = start // width, stop // width
        if type_ not in _STORED or start % width or stop % width:
            return None
        some = opened(first, last)
        if not isinstance(some, CodedRows):
            return None
        out, step = room((stop - start) * _BYTES[type_]), max(PIECE // width, 1)
        rows = out.view(_STORED[type_]).reshape(-1, width)
        cuts = ((low, min(low + step, last - first)) for low in range(0, last - first, step))
        return out if all(some.into(*cut, rows[slice(*cut)]) for cut in cuts) else None

    return Lazy(
        DType.F32,
        shape,
        lambda: opened(0, count)(0, count).reshape(shape),
        origin,
        part=part if width else None,
        grain=width * together,
        steps=steps if width else None,
        encoded=encoded if width else None,
    )


def rows_of(lazy: Lazy, first: int, last: int) -> Array:
    """Some rows of a stored tensor, (rows, shape[-1]); rows are counted as in :func:`by_rows`."""
    width = lazy.shape[-1]
    if lazy.part is not None:
        return lazy.part(first * width, last * width).reshape(last - first, width)
    return lazy.load().reshape(-1, width)[first:last]
