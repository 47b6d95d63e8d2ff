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

from mbuild.quant.search.columns import (
    ALL_W,
    ALL_X,
    CODE,
    COST,
    HALF_W,
    HALF_X,
    INDEX,
    KEY,
    SIGN,
    SORTED,
    SPOT,
    SUM_W,
    SUM_X,
    WEIGHT,
    WHOLE_HEAD,
    Columns,
    D,
)
from mbuild.quant.search.fitting import importance_weights
from mbuild.quant.search.grids import closest
from mbuild.quant.search.halves import half_bits
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
from mbuild.quant.search.points import odd_scales

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


def _sort(w: Any, c: Columns, n: Any) -> None:
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


def _largest(w: Any, c: Columns, n: Any) -> Any:
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


def _codes(w: Any, c: Columns, row: Any, cuts: Any, n: Any) -> None:
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


def _place(w: Any, c: Columns, group: Any, scale: Any, delta: Any) -> Any:
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


def _add_group(w: Any, c: Columns, group: Any, delta: Any, sums: Any) -> Any:
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


def _best_cuts_s(w: Any, c: Columns) -> Any:
    """(scale, first cut, second cut, shift; 0 where no cut scores) of IQ1_S."""
    zero = fill(w, 0.0)
    total_x, total_w = load(w, c.scratch, SUM_X + 32), load(w, c.scratch, SUM_W + 32)
    scale, best = zero, fill(w, LOWEST)
    cut1, cut2, shift = zero, zero, zero
    for i in range(33):
        low_x, low_w = load(w, c.scratch, SUM_X + i), load(w, c.scratch, SUM_W + i)
        for j in range(i, 33):
            upto_x, upto_w = load(w, c.scratch, SUM_X + j), load(w, c.scratch, SUM_W + j)
            mid_x, mid_w = upto_x - low_x, upto_w - low_w
            high_x, high_w = total_x - upto_x, total_w - upto_w
            for sign in (1, -1):
                delta = np.float32(sign) * np.float32(DELTA)
                low, mid, high = fill(w, delta - np.float32(1)), fill(w, delta), fill(w, 1 + delta)
                sum_qx = low_x * low + mid_x * mid + high_x * high
                sum_q2 = low_w * low * low + mid_w * mid * mid + high_w * high * high
                better = (sum_q2 > zero) & (sum_qx * sum_qx > best * sum_q2)
                if any_lane(better):
                    scale = select(better, sum_qx / sum_q2, scale)
                    best = select(better, scale * sum_qx, best)
                    cut1 = select(better, fill(w, i), cut1)
                    cut2 = select(better, fill(w, j), cut2)
                    shift = select(better, fill(w, sign), shift)
    return scale, cut1, cut2, shift


