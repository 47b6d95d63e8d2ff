"""Per type: what a sub-block's search is, and how a block's scales are stored.

Like the searches this text runs in both engines (:mod:`mbuild.quant.search.ops`); the
lanes are blocks. A block has ``subs`` sub-blocks of ``n`` values. For sub-block
``g`` a *fit* puts its findings into rows ``SCALE * subs + g`` and so on of
``found``; after the last one the *settle* function computes the block's float16
scales and the sub-blocks' scales and minima (``whole``), and what a level finally
stands for (rows STEP and BASE): the levels are chosen anew for value = STEP * level
- BASE.

A fit takes (w, columns, g, sigma2): the sub-block's number, and the mean square that
the importances are combined with; those without an importance matrix ignore it and
the importances. A settle function takes (w, columns). Constants are those of
``ggml-quants.c``.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from mbuild.quant.search.columns import DMIN, WHOLE_HEAD, Columns, D, Sub
from mbuild.quant.search.fitting import (
    TINY,
    fit_affine,
    fit_descent,
    fit_positive,
    fit_symmetric,
    fit_table,
    half_bits,
    half_value,
    importance_weights,
    sum_of_squares,
)
from mbuild.quant.search.ops import (
    absolute,
    clamp,
    fill,
    load,
    nearest,
    real,
    root,
    select,
    store,
    truncate,
    whole,
)

MXFP4_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice what the 16 levels of MXFP4 stand for (kvalues_mxfp4)."""
IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What the 16 levels of IQ4_NL and IQ4_XS stand for (kvalues_iq4nl)."""
# Level i is nearest from the midpoint with its lower neighbour on. Twice a midpoint is an
# integer, so that floor(2 * value) decides; entry k stands for floor(2 * value) = k - 256.
IQ4_INDEX = np.searchsorted(
    [a + b for a, b in pairwise(IQ4_VALUES)], np.arange(-256, 256), side="right"
).astype(np.uint8)
IQ4_TABLE = np.array(IQ4_VALUES, np.float32)[IQ4_INDEX]

SCALE, LOW, INVERSE, OFFSET, STEP, BASE, WEIGHT = range(7)
"""Rows of what is found, each counted in sub-blocks: scale and minimum found, the
inverse scale and offset (or shift) that the search's own levels follow from, the final
step and base, the sum of weights."""
REAL_ROWS = 7


def _keep(w: Any, st: Any, subs: Any, g: Any, made: Any) -> None:
    """Store an affine search's findings."""
    store(w, st, SCALE * subs + g, made[0])
    store(w, st, LOW * subs + g, made[1])
    store(w, st, INVERSE * subs + g, made[2])
    store(w, st, OFFSET * subs + g, made[3])


def _keep_symmetric(w: Any, st: Any, subs: Any, g: Any, made: Any) -> None:
    """Store a symmetric search's findings."""
    store(w, st, SCALE * subs + g, made[0])
    store(w, st, INVERSE * subs + g, made[1])
    store(w, st, OFFSET * subs + g, made[2])


def _square_weights(w: Any, xs: Any, ws: Any, n: Any) -> None:
    for i in range(n):
        x = load(w, xs, i)
        store(w, ws, i, x * x)


def _rms_weights(w: Any, xs: Any, ws: Any) -> None:
    """Root mean square of the 32 values plus the value's magnitude."""
    mean = root(sum_of_squares(w, xs, 32, fill(w, 0.0)) / fill(w, 32.0))
    for i in range(32):
        store(w, ws, i, mean + absolute(load(w, xs, i)))


