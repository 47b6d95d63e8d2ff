"""How far quantized values are from those that they were made of.

The measure is a relative one: the root of the squares of all differences over the squares of
all values, so that tensors of other sizes and scales compare. With importances each square
counts as often as its column's importance says: then it is the error of the products that the
tensor takes part in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbuild.core.values import NamedTuple

Reals = NDArray[np.float32]


class Squares(NamedTuple):
    """Sums of squares (float64): of the differences, and of the values that were quantized."""

    off: float = 0.0
    whole: float = 0.0

    def plus(self, other: Squares) -> Squares:
        """Both together."""
        return Squares(self.off + other.off, self.whole + other.whole)

    @property
    def relative(self) -> float:
        """The relative error; of values that are all zero 0, or infinity where they are not."""
        if self.whole > 0:
            return float(np.sqrt(self.off / self.whole))
        return 0.0 if self.off == 0 else float("inf")


def squares(
    before: Reals, after: Reals, importances: NDArray[Any] | None = None, columns: int = 0
) -> Squares:
    """The sums over some values of rows of ``columns``.

    ``importances`` are those of the columns, or of each of several matrices that the values
    are, one after the other.
    """
    off = after.astype(np.float64)
    off -= before
    off *= off
    whole = before.astype(np.float64)
    whole *= whole
    if importances is not None:
        table = importances.reshape(-1, 1, columns)
        for part in (off, whole):
            matrices = part.reshape(len(table), -1, columns)
            matrices *= table
    return Squares(float(off.sum()), float(whole.sum()))
