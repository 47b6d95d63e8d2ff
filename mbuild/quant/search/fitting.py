"""The searches for scales and minima, written once for both engines.

Every function runs the scalar algorithm of ggml's reference quantizers
(``ggml-quants.c``) in each lane, with its float32 operations in its order; see
:mod:`mbuild.quant.search.ops` for what vectors are and how two engines run this text.
Branches of the scalar program become selections. A sub-block ``s``
(:class:`mbuild.quant.search.columns.Sub`) holds its values as columns: row ``i`` has
value ``i`` of every lane.

The reference keeps the levels that its search chose and overwrites them where
the sub-block's final scale is not zero. Here a search returns what the levels
follow from instead, and they are computed again where they are needed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.quant.search.columns import Columns, Sub
from mbuild.quant.search.ops import (
    absolute,
    any_lane,
    clamp,
    confine,
    fill,
    floor,
    load,
    lookup,
    nearest,
    real,
    root,
    rounded,
    select,
    store,
    truncate,
    whole,
)

LIMIT = 2.0**22
"""Below it a product can be rounded as a real number; at it the reference's rounding wraps."""
TINY = 1e-15
"""A sub-block whose magnitudes stay below this counts as zero (GROUP_MAX_EPS)."""


def sum_of_squares(w: Any, xs: Any, n: int, total: Any) -> Any:
    """``total`` with x*x of ``n`` rows added to it one after the other."""
    for i in range(n):
        x = load(w, xs, i)
        total = total + x * x
    return total


def importance_weights(w: Any, c: Columns, n: int, sigma2: Any) -> Any:
    """Fill the weights with q * sqrt(sigma2 + x*x), q being importances; returns their sum."""
    total = fill(w, 0.0)
    for i in range(n):
        x = load(w, c.values, i)
        weight = load(w, c.importances, i) * root(sigma2 + x * x)
        store(w, c.weights, i, weight)
        total = total + weight
    return total


def _affine_error(w: Any, s: Sub, scale: Any, low: Any, mad: Any) -> Any:
    """The weighted error of ``scale * level + low``: squared, or absolute where ``mad``."""
    error = fill(w, 0.0)
    for i in range(s.n):
        difference = scale * load(w, s.levels, i) + low - load(w, s.values, i)
        if mad:
            error = error + load(w, s.weights, i) * absolute(difference)
        else:
            error = error + load(w, s.weights, i) * (difference * difference)
    return error


def _affine_start(w: Any, s: Sub) -> Any:
    """(least value or 0, greatest value, sum of weights, sum of weighted values)."""
    low = load(w, s.values, 0)
    high = low
    sum_w = load(w, s.weights, 0)
    sum_x = sum_w * low
    for i in range(1, s.n):
        x = load(w, s.values, i)
        weight = load(w, s.weights, i)
        low = select(x < low, x, low)
        high = select(x > high, x, high)
        sum_w = sum_w + weight
        sum_x = sum_x + weight * x
    zero = fill(w, 0.0)
    return select(low > zero, zero, low), high, sum_w, sum_x


def _below(w: Any, value: Any) -> Any:
    return absolute(value) < fill(w, LIMIT)


def _level(value: Any, low: Any, high: Any, small: Any) -> Any:
    """The rounded value, limited; ``small`` says that magnitudes stay below ``LIMIT``."""
    if small:
        return confine(rounded(value), low, high)
    return real(clamp(nearest(value), low, high))


def _affine_sums(w: Any, s: Sub, inverse: Any, low: Any, small: Any) -> Any:
    """Levels into their columns; weighted sums of level, of level*level and of level*x."""
    sum_l = fill(w, 0.0)
    sum_l2 = sum_l
    sum_xl = sum_l
    for i in range(s.n):
        x = load(w, s.values, i)
        level = _level(inverse * (x - low), 0, s.nmax, small)
        store(w, s.levels, i, level)
        weighted = load(w, s.weights, i) * level
        sum_l = sum_l + weighted
        sum_l2 = sum_l2 + weighted * level
        sum_xl = sum_xl + weighted * x
    return sum_l, sum_l2, sum_xl


