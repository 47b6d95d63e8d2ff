"""Values that lie here and there in a tensor, or one behind the other in several."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mbuild.core.values import FrozenValue

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from mbuild.gguf.types import GGMLType

    Array = np.ndarray[Any, np.dtype[Any]]


class SpreadRuns(FrozenValue):
    """The values of runs of one ``length``, which begin at ``places`` among those of ``cut``."""

    cut: Callable[[int, int], Array]
    length: int
    places: Sequence[int]

    def __call__(self, start: int, stop: int) -> Array:
        """The values between two places, which count only what is in the runs."""
        import numpy as np

        found = []
        while start < stop:
            number, at = divmod(start, self.length)
            count = min(stop - start, self.length - at)
            begin = self.places[number] + at
            found.append(self.cut(begin, begin + count))
            start += count
        return found[0] if len(found) == 1 else np.concatenate(found)


class Pieces(FrozenValue):
    """The values of tensors one behind the other, each with its own way to a part of them."""

    cuts: tuple[Callable[[int, int], Array], ...]
    sizes: tuple[int, ...]

    def __call__(self, start: int, stop: int) -> Array:
        """The values between two places in all of them together."""
        import numpy as np

        found, at = [], 0
        for cut, size in zip(self.cuts, self.sizes, strict=True):
            first, last = max(start - at, 0), min(stop - at, size)
            if first < last:
                found.append(cut(first, last))
            at += size
        return found[0] if len(found) == 1 else np.concatenate(found)


class MovedBytes(FrozenValue):
    """The bytes of a tensor's values, moved by ``change`` at each position of the first axis.

    ``made(start, stop, type)`` gives those of the values before, as :attr:`Lazy.encoded` does. A
    position had the shape ``before``, and has ``after`` values.
    """

    made: Callable[[int, int, GGMLType], Array | None]
    before: tuple[int, ...]
    after: int
    change: Callable[[Array], Array]

    def __call__(self, start: int, stop: int, type_: GGMLType) -> Array | None:
        """The bytes between two places of whole positions; None where they are not made."""
        from mbuild.convert.read.dtypes import contiguous

        if start % self.after or stop % self.after:
            return None
        first, last, each = start // self.after, stop // self.after, math.prod(self.before)
        flat = self.made(first * each, last * each, type_)
        if flat is None:
            return None
        values = flat.view(f"u{flat.size // ((last - first) * each)}")
        return (
            contiguous(self.change(values.reshape(last - first, *self.before)))
            .reshape(-1)
            .view("u1")
        )
