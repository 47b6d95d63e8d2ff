"""What searches read and write: columns, each row of which holds one number of every lane.

The lanes are blocks (:mod:`mbuild.quant.search.ops`), so a row of a column is a vector. Numba
takes these values apart where it inlines the functions that get them: they cost nothing.
"""

from __future__ import annotations

from typing import Any

from mbuild.core.values import NamedTuple


class Columns(NamedTuple):
    """The columns of a tile of blocks, or in numpy of all blocks.

    A *fit* function is given them for one sub-block after the other, and leaves its findings in
    ``found``, ``whole`` and ``scratch``; a *settle* function then looks at the whole block.
    Columns are float32 but for ``whole`` and ``spots``, which are int32.
    """

    values: Any
    """A sub-block's values."""
    importances: Any
    """Their importances; of no meaning where none are given."""
    weights: Any
    """Scratch: what the values' errors are multiplied by."""
    scratch: Any
    """Scratch, which stays from sub-block to sub-block: levels, or the rows named below."""
    found: Any
    """What was found of each sub-block: :mod:`mbuild.quant.search.findings` names the rows."""
    whole: Any
    """What is stored of a block's scales: rows D, DMIN, then the sub-blocks' scales and minima."""
    spots: Any
    """Scratch of the types on grids: a group's spots, and then codes, at each step."""
    grid: Any
    """The grid's table (:class:`mbuild.quant.search.grids.GridTable`), or None."""


class Sub(NamedTuple):
    """A sub-block, or the scales of a block, as the search for one scale sees it.

    ``n`` values and their weights; levels go up to ``nmax`` and come to stand in ``levels``.
    """

    values: Any
    weights: Any
    levels: Any
    n: Any
    nmax: Any


D, DMIN, WHOLE_HEAD = 0, 1, 2
"""Rows of the whole columns: the float16 patterns, then ``subs`` scales, then ``subs`` minima."""

STEPS = 32
"""Rows that one group takes in columns of spots: one for each scale that is tried."""

CODE, SIGN = 0, 64
"""Rows of the scratch columns of types on grids that their blocks are written from: 64 codes,
32 bytes of signs."""
VALUE, WEIGHT, ROOT, PRODUCT = 96, 128, 160, 192
"""Magnitudes, weights, the weights' roots, and weight * magnitude of a sub-block; the columns of
weights are these rows."""
SCALES = 224
"""The scales that are tried."""
REACH = SCALES + STEPS
"""The largest magnitude, that of a value which stays negative included."""
ROWS = REACH + 1
SPOT_ROWS = 8 * STEPS
"""Rows of the columns of spots."""

KEY, INDEX, SORTED = 96, 161, 194
"""IQ1: the values in ascending order, with their places and weights."""
SUM_X, SUM_W = 226, 259
"""Sums of weight * x and of weight over the first 0, 1 ... of the sorted values."""
COST, SPOT = 292, 316
"""What each level of each of eight values costs; the spot of a group."""
HALF_X, HALF_W = 317, 351
"""IQ1_M: the same sums over the values of the first half (17 rows each), then of the second."""
ALL_X, ALL_W = 385, 641
"""IQ1_M: the whole block's values and weights."""
ROWS_S, ROWS_M = 317, 897
"""Rows of the scratch columns of IQ1_S and of IQ1_M."""