def fit_affine(w: Any, s: Sub, tries: Any, mad: Any) -> Any:
    """Scale and minimum for levels 0 ... ``nmax`` (make_qkx2_quants, make_qkx3_quants).

    Starts from the least and the greatest value and tries inverse scales that
    ``tries`` gives (start, step, number of steps); for each the weighted least squares
    give scale and minimum, which replace the best when their error is smaller. The
    minimum accepted last is the one that the next trial subtracts. Returns (scale,
    -minimum, inverse, offset): the chosen levels are round((x - offset) * inverse).
    The levels' columns are scratch.
    """
    zero = fill(w, 0.0)
    low, high, sum_w, sum_x = _affine_start(w, s)
    flat = high == low
    flat_low = low
    inverse = fill(w, s.nmax) / (high - low)
    scale = fill(w, 1.0) / inverse
    offset = low
    _affine_sums(w, s, inverse, low, False)
    best = _affine_error(w, s, scale, low, mad)
    for step in range(tries[2] + 1):
        target = np.float32(tries[0]) + np.float32(tries[1]) * np.float32(step) + np.float32(s.nmax)
        trial = fill(w, target) / (high - low)
        # Rounding never reverses an order, so the ends show whether all products are small.
        small = _below(w, trial * (high - low)) & _below(w, trial * (flat_low - low))
        if any_lane(~(small | flat)):
            sum_l, sum_l2, sum_xl = _affine_sums(w, s, trial, low, False)
        else:
            sum_l, sum_l2, sum_xl = _affine_sums(w, s, trial, low, True)
        det = sum_w * sum_l2 - sum_l * sum_l
        new_scale = (sum_w * sum_xl - sum_x * sum_l) / det
        new_low = (sum_l2 * sum_x - sum_l * sum_xl) / det
        above = new_low > zero
        new_scale = select(above, sum_xl / sum_l2, new_scale)
        new_low = select(above, zero, new_low)
        error = _affine_error(w, s, new_scale, new_low, mad)
        better = (det > zero) & (error < best)
        best = select(better, error, best)
        scale = select(better, new_scale, scale)
        inverse = select(better, trial, inverse)
        offset = select(better, low, offset)
        low = select(better, new_low, low)
    scale = select(flat, zero, scale)
    low = select(flat, flat_low, low)
    return scale, -low, select(flat, zero, inverse), select(flat, flat_low, offset)


def _extreme(w: Any, s: Sub) -> Any:
    """(largest magnitude, the first value that has it); both 0 where all values are 0."""
    largest = fill(w, 0.0)
    value = fill(w, 0.0)
    for i in range(s.n):
        x = load(w, s.values, i)
        magnitude = absolute(x)
        larger = magnitude > largest
        largest = select(larger, magnitude, largest)
        value = select(larger, x, value)
    return largest, value


def _symmetric_sums(w: Any, s: Sub, inverse: Any, small: Any) -> Any:
    """(sum of weight*x*level, sum of weight*level*level) of the levels at this inverse scale."""
    sum_lx = fill(w, 0.0)
    sum_l2 = fill(w, 0.0)
    for i in range(s.n):
        level = _level(inverse * load(w, s.values, i), -s.nmax, s.nmax - 1, small)
        sum_lx = sum_lx + load(w, s.levels, i) * level
        sum_l2 = sum_l2 + load(w, s.weights, i) * level * level
    return sum_lx, sum_l2


def fit_symmetric(w: Any, s: Sub, small: Any) -> Any:
    """Scale for levels ``-nmax`` ... ``nmax - 1`` (make_qx_quants with rmse_type 1).

    Tries 19 inverse scales near ``-nmax / extreme`` and keeps the one with the best
    weighted least squares. Returns (scale, inverse, shift): the chosen levels are
    round(x * inverse) + shift, where shift is ``nmax`` or, in sub-blocks that count
    as zero, 0. The levels' columns are scratch. ``small`` says that all values are finite:
    products are then at most ``nmax`` + 1, except in sub-blocks that count as zero.
    """
    zero = fill(w, 0.0)
    largest, extreme = _extreme(w, s)
    empty = largest < fill(w, TINY)
    for i in range(s.n):
        store(w, s.levels, i, load(w, s.weights, i) * load(w, s.values, i))
    inverse = fill(w, -np.float32(s.nmax)) / extreme
    sum_lx, sum_l2 = _symmetric_sums(w, s, inverse, small)
    scale = select(sum_l2 != zero, sum_lx / sum_l2, zero)
    best = scale * sum_lx
    for step in range(18):
        # -9 ... 9 without 0
        at = np.float32(step - 9 + (step > 8))
        trial = fill(w, -(np.float32(s.nmax) + np.float32(0.1) * at)) / extreme
        sum_lx, sum_l2 = _symmetric_sums(w, s, trial, small)
        better = (sum_l2 > zero) & (sum_lx * sum_lx > best * sum_l2)
        scale = select(better, sum_lx / sum_l2, scale)
        best = select(better, scale * sum_lx, best)
        inverse = select(better, trial, inverse)
    shift = select(empty, zero, fill(w, s.nmax))
    return select(empty, zero, scale), select(empty, zero, inverse), shift


