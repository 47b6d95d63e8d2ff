"""A large matrix that is transposed: read once in the file's order, handed out in strips.

A strip is some rows of the transposed matrix, so some columns of the stored one, and no file can
be read in such steps. So each band of stored rows is read once and taken apart into its share of
every strip (:class:`mbuild.convert.read.once.Apart`); the other strips' shares wait there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.once import Apart

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
    Cut = Callable[[int, int], Array]

LARGE = 1 << 25
"""Values of a matrix from which on it is made in strips; smaller ones are turned as a whole."""

STRIP = 1 << 22
"""Values of a strip: as many as a build asks for at once."""

_SPREAD = 0.618
"""Where in the matrix the next strip begins to read, so that threads read different bands."""


def in_strips(cut: Cut, shape: Sequence[int], grain: int) -> tuple[Cut, int] | None:
    """Values between two places of matrices whose last two axes are exchanged, and their grain.

    ``cut`` gives those of the stored ones, of this ``shape``, ``grain`` of them at once. None for
    matrices that are not large, and for those that cannot be had by whole rows.
    """
    if len(shape) < 2:
        return None
    (rows, columns), count = shape[-2:], math.prod(shape[:-2])
    each, strip = rows * columns, max(1, min(STRIP // max(rows, 1), columns))
    if each < LARGE or columns % grain:
        return None
    if count > 1:  # strips of all matrices begin at multiples of one number
        strip = next(width for width in range(strip, 0, -1) if columns % width == 0)
    turned = [
        TurnedMatrix(_from(cut, number * each), rows, columns, strip) for number in range(count)
    ]

    def part(start: int, stop: int) -> Array:
        import numpy as np

        found = []
        while start < stop:
            number, first = divmod(start, each)
            last = min(first + stop - start, each)
            found.append(turned[number].part(first, last))
            start += last - first
        return found[0] if len(found) == 1 else np.concatenate(found)

    return part, strip * rows


def _from(cut: Cut, first: int) -> Cut:
    """The values of one matrix among several."""
    return lambda start, stop: cut(first + start, first + stop)


class TurnedMatrix:
    """The transposed of a matrix of ``rows`` and ``columns``, whose values ``cut`` gives.

    It is made in strips of so many of its rows. Any thread may ask for any part.
    """

    def __init__(self, cut: Cut, rows: int, columns: int, strip: int) -> None:
        self._rows, self._columns, self._width = rows, columns, strip

        def band(first: int, last: int) -> Array:
            return cut(first * columns, last * columns).reshape(last - first, columns)

        shares = [_share(first, first + strip) for first in range(0, columns, strip)]
        self._apart = Apart(band, shares, rows, columns)

    def part(self, start: int, stop: int) -> Array:
        """The values between two places of the transposed matrix, flat."""
        import numpy as np

        size = self._width * self._rows
        first, last = start // size, -(-stop // size)
        found = [self._strip(number) for number in range(first, last)]
        flat = found[0] if len(found) == 1 else np.concatenate(found)
        return flat[start - first * size : stop - first * size]

    def _strip(self, number: int) -> Array:
        """A strip's values, flat, put together of its shares of all bands."""
        from mbuild.gguf.memory import room

        step = self._apart.step
        bands = range(0, self._rows, step)
        width = min(self._width, self._columns - number * self._width)
        begin = int(number * _SPREAD * len(bands)) % len(bands)
        out: Array | None = None
        for at in (*bands[begin:], *bands[:begin]):
            last = min(at + step, self._rows)
            share = self._apart.take(number, at, last).reshape(width, last - at)
            if out is None:
                flat = room(width * self._rows * share.itemsize).view(share.dtype)
                out = flat.reshape(width, self._rows)
            out[:, at:last] = share
        assert out is not None
        return out.reshape(-1)


def _share(first: int, last: int) -> Callable[[Array], Array]:
    """What a strip has of a band."""
    return lambda values: values[:, first:last].T