def q2_k(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Weights are the magnitudes; absolute errors."""
    for i in range(16):
        store(w, c.weights, i, absolute(load(w, c.values, i)))
    _keep(
        w,
        c.found,
        16,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 16, 3), (-0.5, 0.1, 15), True),
    )


def q4_k(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """16 levels above a minimum."""
    _rms_weights(w, c.values, c.weights)
    _keep(
        w,
        c.found,
        8,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 15), (-1.0, 0.1, 20), False),
    )


def q5_k(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """32 levels above a minimum."""
    _rms_weights(w, c.values, c.weights)
    _keep(
        w,
        c.found,
        8,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 31), (-0.5, 0.1, 15), False),
    )


def q3_k(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """8 levels by coordinate descent; the levels stay in the scratch."""
    s = Sub(c.values, c.weights, c.scratch[g * 16 :], 16, 4)
    store(w, c.found, SCALE * 16 + g, fit_descent(w, s))


def q6_k(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """64 levels around zero, weights x*x."""
    _square_weights(w, c.values, c.weights, 16)
    _keep_symmetric(
        w, c.found, 16, g, fit_symmetric(w, Sub(c.values, c.weights, c.scratch, 16, 32), True)
    )


def iq4(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """IQ4_NL and IQ4_XS: 16 non-linear levels, weights x*x."""
    _square_weights(w, c.values, c.weights, 32)
    store(
        w, c.found, g, fit_table(w, Sub(c.values, c.weights, c.scratch, 32, 0), IQ4_TABLE, -127.0)
    )


def q2_k_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q2_K with an importance matrix: squared errors, 37 trials."""
    store(w, c.found, WEIGHT * 16 + g, importance_weights(w, c, 16, sigma2))
    _keep(
        w,
        c.found,
        16,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 16, 3), (-0.9, 0.05, 36), False),
    )


def q4_k_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q4_K with an importance matrix."""
    store(w, c.found, WEIGHT * 8 + g, importance_weights(w, c, 32, sigma2))
    _keep(
        w,
        c.found,
        8,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 15), (-0.9, 0.05, 36), False),
    )


def q5_k_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q5_K with an importance matrix."""
    store(w, c.found, WEIGHT * 8 + g, importance_weights(w, c, 32, sigma2))
    _keep(
        w,
        c.found,
        8,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 31), (-0.9, 0.05, 36), False),
    )


def q3_k_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q3_K with an importance matrix: no descent, and levels kept likewise."""
    store(w, c.found, WEIGHT * 16 + g, importance_weights(w, c, 16, sigma2))
    s = Sub(c.values, c.weights, c.scratch[g * 16 :], 16, 4)
    scale, inverse, shift = fit_symmetric(w, s, True)
    store(w, c.found, SCALE * 16 + g, scale)
    for i in range(16):
        level = real(clamp(nearest(inverse * load(w, c.values, i)), -4, 3))
        store(w, c.scratch, g * 16 + i, level + shift)


def q6_k_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q6_K with an importance matrix: the importances are the weights."""
    s = Sub(c.values, c.importances, c.scratch, 16, 32)
    _keep_symmetric(w, c.found, 16, g, fit_symmetric(w, s, True))


def _largest(w: Any, st: Any, row: Any, count: Any) -> Any:
    """The largest of ``count`` rows, 0 if none is positive."""
    best = fill(w, 0.0)
    for g in range(count):
        value = load(w, st, row + g)
        best = select(value > best, value, best)
    return best


def _largest_magnitude(w: Any, st: Any, row: Any, count: Any) -> Any:
    """(largest magnitude, the first value of that magnitude) of ``count`` rows."""
    magnitude = fill(w, 0.0)
    extreme = fill(w, 0.0)
    for g in range(count):
        value = load(w, st, row + g)
        larger = absolute(value) > magnitude
        magnitude = select(larger, absolute(value), magnitude)
        extreme = select(larger, value, extreme)
    return magnitude, extreme


def _steps(w: Any, st: Any, it: Any, subs: Any) -> None:
    """STEP and BASE of every sub-block from the stored float16 scales."""
    d = half_value(w, load(w, it, D))
    dmin = half_value(w, load(w, it, DMIN))
    for g in range(subs):
        store(w, st, STEP * subs + g, d * real(load(w, it, WHOLE_HEAD + g)))
        store(w, st, BASE * subs + g, dmin * real(load(w, it, WHOLE_HEAD + subs + g)))


def settle_q2_k(w: Any, c: Columns) -> None:
    """4-bit scales and minima against their maxima."""
    zero = fill(w, 0.0)
    for part in range(2):
        top = _largest(w, c.found, (SCALE + part) * 16, 16)
        some = top > zero
        inverse = fill(w, 15.0) / top
        for g in range(16):
            level = nearest(inverse * load(w, c.found, (SCALE + part) * 16 + g)) & 0xFF
            store(w, c.whole, WHOLE_HEAD + part * 16 + g, select(some, level, whole(w, 0)))
        store(w, c.whole, D + part, half_bits(w, select(some, top / fill(w, 15.0), zero)))
    _share_bytes(w, c.whole)
    _steps(w, c.found, c.whole, 16)


