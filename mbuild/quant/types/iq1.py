"""IQ1_S and IQ1_M: three levels, groups of eight on a grid.

The search is :mod:`mbuild.quant.search.ternary`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.gguf.types import GGMLType
from mbuild.quant.layouts import checks, emit, packing, point_emit, point_packing
from mbuild.quant.layouts.packing import Bytes
from mbuild.quant.search import points, ternary
from mbuild.quant.search.columns import (
    ALL_W,
    ALL_X,
    CODE,
    HALF_W,
    HALF_X,
    INDEX,
    KEY,
    ROWS_M,
    ROWS_S,
    SIGN,
    SORTED,
    SUM_W,
    SUM_X,
    WEIGHT,
    WHOLE_HEAD,
    Columns,
    D,
)
from mbuild.quant.search.fitting import importance_weights
from mbuild.quant.search.grids import CHUNK, EIGHT, Grid
from mbuild.quant.search.halves import half_bits
from mbuild.quant.search.methods import MethodLayout, OnGrid, Parts
from mbuild.quant.search.ops import (
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


def _best_cuts_s(w: Any, c: Columns) -> Any:
    """(scale, first cut, second cut, shift; 0 where no cut scores) of IQ1_S."""
    zero = fill(w, 0.0)
    total_x, total_w = load(w, c.scratch, SUM_X + 32), load(w, c.scratch, SUM_W + 32)
    scale, best = zero, fill(w, ternary.LOWEST)
    cut1, cut2, shift = zero, zero, zero
    for i in range(33):
        low_x, low_w = load(w, c.scratch, SUM_X + i), load(w, c.scratch, SUM_W + i)
        for j in range(i, 33):
            upto_x, upto_w = load(w, c.scratch, SUM_X + j), load(w, c.scratch, SUM_W + j)
            mid_x, mid_w = upto_x - low_x, upto_w - low_w
            high_x, high_w = total_x - upto_x, total_w - upto_w
            for sign in (1, -1):
                delta = np.float32(sign) * np.float32(ternary.DELTA)
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


def fit_iq1_s(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """One shift for 32 values."""
    zero, eighth = fill(w, 0.0), fill(w, ternary.DELTA)
    importance_weights(w, c, 32, sigma2)
    ternary.sort(w, c, 32)
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
    empty = (ternary.largest(w, c, 32) < fill(w, 1e-12)) | (shift == zero)
    turned = scale < zero
    scale = select(turned, -scale, scale)
    shift = select(turned, -shift, shift)
    ternary.codes(w, c, CODE + 4 * g, (cut1, cut2, turned), 32)
    delta = shift * eighth
    off = zero != zero
    sums = (zero, zero)
    for k in range(4):
        off = off | ternary.place_group(w, c, (k, CODE + 4 * g + k), scale, delta)
    for k in range(4):
        sums = ternary.add_group(w, c, (k, CODE + 4 * g + k), delta, sums)
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
    nothing = points.odd_scales(w, c, 8, 7, 1.125)
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
    delta = np.float32(sign) * np.float32(ternary.DELTA)
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
    best = (zero, fill(w, ternary.LOWEST), zero, zero, fill(w, -1.0))
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
    ternary.sort(w, c, 16)
    _half_sums(w, c)
    scale, cut1, cut2, shift = _best_cuts_m(w, c)
    empty = (ternary.largest(w, c, 16) < fill(w, 1e-7)) | (shift < zero)
    turned = scale < zero
    scale = select(turned, -scale, scale)
    shift = select(turned, fill(w, 3.0) - shift, shift)
    ternary.codes(w, c, CODE + 2 * g, (cut1, cut2, turned), 16)
    down1 = select(shift >= fill(w, 2.0), one, zero)
    down2 = shift - down1 - down1
    off = zero != zero
    sums = (zero, zero)
    for k in range(2):
        delta = _delta(w, down1 if k == 0 else down2)
        off = off | ternary.place_group(w, c, (k, CODE + 2 * g + k), scale, delta)
        sums = ternary.add_group(w, c, (k, CODE + 2 * g + k), delta, sums)
    refined = off & (sums[0] > zero) & (sums[1] > zero)
    scale = select(refined, sums[0] / sums[1], scale)
    store(w, c.found, g, select(empty, zero, scale))
    for k in range(2):
        row = CODE + 2 * g + k
        store(w, c.scratch, row, select(empty, zero, load(w, c.scratch, row)))
        store(w, c.scratch, SIGN + 2 * g + k, select(empty, zero, down1 if k == 0 else down2))


def _delta(w: Any, down: Any) -> Any:
    """An eighth up, or down where ``down`` is 1."""
    return fill(w, ternary.DELTA) - down * fill(w, 2 * ternary.DELTA)


def fit_iq1_m(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Without importances: weights x*x."""
    for i in range(16):
        x = load(w, c.values, i)
        store(w, c.scratch, WEIGHT + i, x * x)
    _search_m(w, c, g)