def fit_descent(w: Any, s: Sub) -> Any:
    """Scale and levels by coordinate descent (make_q3_quants); returns the scale.

    Up to five passes move one level at a time where that betters the weighted least
    squares (weights x*x). The levels, shifted by ``nmax`` (0 in sub-blocks that count
    as zero), come to stand in their columns. The weights are not looked at.
    """
    zero = fill(w, 0.0)
    largest, extreme = _extreme(w, s)
    inverse = fill(w, -np.float32(s.nmax)) / extreme
    sum_lx = zero
    sum_l2 = zero
    for i in range(s.n):
        x = load(w, s.values, i)
        weight = x * x
        level = real(clamp(nearest(inverse * x), -s.nmax, s.nmax - 1))
        store(w, s.levels, i, level)
        sum_lx = sum_lx + weight * x * level
        sum_l2 = sum_l2 + weight * level * level
    for _ in range(5):
        changed = zero > zero
        for i in range(s.n):
            x = load(w, s.values, i)
            weight = x * x
            level = load(w, s.levels, i)
            part_lx = sum_lx - weight * x * level
            part_l2 = sum_l2 - weight * level * level
            moved = real(clamp(nearest(x * part_l2 / part_lx), -s.nmax, s.nmax - 1))
            trial = (part_lx > zero) & (moved != level)
            part_lx = part_lx + weight * x * moved
            part_l2 = part_l2 + weight * moved * moved
            better = part_lx * part_lx * sum_l2 > sum_lx * sum_lx * part_l2
            better = trial & (part_l2 > zero) & better
            store(w, s.levels, i, select(better, moved, level))
            sum_lx = select(better, part_lx, sum_lx)
            sum_l2 = select(better, part_l2, sum_l2)
            changed = changed | better
        # A pass that changes nothing in a lane changes nothing in the passes after it.
        if not any_lane(changed):
            break
    empty = largest < fill(w, TINY)
    for i in range(s.n):
        level = load(w, s.levels, i) + fill(w, s.nmax)
        store(w, s.levels, i, select(empty, zero, level))
    scale = select(sum_l2 > zero, sum_lx / sum_l2, zero)
    return select(empty, zero, scale)


def _positive_error(w: Any, s: Sub, inverse: Any) -> Any:
    """The weighted squared error of levels up to ``nmax`` at this inverse scale."""
    scale = fill(w, 1.0) / inverse
    error = fill(w, 0.0)
    for i in range(s.n):
        x = load(w, s.values, i)
        level = clamp(nearest(inverse * x), -0x400000, s.nmax)
        difference = x - scale * real(level)
        error = error + load(w, s.weights, i) * difference * difference
    return error