def _share_bytes(w: Any, it: Any) -> None:
    """Scale and minimum as they come out of the one byte that the reference packs them into."""
    for g in range(16):
        packed = load(w, it, WHOLE_HEAD + g) | (load(w, it, WHOLE_HEAD + 16 + g) << 4)
        store(w, it, WHOLE_HEAD + g, packed & 0x0F)
        store(w, it, WHOLE_HEAD + 16 + g, (packed >> 4) & 0x0F)


def settle_q2_k_weighted(w: Any, c: Columns) -> None:
    """4-bit scales and minima by a weighted search of their own."""
    for part in range(2):
        scales, levels = c.found[(SCALE + part) * 16 :], c.whole[WHOLE_HEAD + part * 16 :]
        d = fit_positive(w, Sub(scales, c.found[WEIGHT * 16 :], levels, 16, 15))
        store(w, c.whole, D + part, half_bits(w, d))
    _share_bytes(w, c.whole)
    _steps(w, c.found, c.whole, 16)


def settle_k(w: Any, c: Columns) -> None:
    """Q4_K and Q5_K: 6-bit scales and minima against their maxima."""
    zero = fill(w, 0.0)
    for part in range(2):
        top = _largest(w, c.found, (SCALE + part) * 8, 8)
        inverse = select(top > zero, fill(w, 63.0) / top, zero)
        for g in range(8):
            level = nearest(inverse * load(w, c.found, (SCALE + part) * 8 + g)) & 0xFF
            store(w, c.whole, WHOLE_HEAD + part * 8 + g, clamp(level, 0, 63))
        store(w, c.whole, D + part, half_bits(w, top / fill(w, 63.0)))
    _steps(w, c.found, c.whole, 8)


def _search_scales(w: Any, c: Columns) -> None:
    """6-bit scales and minima of 8 sub-blocks by a weighted search of their own."""
    for part in range(2):
        scales, levels = c.found[(SCALE + part) * 8 :], c.whole[WHOLE_HEAD + part * 8 :]
        d = fit_positive(w, Sub(scales, c.found[WEIGHT * 8 :], levels, 8, 63))
        store(w, c.whole, D + part, half_bits(w, d))


def settle_q4_k_weighted(w: Any, c: Columns) -> None:
    """6-bit scales and minima; one that left six bits spills over as the reference's does."""
    _search_scales(w, c)
    for part in range(2):
        for g in range(4):
            row = WHOLE_HEAD + part * 8 + g
            first, second = load(w, c.whole, row), load(w, c.whole, row + 4)
            upper = ((first >> 6) | (second >> 4)) & 3
            store(w, c.whole, row + 4, (second & 0x0F) | (upper << 4))
            store(w, c.whole, row, first & 63)
    _steps(w, c.found, c.whole, 8)


def settle_q5_k_weighted(w: Any, c: Columns) -> None:
    """6-bit scales and minima, limited."""
    _search_scales(w, c)
    for row in range(WHOLE_HEAD, WHOLE_HEAD + 16):
        store(w, c.whole, row, clamp(load(w, c.whole, row), 0, 63))
    _steps(w, c.found, c.whole, 8)


def settle_q3_k(w: Any, c: Columns) -> None:
    """6-bit scales around zero against the extreme one; stored plus 32."""
    zero = fill(w, 0.0)
    _, extreme = _largest_magnitude(w, c.found, 0, 16)
    some = extreme != zero
    inverse = fill(w, -32.0) / extreme
    for g in range(16):
        level = nearest(inverse * load(w, c.found, g))
        level = ((level + 128) & 0xFF) - 128
        stored = clamp(level, -32, 31) + 32
        store(w, c.whole, WHOLE_HEAD + g, select(some, stored, whole(w, 0)))
    store(w, c.whole, D, half_bits(w, select(some, fill(w, 1.0) / inverse, zero)))
    _steps_q3(w, c)


def settle_q3_k_weighted(w: Any, c: Columns) -> None:
    """6-bit scales by a weighted search of their own; stored plus 32."""
    s = Sub(c.found, c.found[WEIGHT * 16 :], c.weights, 16, 32)
    d, inverse, shift = fit_symmetric(w, s, False)
    for g in range(16):
        level = clamp(nearest(inverse * load(w, c.found, g)), -32, 31)
        store(w, c.whole, WHOLE_HEAD + g, level + truncate(shift))
    store(w, c.whole, D, half_bits(w, d))
    _steps_q3(w, c)


def _steps_q3(w: Any, c: Columns) -> None:
    d = half_value(w, load(w, c.whole, D))
    for g in range(16):
        store(w, c.found, STEP * 16 + g, d * real(load(w, c.whole, WHOLE_HEAD + g) - 32))


