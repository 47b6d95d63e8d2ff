"""Weights that are computed row by row, so that no more of them is in memory than is asked for."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.dtypes import PIECE
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType
from mbuild.core.values import FrozenValue, NamedTuple
from mbuild.gguf.memory import room
from mbuild.gguf.types import GGMLType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_AT_ONCE = 8 * PIECE
"""Values that machine code makes at once, which leaves nothing on the way."""

_STORED = {GGMLType.F32: "<f4", GGMLType.F16: "<f2", GGMLType.BF16: "<u2"}
"""Types that machine code makes of codes at once."""

_BYTES = {GGMLType.F32: 4, GGMLType.F16: 2, GGMLType.BF16: 2}


class Coding(NamedTuple):
    """What a row's codes are, as :mod:`mbuild.quant.compiled.decode_text` has it: their kind,
    whether groups have zero points, and the values of a group."""

    kind: str
    points: bool
    group: int

    def ready(self, type_: GGMLType, width: int) -> bool:
        """Whether machine code makes values of a type of rows of so many."""
        from mbuild.quant.compiled.decoding import Codes, ready

        return type_ in _STORED and ready(Codes(self.kind, self.points, type_), width, self.group)


class CodedRows(FrozenValue):
    """Rows of codes, each less its group's zero point and times its factor, as float32.

    ``codes(low, high)`` gives the bytes of some rows, contiguous, and ``plain`` the values without
    machine code. ``factors`` and ``points`` are (rows, groups).
    """

    coding: Coding
    codes: Callable[[int, int], Array]
    factors: Array
    points: Array | None
    width: int
    plain: Callable[[int, int], Array]

    def __call__(self, low: int, high: int) -> Array:
        """Some rows, (rows, width)."""
        import numpy as np

        if not self.coding.ready(GGMLType.F32, self.width):
            return self.plain(low, high)
        out = np.empty((high - low, self.width), "<f4")
        return out if self.into(low, high, out) else self.plain(low, high)

    def into(self, low: int, high: int, out: Array) -> bool:
        """Some rows as what ``out`` holds; False, and nothing, where machine code cannot."""
        from mbuild.quant.compiled.decoding import decode

        points = None if self.points is None else self.points[low:high]
        codes, factors = self.codes(low, high), self.factors[low:high]
        return decode(codes, self.coding.kind, factors, points, self.coding.group, out)


def by_rows(
    shape: tuple[int, ...],
    opened: Callable[[int, int], Callable[[int, int], Array]],
    origin: str,
    together: int = 1,
    coding: Coding | None = None,
) -> Lazy:
    """A float32 tensor whose rows are computed.

    ``opened(first, last)`` reads what those rows are made of and gives a function of two rows,
    counted from ``first``, that computes what is between: (rows, shape[-1]). Rows are counted over
    all axes but the last. At least ``together`` of them are opened at once. With ``coding`` they
    may be :class:`CodedRows`.
    """
    width, count = shape[-1], math.prod(shape[:-1])

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
        if coding is None or start % width or stop % width or not coding.ready(type_, width):
            return None
        some = opened(first, last)
        if not isinstance(some, CodedRows):  # groups out of order, which only the file tells
            return None
        out, step = room((stop - start) * _BYTES[type_]), max(_AT_ONCE // width, 1)
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
        encoded=encoded if width and coding else None,
    )


def rows_of(lazy: Lazy, first: int, last: int) -> Array:
    """Some rows of a stored tensor, (rows, shape[-1]); rows are counted as in :func:`by_rows`."""
    width = lazy.shape[-1]
    if lazy.part is not None:
        return lazy.part(first * width, last * width).reshape(last - first, width)
    return lazy.load().reshape(-1, width)[first:last]