def fit_positive(w: Any, s: Sub) -> Any:
    """Scale for levels 0 ... ``nmax`` without minimum (make_qp_quants); returns it.

    The levels come to stand in whole columns, cut to eight bits as the
    reference stores them.
    """
    zero = fill(w, 0.0)
    largest = zero
    for i in range(s.n):
        x = load(w, s.values, i)
        largest = select(largest > x, largest, x)
    empty = largest < fill(w, TINY)
    inverse = fill(w, s.nmax) / largest
    scale = fill(w, 1.0) / inverse
    best = zero
    for i in range(s.n):
        x = load(w, s.values, i)
        difference = x - scale * real(nearest(inverse * x) & 0xFF)
        best = best + load(w, s.weights, i) * difference * difference
    for step in range(8):
        at = np.float32(step - 4 + (step > 3))
        trial = fill(w, np.float32(0.1) * at + np.float32(s.nmax)) / largest
        error = _positive_error(w, s, trial)
        better = error < best
        best = select(better, error, best)
        inverse = select(better, trial, inverse)
    sum_lx = zero
    sum_l2 = zero
    for i in range(s.n):
        x = load(w, s.values, i)
        level = clamp(nearest(inverse * x), -0x400000, s.nmax)
        store(w, s.levels, i, level & 0xFF)
        sum_lx = sum_lx + load(w, s.weights, i) * x * real(level)
        sum_l2 = sum_l2 + load(w, s.weights, i) * real(level) * real(level)
    sum_lx, sum_l2 = _descend_positive(w, s, sum_lx, sum_l2)
    for i in range(s.n):
        store(w, s.levels, i, select(empty, whole(w, 0), load(w, s.levels, i)))
    scale = select(sum_l2 > zero, sum_lx / sum_l2, zero)
    return select(empty, zero, scale)


def _descend_positive(w: Any, s: Sub, sum_lx: Any, sum_l2: Any) -> Any:
    """Up to five passes of moving one level at a time; returns the two sums."""
    zero = fill(w, 0.0)
    for _ in range(5):
        changed = zero > zero
        for i in range(s.n):
            x = load(w, s.values, i)
            weight = load(w, s.weights, i)
            old = load(w, s.levels, i)
            level = real(old)
            part_lx = sum_lx - weight * x * level
            part_l2 = sum_l2 - weight * level * level
            moved = clamp(nearest(x * part_l2 / part_lx), -0x400000, s.nmax)
            trial = (part_lx > zero) & (part_l2 > zero) & (moved != old)
            part_lx = part_lx + weight * x * real(moved)
            part_l2 = part_l2 + weight * real(moved) * real(moved)
            better = trial & (part_lx * part_lx * sum_l2 > sum_lx * sum_lx * part_l2)
            store(w, s.levels, i, select(better, moved & 0xFF, old))
            sum_lx = select(better, part_lx, sum_lx)
            sum_l2 = select(better, part_l2, sum_l2)
            changed = changed | better
        if not any_lane(changed):
            break
    return sum_lx, sum_l2


def place(w: Any, value: Any) -> Any:
    """Where twice a value lies in a table of half steps: floor(value) + 256, in 0 ... 511.

    NaN, which compares as above every level, gets the last place.
    """
    low, high = fill(w, -256.0), fill(w, 255.0)
    value = floor(value)
    value = select(value < high, value, high)
    return truncate(select(value > low, value, low)) + 256


def _table_sums(w: Any, s: Sub, table: Any, inverse: Any) -> Any:
    """(sum of weight*level*x, sum of weight*level*level) at this inverse scale."""
    sum_qx = fill(w, 0.0)
    sum_q2 = fill(w, 0.0)
    doubled = inverse + inverse
    for i in range(s.n):
        x = load(w, s.values, i)
        level = lookup(w, table, place(w, doubled * x))
        weighted = load(w, s.weights, i) * level
        sum_qx = sum_qx + weighted * x
        sum_q2 = sum_q2 + weighted * level
    return sum_qx, sum_q2


def fit_table(w: Any, s: Sub, table: Any, first: Any) -> Any:
    """Scale for non-linear levels (the search of quantize_row_iq4_nl_impl); returns it.

    ``table`` gives the nearest level's value for every half step of x / scale (see
    :func:`place`) and ``first`` is the least level's value. 16 inverse scales are tried.
    """
    zero = fill(w, 0.0)
    largest, extreme = _extreme(w, s)
    inverse = fill(w, 1.0) / (-extreme / fill(w, first))
    sum_qx, sum_q2 = _table_sums(w, s, table, inverse)
    scale = select(sum_q2 > zero, sum_qx / sum_q2, zero)
    best = scale * sum_qx
    for step in range(15):
        trial = fill(w, np.float32(step - 7) + np.float32(first)) / extreme
        sum_qx, sum_q2 = _table_sums(w, s, table, trial)
        better = (sum_q2 > zero) & (sum_qx * sum_qx > best * sum_q2)
        scale = select(better, sum_qx / sum_q2, scale)
        best = select(better, scale * sum_qx, best)
    return select(largest < fill(w, TINY), zero, scale)
