"""IQ1_S and IQ1_M: three levels, groups of eight on a grid of 2,048 points.

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

from mbuild.quant.search.fits import WHOLE_HEAD, D
from mbuild.quant.search.fitting import half_bits, importance_weights
from mbuild.quant.search.grids import closest
from mbuild.quant.search.ops import (
    absolute,
    any_lane,
    clamp,
    fill,
    load,
    nearest,
    real,
    select,
    store,
    truncate,
    whole,
)
from mbuild.quant.search.points import CODE, SIGN, odd_scales

DELTA = 0.125
"""What all levels of a group are moved by (IQ1S_DELTA, IQ1M_DELTA)."""
LOWEST = -3.4028234663852886e38
"""-FLT_MAX, the score to better."""

WEIGHT, KEY, INDEX, SORTED = 96, 128, 161, 194
"""Weights of a sub-block; then its values in ascending order, with their places and weights."""
SUM_X, SUM_W = 226, 259
"""Sums of weight * x and of weight over the first 0, 1 ... of the sorted values."""
COST, SPOT = 292, 316
HALF_X, HALF_W = 317, 351
"""IQ1_M's: the same sums over the values of the first half (17 rows each), then of the second."""
ALL_X, ALL_W = 385, 641
"""IQ1_M's: the whole block's values and weights."""
ROWS_S, ROWS_M = 317, 897


def _swap(w: Any, ls: Any, i: Any, j: Any) -> None:
    """Bring values ``i`` and ``j`` into order; of equal ones the first stays the first."""
    a, b = load(w, ls, KEY + i), load(w, ls, KEY + j)
    first, second = load(w, ls, INDEX + i), load(w, ls, INDEX + j)
    wrong = (a > b) | ((a == b) & (first > second))
    for row in (KEY, INDEX, SORTED):
        one, two = load(w, ls, row + i), load(w, ls, row + j)
        low, high = select(wrong, two, one), select(wrong, one, two)
        store(w, ls, row + i, low)
        store(w, ls, row + j, high)


def _sort(w: Any, xs: Any, ls: Any, n: Any) -> None:
    """The values with places and weights in ascending order: Batcher's merging network."""
    for i in range(n):
        store(w, ls, KEY + i, load(w, xs, i))
        store(w, ls, INDEX + i, fill(w, i))
        store(w, ls, SORTED + i, load(w, ls, WEIGHT + i))
    run = 1
    while run < n:
        apart = run
        while apart > 0:
            for first in range(apart % run, n - apart, 2 * apart):
                for i in range(first, min(first + apart, n - apart)):
                    if i // (2 * run) == (i + apart) // (2 * run):
                        _swap(w, ls, i, i + apart)
            apart //= 2
        run *= 2


def _largest(w: Any, xs: Any, n: Any) -> Any:
    largest = absolute(load(w, xs, 0))
    for i in range(1, n):
        x = absolute(load(w, xs, i))
        largest = select(largest > x, largest, x)
    return largest


def _cut(w: Any, ls: Any, cut: Any, n: Any) -> Any:
    """The sorted value, and its place, at which the lanes' cut lies; beyond all at the end."""
    key, index = fill(w, np.inf), fill(w, n)
    for j in range(n):
        here = cut == fill(w, j)
        key = select(here, load(w, ls, KEY + j), key)
        index = select(here, load(w, ls, INDEX + j), index)
    return key, index


