"""The search of IQ1_S and IQ1_M: three levels, groups of eight on a grid of 2,048 points.

A level stands for -1, 0 or 1, all moved by an eighth up or down: IQ1_S decides which
for a sub-block of 32 values, IQ1_M for each eight of its 16. The search sorts the
sub-block and tries every way to cut it into the three levels. Only then the groups are
moved to the grid. Written once for both engines, after ``quantize_row_iq1_s_impl`` and
``quantize_row_iq1_m_impl`` of ``ggml-quants.c``; fits and settle functions take what
those of :mod:`mbuild.quant.search.points` take, and leave in row SIGN + 2 g and 2 g + 1 whether
the groups' levels are moved down (IQ1_S: in row SIGN + g).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.quant.search.columns import COST, INDEX, KEY, SORTED, SPOT, WEIGHT, Columns
from mbuild.quant.search.grids import closest
from mbuild.quant.search.ops import absolute, fill, load, real, select, store, truncate, whole

DELTA = 0.125
"""What all levels of a group are moved by (IQ1S_DELTA, IQ1M_DELTA)."""
LOWEST = -3.4028234663852886e38
"""-FLT_MAX, the score to better."""


def _swap(w: Any, c: Columns, i: Any, j: Any) -> None:
    """Bring values ``i`` and ``j`` into order; of equal ones the first stays the first."""
    a, b = load(w, c.scratch, KEY + i), load(w, c.scratch, KEY + j)
    first, second = load(w, c.scratch, INDEX + i), load(w, c.scratch, INDEX + j)
    wrong = (a > b) | ((a == b) & (first > second))
    for row in (KEY, INDEX, SORTED):
        one, two = load(w, c.scratch, row + i), load(w, c.scratch, row + j)
        low, high = select(wrong, two, one), select(wrong, one, two)
        store(w, c.scratch, row + i, low)
        store(w, c.scratch, row + j, high)


def sort(w: Any, c: Columns, n: Any) -> None:
    """The values with places and weights in ascending order: Batcher's merging network."""
    for i in range(n):
        store(w, c.scratch, KEY + i, load(w, c.values, i))
        store(w, c.scratch, INDEX + i, fill(w, i))
        store(w, c.scratch, SORTED + i, load(w, c.scratch, WEIGHT + i))
    run = 1
    while run < n:
        apart = run
        while apart > 0:
            for first in range(apart % run, n - apart, 2 * apart):
                for i in range(first, min(first + apart, n - apart)):
                    if i // (2 * run) == (i + apart) // (2 * run):
                        _swap(w, c, i, i + apart)
            apart //= 2
        run *= 2


def largest(w: Any, c: Columns, n: Any) -> Any:
    """The largest magnitude of ``n`` values."""
    largest = absolute(load(w, c.values, 0))
    for i in range(1, n):
        x = absolute(load(w, c.values, i))
        largest = select(largest > x, largest, x)
    return largest


def _cut(w: Any, c: Columns, cut: Any, n: Any) -> Any:
    """The sorted value, and its place, at which the lanes' cut lies; beyond all at the end."""
    key, index = fill(w, np.inf), fill(w, n)
    for j in range(n):
        here = cut == fill(w, j)
        key = select(here, load(w, c.scratch, KEY + j), key)
        index = select(here, load(w, c.scratch, INDEX + j), index)
    return key, index


def codes(w: Any, c: Columns, row: Any, cuts: Any, n: Any) -> None:
    """Codes of the groups into rows ``row`` ...

    ``cuts`` are two places between the sorted values, and the lanes whose levels are counted
    from the other end.
    """
    one, zero = fill(w, 1.0), fill(w, 0.0)
    cut1, cut2, turned = cuts
    key1, index1 = _cut(w, c, cut1, n)
    key2, index2 = _cut(w, c, cut2, n)
    for k in range(n // 8):
        code = whole(w, 0)
        for i in range(8):
            x, at = load(w, c.values, 8 * k + i), fill(w, 8 * k + i)
            beyond1 = (x > key1) | ((x == key1) & (at >= index1))
            beyond2 = (x > key2) | ((x == key2) & (at >= index2))
            level = select(beyond1, one, zero) + select(beyond2, one, zero)
            level = select(turned, one + one - level, level)
            code = code | (truncate(level) << (2 * i))
        store(w, c.scratch, row + k, real(code))


def place_group(w: Any, c: Columns, group: Any, scale: Any, delta: Any) -> Any:
    """Move a group, given its number and its code's row, to the grid at this scale.

    Returns the lanes in which it was not on it.
    """
    k, row = group
    code = truncate(load(w, c.scratch, row))
    spot = fill(w, 0.0)
    place = np.float32(1)
    for i in range(8):
        spot = spot + real((code >> (2 * i)) & 3) * fill(w, place)
        place = place * np.float32(3)
        x, weight = load(w, c.values, 8 * k + i), load(w, c.scratch, WEIGHT + 8 * k + i)
        for j in range(3):
            difference = scale * (fill(w, j - 1) + delta) - x
            store(w, c.scratch, COST + 3 * i + j, weight * difference * difference)
    store(w, c.scratch, SPOT, spot)
    closest(w, c, row)
    return load(w, c.scratch, row) != real(code)


def add_group(w: Any, c: Columns, group: Any, delta: Any, sums: Any) -> Any:
    """The sums of weight*value*x and weight*value*value with a group added."""
    k, row = group
    sum_qx, sum_q2 = sums
    code = truncate(load(w, c.scratch, row))
    for i in range(8):
        weight = load(w, c.scratch, WEIGHT + 8 * k + i)
        value = real(((code >> (2 * i)) & 3) - 1) + delta
        sum_qx = sum_qx + weight * value * load(w, c.values, 8 * k + i)
        sum_q2 = sum_q2 + weight * value * value
    return sum_qx, sum_q2