def settle_q6_k(w: Any, c: Columns) -> None:
    """8-bit scales against the extreme one; a block of almost nothing is all zero bytes."""
    zero = fill(w, 0.0)
    magnitude, extreme = _largest_magnitude(w, c.found, 0, 16)
    empty = magnitude < fill(w, TINY)
    inverse = fill(w, -128.0) / extreme
    store(w, c.whole, D, half_bits(w, select(empty, zero, fill(w, 1.0) / inverse)))
    d = half_value(w, load(w, c.whole, D))
    for g in range(16):
        level = clamp(nearest(inverse * load(w, c.found, g)), -0x400000, 127)
        level = ((level + 128) & 0xFF) - 128
        level = select(empty, whole(w, 0), level)
        store(w, c.whole, WHOLE_HEAD + g, level)
        store(w, c.found, STEP * 16 + g, d * real(level))
        for row in (INVERSE * 16 + g, OFFSET * 16 + g):
            store(w, c.found, row, select(empty, zero, load(w, c.found, row)))


def q1_0(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """The sum of magnitudes, in the block's order."""
    total = fill(w, 0.0)
    if g > 0:
        total = load(w, c.found, 0)
    for i in range(32):
        total = total + absolute(load(w, c.values, i))
    store(w, c.found, 0, total)


def settle_q1_0(w: Any, c: Columns) -> None:
    """The mean magnitude (quantize_row_q1_0_ref)."""
    store(w, c.whole, D, half_bits(w, load(w, c.found, 0) / fill(w, 128.0)))


def settle_iq4_nl(w: Any, c: Columns) -> None:
    """The scale itself; levels follow from the unrounded one."""
    zero = fill(w, 0.0)
    scale = load(w, c.found, SCALE)
    store(w, c.whole, D, half_bits(w, scale))
    store(w, c.found, INVERSE, select(scale != zero, fill(w, 1.0) / scale, zero))


def settle_iq4_xs(w: Any, c: Columns) -> None:
    """6-bit scales around zero against the extreme one; stored plus 32."""
    zero = fill(w, 0.0)
    _, extreme = _largest_magnitude(w, c.found, 0, 8)
    d = -extreme / fill(w, 32.0)
    store(w, c.whole, D, half_bits(w, d))
    inverse = select(d != zero, fill(w, 1.0) / d, zero)
    for g in range(8):
        level = clamp(nearest(inverse * load(w, c.found, g)), -32, 31)
        store(w, c.whole, WHOLE_HEAD + g, level + 32)
        step = d * real(level)
        store(w, c.found, INVERSE * 8 + g, select(step != zero, fill(w, 1.0) / step, zero))


def q4_0_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q4_0 with an importance matrix: the search's levels are final."""
    importance_weights(w, c, 32, sigma2)
    _keep_symmetric(
        w, c.found, 1, g, fit_symmetric(w, Sub(c.values, c.weights, c.scratch, 32, 8), True)
    )


def q5_0_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q5_0 with an importance matrix."""
    importance_weights(w, c, 32, sigma2)
    _keep_symmetric(
        w, c.found, 1, g, fit_symmetric(w, Sub(c.values, c.weights, c.scratch, 32, 16), True)
    )


def q4_1_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q4_1 with an importance matrix."""
    importance_weights(w, c, 32, sigma2)
    _keep(
        w,
        c.found,
        1,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 15), (-0.9, 0.05, 36), False),
    )


def q5_1_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q5_1 with an importance matrix."""
    importance_weights(w, c, 32, sigma2)
    _keep(
        w,
        c.found,
        1,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 31), (-0.9, 0.05, 36), False),
    )


def iq4_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """IQ4_NL and IQ4_XS with an importance matrix."""
    importance_weights(w, c, 32, sigma2)
    store(
        w, c.found, g, fit_table(w, Sub(c.values, c.weights, c.scratch, 32, 0), IQ4_TABLE, -127.0)
    )


def settle_single(w: Any, c: Columns) -> None:
    """Q4_0 ... Q5_1 with an importance matrix: scale and minimum as found, in float16."""
    store(w, c.whole, D, half_bits(w, load(w, c.found, SCALE)))
    store(w, c.whole, DMIN, half_bits(w, -load(w, c.found, LOW)))
    store(w, c.found, STEP, fill(w, 0.0))