def _codes(w: Any, xs: Any, ls: Any, row: Any, cuts: Any, turned: Any, n: Any) -> None:
    """Codes of the groups, from the two cuts, into rows ``row`` ...

    Levels are counted from the other end in the lanes of ``turned``.
    """
    one, zero = fill(w, 1.0), fill(w, 0.0)
    key1, index1 = _cut(w, ls, cuts[0], n)
    key2, index2 = _cut(w, ls, cuts[1], n)
    for k in range(n // 8):
        code = whole(w, 0)
        for i in range(8):
            x, at = load(w, xs, 8 * k + i), fill(w, 8 * k + i)
            beyond1 = (x > key1) | ((x == key1) & (at >= index1))
            beyond2 = (x > key2) | ((x == key2) & (at >= index2))
            level = select(beyond1, one, zero) + select(beyond2, one, zero)
            level = select(turned, one + one - level, level)
            code = code | (truncate(level) << (2 * i))
        store(w, ls, row + k, real(code))


def _place(w: Any, grid: Any, xs: Any, ls: Any, k: Any, row: Any, scale: Any, delta: Any) -> Any:
    """Move group ``k``, whose code is in row ``row``, to the grid at this scale.

    Returns the lanes in which it was not on it.
    """
    code = truncate(load(w, ls, row))
    spot = fill(w, 0.0)
    place = np.float32(1)
    for i in range(8):
        spot = spot + real((code >> (2 * i)) & 3) * fill(w, place)
        place = place * np.float32(3)
        x, weight = load(w, xs, 8 * k + i), load(w, ls, WEIGHT + 8 * k + i)
        for j in range(3):
            difference = scale * (fill(w, j - 1) + delta) - x
            store(w, ls, COST + 3 * i + j, weight * difference * difference)
    store(w, ls, SPOT, spot)
    closest(w, grid, ls, SPOT, row, COST)
    return load(w, ls, row) != real(code)


def _add_group(w: Any, xs: Any, ls: Any, k: Any, row: Any, delta: Any, sums: Any) -> Any:
    """The sums of weight*value*x and weight*value*value with group ``k`` added."""
    sum_qx, sum_q2 = sums
    code = truncate(load(w, ls, row))
    for i in range(8):
        weight = load(w, ls, WEIGHT + 8 * k + i)
        value = real(((code >> (2 * i)) & 3) - 1) + delta
        sum_qx = sum_qx + weight * value * load(w, xs, 8 * k + i)
        sum_q2 = sum_q2 + weight * value * value
    return sum_qx, sum_q2


def _best_cuts_s(w: Any, ls: Any) -> Any:
    """(scale, first cut, second cut, shift; 0 where no cut scores) of IQ1_S."""
    zero = fill(w, 0.0)
    total_x, total_w = load(w, ls, SUM_X + 32), load(w, ls, SUM_W + 32)
    scale, best = zero, fill(w, LOWEST)
    cut1, cut2, shift = zero, zero, zero
    for i in range(33):
        low_x, low_w = load(w, ls, SUM_X + i), load(w, ls, SUM_W + i)
        for j in range(i, 33):
            upto_x, upto_w = load(w, ls, SUM_X + j), load(w, ls, SUM_W + j)
            mid_x, mid_w = upto_x - low_x, upto_w - low_w
            high_x, high_w = total_x - upto_x, total_w - upto_w
            for sign in (1, -1):
                delta = np.float32(sign) * np.float32(DELTA)
                a, b, c = fill(w, delta - np.float32(1)), fill(w, delta), fill(w, 1 + delta)
                sum_qx = low_x * a + mid_x * b + high_x * c
                sum_q2 = low_w * a * a + mid_w * b * b + high_w * c * c
                better = (sum_q2 > zero) & (sum_qx * sum_qx > best * sum_q2)
                if any_lane(better):
                    scale = select(better, sum_qx / sum_q2, scale)
                    best = select(better, scale * sum_qx, best)
                    cut1 = select(better, fill(w, i), cut1)
                    cut2 = select(better, fill(w, j), cut2)
                    shift = select(better, fill(w, sign), shift)
    return scale, cut1, cut2, shift


def iq1_s(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """One shift for 32 values."""
    zero, eighth = fill(w, 0.0), fill(w, DELTA)
    importance_weights(w, xs, qs, ls[WEIGHT:], 32, sigma2)
    _sort(w, xs, ls, 32)
    sum_x, sum_w = zero, zero
    for i in range(32):
        store(w, ls, SUM_X + i, sum_x)
        store(w, ls, SUM_W + i, sum_w)
        weight = load(w, ls, SORTED + i)
        sum_x = sum_x + weight * load(w, ls, KEY + i)
        sum_w = sum_w + weight
    store(w, ls, SUM_X + 32, sum_x)
    store(w, ls, SUM_W + 32, sum_w)
    scale, cut1, cut2, shift = _best_cuts_s(w, ls)
    empty = (_largest(w, xs, 32) < fill(w, 1e-12)) | (shift == zero)
    turned = scale < zero
    scale = select(turned, -scale, scale)
    shift = select(turned, -shift, shift)
    _codes(w, xs, ls, CODE + 4 * g, (cut1, cut2), turned, 32)
    delta = shift * eighth
    off = zero != zero
    sums = (zero, zero)
    for k in range(4):
        off = off | _place(w, grid, xs, ls, k, CODE + 4 * g + k, scale, delta)
    for k in range(4):
        sums = _add_group(w, xs, ls, k, CODE + 4 * g + k, delta, sums)
    refined = off & (sums[0] > zero) & (sums[1] > zero)
    scale = select(refined, sums[0] / sums[1], scale)
    store(w, st, g, select(empty, zero, scale))
    for k in range(4):
        row = CODE + 4 * g + k
        store(w, ls, row, select(empty, zero, load(w, ls, row)))
    down = select(shift < zero, fill(w, 1.0), zero)
    store(w, ls, SIGN + g, select(empty, zero, down))


def settle_iq1_s(w: Any, grid: Any, st: Any, it: Any, ls: Any) -> None:
    """8 scales in three bits; a block without scales has no shifts."""
    nothing = odd_scales(w, st, it, 8, 7, 1.125)
    for g in range(8):
        row = SIGN + g
        store(w, ls, row, select(nothing, fill(w, 0.0), load(w, ls, row)))


def _half_sums(w: Any, ls: Any) -> None:
    """Sums of weight * x and of weight of each half, over the first 0, 1 ... sorted values."""
    zero = fill(w, 0.0)
    for half in range(2):
        sum_x, sum_w = zero, zero
        for j in range(16):
            store(w, ls, HALF_X + 17 * half + j, sum_x)
            store(w, ls, HALF_W + 17 * half + j, sum_w)
            second = load(w, ls, INDEX + j) >= fill(w, 8.0)
            mine = second if half else ~second
            weight = load(w, ls, SORTED + j)
            sum_x = select(mine, sum_x + weight * load(w, ls, KEY + j), sum_x)
            sum_w = select(mine, sum_w + weight, sum_w)
        store(w, ls, HALF_X + 17 * half + 16, sum_x)
        store(w, ls, HALF_W + 17 * half + 16, sum_w)


def _half_scores(w: Any, ls: Any, half: Any, i: Any, j: Any, sign: Any) -> Any:
    """Sums of weight * level * x and weight * level * level of a half cut at ``i`` and ``j``.

    Levels are one apart, so a cut at ``j`` takes a value's x once from the sum at the top level.
    """
    delta = np.float32(sign) * np.float32(DELTA)
    low, mid, top = delta - np.float32(1), delta, delta + np.float32(1)
    x, weight = HALF_X + 17 * half, HALF_W + 17 * half
    below = load(w, ls, x + i) + load(w, ls, x + j)
    sum_qx = load(w, ls, x + 16) * fill(w, top) - below
    sum_q2 = load(w, ls, weight + 16) * fill(w, top) * fill(w, top)
    sum_q2 = sum_q2 + load(w, ls, weight + i) * fill(w, low * low - mid * mid)
    return sum_qx, sum_q2 + load(w, ls, weight + j) * fill(w, mid * mid - top * top)


def _better_cut(w: Any, best: Any, first: Any, second: Any, i: Any, j: Any, kind: Any) -> Any:
    """The best cut so far, or this one, of whose halves the sums are given."""
    scale, score, cut1, cut2, shift = best
    sum_qx, sum_q2 = first[0] + second[0], first[1] + second[1]
    better = (sum_q2 > fill(w, 0.0)) & (sum_qx * sum_qx > score * sum_q2)
    if any_lane(better):
        scale = select(better, sum_qx / sum_q2, scale)
        score = select(better, scale * sum_qx, score)
        cut1 = select(better, fill(w, i), cut1)
        cut2 = select(better, fill(w, j), cut2)
        shift = select(better, fill(w, kind), shift)
    return scale, score, cut1, cut2, shift


def _best_cuts_m(w: Any, ls: Any) -> Any:
    """(scale, first cut, second cut, kind of shift; -1 where no cut scores) of IQ1_M.

    Kinds 0 ... 3 move (first half, second half) up and up, up and down, down and up,
    down and down.
    """
    zero = fill(w, 0.0)
    best = (zero, fill(w, LOWEST), zero, zero, fill(w, -1.0))
    for i in range(17):
        for j in range(i, 17):
            up1, down1 = _half_scores(w, ls, 0, i, j, 1), _half_scores(w, ls, 0, i, j, -1)
            up2, down2 = _half_scores(w, ls, 1, i, j, 1), _half_scores(w, ls, 1, i, j, -1)
            best = _better_cut(w, best, up1, up2, i, j, 0)
            best = _better_cut(w, best, up1, down2, i, j, 1)
            best = _better_cut(w, best, down1, up2, i, j, 2)
            best = _better_cut(w, best, down1, down2, i, j, 3)
    scale, _, cut1, cut2, shift = best
    return scale, cut1, cut2, shift


def _search_m(w: Any, grid: Any, xs: Any, ls: Any, st: Any, g: Any) -> None:
    """One sub-block of IQ1_M, its weights given."""
    zero, one = fill(w, 0.0), fill(w, 1.0)
    for i in range(16):
        store(w, ls, ALL_X + 16 * g + i, load(w, xs, i))
        store(w, ls, ALL_W + 16 * g + i, load(w, ls, WEIGHT + i))
    _sort(w, xs, ls, 16)
    _half_sums(w, ls)
    scale, cut1, cut2, shift = _best_cuts_m(w, ls)
    empty = (_largest(w, xs, 16) < fill(w, 1e-7)) | (shift < zero)
    turned = scale < zero
    scale = select(turned, -scale, scale)
    shift = select(turned, fill(w, 3.0) - shift, shift)
    _codes(w, xs, ls, CODE + 2 * g, (cut1, cut2), turned, 16)
    down1 = select(shift >= fill(w, 2.0), one, zero)
    down2 = shift - down1 - down1
    off = zero != zero
    sums = (zero, zero)
    for k in range(2):
        delta = _delta(w, down1 if k == 0 else down2)
        off = off | _place(w, grid, xs, ls, k, CODE + 2 * g + k, scale, delta)
        sums = _add_group(w, xs, ls, k, CODE + 2 * g + k, delta, sums)
    refined = off & (sums[0] > zero) & (sums[1] > zero)
    scale = select(refined, sums[0] / sums[1], scale)
    store(w, st, g, select(empty, zero, scale))
    for k in range(2):
        row = CODE + 2 * g + k
        store(w, ls, row, select(empty, zero, load(w, ls, row)))
        store(w, ls, SIGN + 2 * g + k, select(empty, zero, down1 if k == 0 else down2))


def _delta(w: Any, down: Any) -> Any:
    """An eighth up, or down where ``down`` is 1."""
    return fill(w, DELTA) - down * fill(w, 2 * DELTA)


def iq1_m(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """Without importances: weights x*x."""
    for i in range(16):
        x = load(w, xs, i)
        store(w, ls, WEIGHT + i, x * x)
    _search_m(w, grid, xs, ls, st, g)


def iq1_m_weighted(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """A shift for each of 16 values' halves."""
    importance_weights(w, xs, qs, ls[WEIGHT:], 16, sigma2)
    _search_m(w, grid, xs, ls, st, g)


def settle_iq1_m(w: Any, grid: Any, st: Any, it: Any, ls: Any) -> None:
    """16 scales in three bits; the step comes from least squares over the whole block."""
    zero, one, half = fill(w, 0.0), fill(w, 1.0), fill(w, 0.5)
    top = zero
    for g in range(16):
        scale = load(w, st, g)
        top = select(top > scale, top, scale)
    some = top != zero
    d = top / fill(w, 15.0)
    inverse = one / d
    sum_qx, sum_q2 = zero, zero
    for g in range(16):
        level = clamp(nearest(half * (inverse * load(w, st, g) - one)), 0, 7)
        store(w, it, WHOLE_HEAD + g, select(some, level, whole(w, 0)))
        factor = real(level + level + 1)
        for k in range(2):
            delta = _delta(w, load(w, ls, SIGN + 2 * g + k))
            code = truncate(load(w, ls, CODE + 2 * g + k))
            for i in range(8):
                row = 16 * g + 8 * k + i
                weight = load(w, ls, ALL_W + row)
                value = (real(((code >> (2 * i)) & 3) - 1) + delta) * factor
                sum_qx = sum_qx + weight * value * load(w, ls, ALL_X + row)
                sum_q2 = sum_q2 + weight * value * value
    d = select(sum_q2 > zero, sum_qx / sum_q2, d)
    store(w, it, D, half_bits(w, select(some, d * fill(w, 1.1125), zero)))
    for row in range(SIGN, SIGN + 32):
        store(w, ls, row, select(some, load(w, ls, row), zero))