def iq1_s(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """One shift for 32 values."""
    zero, eighth = fill(w, 0.0), fill(w, DELTA)
    importance_weights(w, c, 32, sigma2)
    _sort(w, c, 32)
    sum_x, sum_w = zero, zero
    for i in range(32):
        store(w, c.scratch, SUM_X + i, sum_x)
        store(w, c.scratch, SUM_W + i, sum_w)
        weight = load(w, c.scratch, SORTED + i)
        sum_x = sum_x + weight * load(w, c.scratch, KEY + i)
        sum_w = sum_w + weight
    store(w, c.scratch, SUM_X + 32, sum_x)
    store(w, c.scratch, SUM_W + 32, sum_w)
    scale, cut1, cut2, shift = _best_cuts_s(w, c)
    empty = (_largest(w, c, 32) < fill(w, 1e-12)) | (shift == zero)
    turned = scale < zero
    scale = select(turned, -scale, scale)
    shift = select(turned, -shift, shift)
    _codes(w, c, CODE + 4 * g, (cut1, cut2, turned), 32)
    delta = shift * eighth
    off = zero != zero
    sums = (zero, zero)
    for k in range(4):
        off = off | _place(w, c, (k, CODE + 4 * g + k), scale, delta)
    for k in range(4):
        sums = _add_group(w, c, (k, CODE + 4 * g + k), delta, sums)
    refined = off & (sums[0] > zero) & (sums[1] > zero)
    scale = select(refined, sums[0] / sums[1], scale)
    store(w, c.found, g, select(empty, zero, scale))
    for k in range(4):
        row = CODE + 4 * g + k
        store(w, c.scratch, row, select(empty, zero, load(w, c.scratch, row)))
    down = select(shift < zero, fill(w, 1.0), zero)
    store(w, c.scratch, SIGN + g, select(empty, zero, down))


def settle_iq1_s(w: Any, c: Columns) -> None:
    """8 scales in three bits; a block without scales has no shifts."""
    nothing = odd_scales(w, c, 8, 7, 1.125)
    for g in range(8):
        row = SIGN + g
        store(w, c.scratch, row, select(nothing, fill(w, 0.0), load(w, c.scratch, row)))


def _half_sums(w: Any, c: Columns) -> None:
    """Sums of weight * x and of weight of each half, over the first 0, 1 ... sorted values."""
    zero = fill(w, 0.0)
    for half in range(2):
        sum_x, sum_w = zero, zero
        for j in range(16):
            store(w, c.scratch, HALF_X + 17 * half + j, sum_x)
            store(w, c.scratch, HALF_W + 17 * half + j, sum_w)
            second = load(w, c.scratch, INDEX + j) >= fill(w, 8.0)
            mine = second if half else ~second
            weight = load(w, c.scratch, SORTED + j)
            sum_x = select(mine, sum_x + weight * load(w, c.scratch, KEY + j), sum_x)
            sum_w = select(mine, sum_w + weight, sum_w)
        store(w, c.scratch, HALF_X + 17 * half + 16, sum_x)
        store(w, c.scratch, HALF_W + 17 * half + 16, sum_w)


def _half_scores(w: Any, c: Columns, half: Any, cut: Any, sign: Any) -> Any:
    """Sums of weight * level * x and weight * level * level of a half cut at two places.

    Levels are one apart, so a cut at ``j`` takes a value's x once from the sum at the top level.
    """
    i, j = cut
    delta = np.float32(sign) * np.float32(DELTA)
    low, mid, top = delta - np.float32(1), delta, delta + np.float32(1)
    x, weight = HALF_X + 17 * half, HALF_W + 17 * half
    below = load(w, c.scratch, x + i) + load(w, c.scratch, x + j)
    sum_qx = load(w, c.scratch, x + 16) * fill(w, top) - below
    sum_q2 = load(w, c.scratch, weight + 16) * fill(w, top) * fill(w, top)
    sum_q2 = sum_q2 + load(w, c.scratch, weight + i) * fill(w, low * low - mid * mid)
    return sum_qx, sum_q2 + load(w, c.scratch, weight + j) * fill(w, mid * mid - top * top)


def _better_cut(w: Any, best: Any, halves: Any, cut: Any, kind: Any) -> Any:
    """The best cut so far, or this one, of whose halves the sums are given."""
    scale, score, cut1, cut2, shift = best
    first, second = halves
    sum_qx, sum_q2 = first[0] + second[0], first[1] + second[1]
    better = (sum_q2 > fill(w, 0.0)) & (sum_qx * sum_qx > score * sum_q2)
    if any_lane(better):
        scale = select(better, sum_qx / sum_q2, scale)
        score = select(better, scale * sum_qx, score)
        cut1 = select(better, fill(w, cut[0]), cut1)
        cut2 = select(better, fill(w, cut[1]), cut2)
        shift = select(better, fill(w, kind), shift)
    return scale, score, cut1, cut2, shift


def _best_cuts_m(w: Any, c: Columns) -> Any:
    """(scale, first cut, second cut, kind of shift; -1 where no cut scores) of IQ1_M.

    Kinds 0 ... 3 move (first half, second half) up and up, up and down, down and up,
    down and down.
    """
    zero = fill(w, 0.0)
    best = (zero, fill(w, LOWEST), zero, zero, fill(w, -1.0))
    for i in range(17):
        for j in range(i, 17):
            cut = i, j
            up1, down1 = _half_scores(w, c, 0, cut, 1), _half_scores(w, c, 0, cut, -1)
            up2, down2 = _half_scores(w, c, 1, cut, 1), _half_scores(w, c, 1, cut, -1)
            best = _better_cut(w, best, (up1, up2), cut, 0)
            best = _better_cut(w, best, (up1, down2), cut, 1)
            best = _better_cut(w, best, (down1, up2), cut, 2)
            best = _better_cut(w, best, (down1, down2), cut, 3)
    scale, _, cut1, cut2, shift = best
    return scale, cut1, cut2, shift


def _search_m(w: Any, c: Columns, g: Any) -> None:
    """One sub-block of IQ1_M, its weights given."""
    zero, one = fill(w, 0.0), fill(w, 1.0)
    for i in range(16):
        store(w, c.scratch, ALL_X + 16 * g + i, load(w, c.values, i))
        store(w, c.scratch, ALL_W + 16 * g + i, load(w, c.scratch, WEIGHT + i))
    _sort(w, c, 16)
    _half_sums(w, c)
    scale, cut1, cut2, shift = _best_cuts_m(w, c)
    empty = (_largest(w, c, 16) < fill(w, 1e-7)) | (shift < zero)
    turned = scale < zero
    scale = select(turned, -scale, scale)
    shift = select(turned, fill(w, 3.0) - shift, shift)
    _codes(w, c, CODE + 2 * g, (cut1, cut2, turned), 16)
    down1 = select(shift >= fill(w, 2.0), one, zero)
    down2 = shift - down1 - down1
    off = zero != zero
    sums = (zero, zero)
    for k in range(2):
        delta = _delta(w, down1 if k == 0 else down2)
        off = off | _place(w, c, (k, CODE + 2 * g + k), scale, delta)
        sums = _add_group(w, c, (k, CODE + 2 * g + k), delta, sums)
    refined = off & (sums[0] > zero) & (sums[1] > zero)
    scale = select(refined, sums[0] / sums[1], scale)
    store(w, c.found, g, select(empty, zero, scale))
    for k in range(2):
        row = CODE + 2 * g + k
        store(w, c.scratch, row, select(empty, zero, load(w, c.scratch, row)))
        store(w, c.scratch, SIGN + 2 * g + k, select(empty, zero, down1 if k == 0 else down2))


def _delta(w: Any, down: Any) -> Any:
    """An eighth up, or down where ``down`` is 1."""
    return fill(w, DELTA) - down * fill(w, 2 * DELTA)


def iq1_m(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Without importances: weights x*x."""
    for i in range(16):
        x = load(w, c.values, i)
        store(w, c.scratch, WEIGHT + i, x * x)
    _search_m(w, c, g)


def iq1_m_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """A shift for each of 16 values' halves."""
    importance_weights(w, c, 16, sigma2)
    _search_m(w, c, g)


def settle_iq1_m(w: Any, c: Columns) -> None:
    """16 scales in three bits; the step comes from least squares over the whole block."""
    zero, one, half = fill(w, 0.0), fill(w, 1.0), fill(w, 0.5)
    top = zero
    for g in range(16):
        scale = load(w, c.found, g)
        top = select(top > scale, top, scale)
    some = top != zero
    d = top / fill(w, 15.0)
    inverse = one / d
    sum_qx, sum_q2 = zero, zero
    for g in range(16):
        level = clamp(nearest(half * (inverse * load(w, c.found, g) - one)), 0, 7)
        store(w, c.whole, WHOLE_HEAD + g, select(some, level, whole(w, 0)))
        factor = real(level + level + 1)
        for k in range(2):
            delta = _delta(w, load(w, c.scratch, SIGN + 2 * g + k))
            code = truncate(load(w, c.scratch, CODE + 2 * g + k))
            for i in range(8):
                row = 16 * g + 8 * k + i
                weight = load(w, c.scratch, ALL_W + row)
                value = (real(((code >> (2 * i)) & 3) - 1) + delta) * factor
                sum_qx = sum_qx + weight * value * load(w, c.scratch, ALL_X + row)
                sum_q2 = sum_q2 + weight * value * value
    d = select(sum_q2 > zero, sum_qx / sum_q2, d)
    store(w, c.whole, D, half_bits(w, select(some, d * fill(w, 1.1125), zero)))
    for row in range(SIGN, SIGN + 32):
        store(w, c.scratch, row, select(some, load(w, c.scratch, row), zero))