def fit_iq1_m_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
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


def pack_iq1_s(c: Columns) -> Bytes:
    """One float16, 32 low bytes of points, 8 words: four times three high bits, scale, shift."""
    points = point_packing.points(c, 32)
    high = ((points >> 8).reshape(-1, 8, 4) << np.arange(0, 12, 3)).sum(axis=2)
    high = high | (point_packing.scales(c, 8) << 12) | (point_packing.signs(c)[:, :8] << 15)
    low = points.astype(np.uint8)
    return np.concatenate(
        [packing.half(c.whole[D]), low, high.astype("<u2").view(np.uint8)], axis=1
    )


def pack_iq1_m(c: Columns) -> Bytes:
    """32 low bytes of points, 16 of high bits and shifts, 4 words of scales."""
    points = point_packing.points(c, 32)
    high = ((points >> 8) | (point_packing.signs(c) << 3)).astype(np.uint8)
    scales = (point_packing.scales(c, 16).reshape(-1, 4, 4) << np.arange(0, 12, 3)).sum(axis=2)
    # The float16 lies in the highest four bits of the words of scales.
    scales = scales | ((c.whole[D][:, None] >> np.arange(0, 16, 4)) & 15) << 12
    parts = [points.astype(np.uint8), packing.nibbles(high, 2), scales.astype("<u2").view(np.uint8)]
    return np.concatenate(parts, axis=1)


def emit_iq1_s(c: Columns, b: Any, out: Any, o: Any) -> None:
    """One float16, 32 low bytes of points, 8 words: four times three high bits, scale, shift."""
    emit.half(out, o, c.whole[D, b])
    for g in range(8):
        word = (c.whole[WHOLE_HEAD + g, b] << 12) | (int(c.scratch[SIGN + g, b]) << 15)
        for j in range(4):
            number = point_emit.point(c, 4 * g + j, b)
            out[o + 2 + 4 * g + j] = number & 0xFF
            word |= (number >> 8) << (3 * j)
        emit.half(out, o + 34 + 2 * g, word)


def emit_iq1_m(c: Columns, b: Any, out: Any, o: Any) -> None:
    """32 low bytes of points, 16 of high bits and shifts, 4 words of scales.

    The block's float16 lies in the highest four bits of these words.
    """
    for g in range(16):
        high = 0
        for j in range(2):
            k = 2 * g + j
            number = point_emit.point(c, k, b)
            out[o + k] = number & 0xFF
            high |= ((number >> 8) | (int(c.scratch[SIGN + k, b]) << 3)) << (4 * j)
        out[o + 32 + g] = high
    for g in range(4):
        word = ((c.whole[D, b] >> (4 * g)) & 15) << 12
        for j in range(4):
            word |= c.whole[WHOLE_HEAD + 4 * g + j, b] << (3 * j)
        emit.half(out, o + 48 + 2 * g, word)


def bad_iq1_m(blocks: checks.Blocks) -> Any:
    """IQ1_M spreads its float16 over the highest four bits of four words: the last two count."""
    return checks.beyond((blocks[:, 55] & 0xF0) | (blocks[:, 53] >> 4))


_GRID, _TWO = Grid("IQ1_S", EIGHT, 3, CHUNK), (2.0, 1 / 256)

ROWS = {
    GGMLType.IQ1_S: Parts(
        None,
        *checks.at(0),
        MethodLayout(pack_iq1_s, emit_iq1_s),
        OnGrid(8, 32, _GRID, fit_iq1_s, settle_iq1_s, _TWO, ROWS_S),
    ),
    GGMLType.IQ1_M: Parts(
        OnGrid(16, 16, _GRID, fit_iq1_m, settle_iq1_m, _TWO, ROWS_M),
        bad_iq1_m,
        1,
        MethodLayout(pack_iq1_m, emit_iq1_m),
        OnGrid(16, 16, _GRID, fit_iq1_m_weighted, settle_iq1_m, _TWO, ROWS_M),
    ),
}
