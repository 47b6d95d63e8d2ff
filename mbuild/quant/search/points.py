"""IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS and IQ3_S: magnitudes on a grid of points, signs apart.

A sub-block's magnitudes get levels that stand for odd multiples of a scale, and each group
of eight (IQ3: four) is moved to a point of the type's grid; scales near the largest
value's are tried. Three of the types keep only seven signs of eight: where an odd number of
values is negative, the value that costs least changes its sign. Written once for both
engines (:mod:`mbuild.quant.search.ops`), after ``quantize_row_iq2_xxs_impl`` and its siblings in
``ggml-quants.c``.

A fit takes (w, grid, xs, qs, ls, ints, st, g, sigma2): the table of the grid, values,
importances, real and whole scratch columns, findings, sub-block, mean square. It
leaves the groups' codes in rows CODE ... of ``ls``, the signs of every eight values in
rows SIGN ..., and the sub-block's scale in row ``g`` of ``st``. A settle function takes
(w, grid, st, it, ls) and stores the block's float16 scale and the sub-blocks' scales.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.quant.search.fits import WHOLE_HEAD, D
from mbuild.quant.search.fitting import LIMIT, fit_positive, half_bits, importance_weights
from mbuild.quant.search.forms import ALL, EACH, IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS
from mbuild.quant.search.grids import MOVED, STEPS, move
from mbuild.quant.search.ops import (
    absolute,
    any_lane,
    clamp,
    confine,
    fill,
    load,
    nearest,
    real,
    root,
    rounded,
    select,
    store,
    truncate,
    whole,
)

CODE, SIGN = 0, 64
"""Rows of the scratch columns that the blocks are written from: 64 codes, 32 bytes of signs."""
VALUE, WEIGHT, ROOT, PRODUCT = 96, 128, 160, 192
"""Magnitudes, weights, the weights' roots, and weight * magnitude of a sub-block."""
SCALES = 224
"""The scales that are tried."""
REACH = SCALES + STEPS
"""The largest magnitude, that of a value which stays negative included."""
ROWS = REACH + 1
WHOLE_ROWS = 8 * STEPS
"""Rows of the whole columns: a group's spots, and then codes, at each step."""
CERTAIN = 0.4995
"""A value so near to its level has no other that costs less, however the costs are rounded."""


def _fold(w: Any, xs: Any, ls: Any, g: Any, form: Any) -> None:
    """Magnitudes into VALUE, signs into SIGN; one value stays negative where it must."""
    zero = fill(w, 0.0)
    for k in range(form.n // 8):
        least = zero
        number = whole(w, 0)
        count = whole(w, 0)
        for i in range(8):
            x = load(w, xs, 8 * k + i)
            cost = load(w, ls, WEIGHT + 8 * k + i) * x * x
            less = cost < least
            if i == 0:
                less = zero == zero
            least = select(less, cost, least)
            number = select(less, whole(w, i), number)
            count = count + select(x < zero, whole(w, 1), whole(w, 0))
        odd = (count & 1) == whole(w, 1)
        if not form.even:
            odd = zero != zero
        signs = whole(w, 0)
        for i in range(8):
            x = load(w, xs, 8 * k + i)
            flipped = odd & (number == whole(w, i))
            magnitude = absolute(x)
            store(w, ls, VALUE + 8 * k + i, select(flipped, -magnitude, magnitude))
            negative = select(x < zero, whole(w, 1), whole(w, 0))
            negative = select(flipped, whole(w, 1) - negative, negative)
            signs = signs | (negative << i)
        if form.even:
            signs = signs & 127
        store(w, ls, SIGN + g * (form.n // 8) + k, real(signs))


def _level(ratio: Any, top: Any, small: Any) -> Any:
    """The nearest level; ``small`` says that magnitudes stay below ``LIMIT``."""
    if small:
        return rounded(confine(ratio, 0, top))
    return real(clamp(nearest(ratio), 0, top))


def _find(
    w: Any, ls: Any, ints: Any, k: Any, step: Any, inverse: Any, form: Any, small: Any
) -> None:
    """The spot of group ``k`` at this scale, for :func:`mbuild.quant.search.grids.move`."""
    one, half = fill(w, 1.0), fill(w, 0.5)
    spot = apart = fill(w, 0.0)
    place = np.float32(1)
    for i in range(form.size):
        ratio = half * (inverse * load(w, ls, VALUE + form.size * k + i) - one)
        level = _level(ratio, form.levels - 1, small)
        distance = absolute(confine(ratio, 0, form.levels - 1) - level)
        apart = select(apart > distance, apart, distance)
        spot = spot + level * fill(w, place)
        place = place * np.float32(form.levels)
    unsure = spot + fill(w, form.spots)
    store(w, ints, STEPS * k + step, truncate(select(apart < fill(w, CERTAIN), spot, unsure)))


def _find_all(w: Any, ls: Any, ints: Any, step: Any, inverse: Any, reach: Any, form: Any) -> None:
    """The spots of all groups at this scale; no value's magnitude is above ``reach``."""
    if any_lane(~(absolute(inverse * reach) < fill(w, LIMIT))):
        for k in range(form.n // form.size):
            _find(w, ls, ints, k, step, inverse, form, False)
    else:
        for k in range(form.n // form.size):
            _find(w, ls, ints, k, step, inverse, form, True)


def _sums(w: Any, ls: Any, ints: Any, step: Any, form: Any) -> Any:
    """(sum of weight*x*value, sum of weight*value*value) of the groups' codes at this step."""
    sum_qx, sum_q2 = fill(w, 0.0), fill(w, 0.0)
    twice_level = 14 if form.levels == 8 else 6
    for k in range(form.n // form.size):
        twice = load(w, ints, STEPS * k + step) << 1
        for i in range(form.size):
            row = form.size * k + i
            value = real(((twice >> (form.bits * i)) & twice_level) | whole(w, 1))
            sum_qx = sum_qx + load(w, ls, PRODUCT + row) * value
            sum_q2 = sum_q2 + load(w, ls, WEIGHT + row) * value * value
    return sum_qx, sum_q2


def _largest(w: Any, ls: Any, n: Any) -> Any:
    """The largest value; roots and products of the weights are made on the way."""
    largest = load(w, ls, VALUE)
    reach = absolute(largest)
    for i in range(n):
        x, weight = load(w, ls, VALUE + i), load(w, ls, WEIGHT + i)
        largest = select(largest > x, largest, x)
        reach = select(reach > absolute(x), reach, absolute(x))
        store(w, ls, ROOT + i, root(weight))
        store(w, ls, PRODUCT + i, weight * x)
    store(w, ls, REACH, reach)
    return largest


def _search(
    w: Any, grid: Any, ls: Any, ints: Any, first: Any, largest: Any, scale: Any, form: Any
) -> Any:
    """The best scale around ``top / largest``, its codes in rows ``first`` ...; returns it.

    ``scale`` is the scale to start from. MOVED is in the codes of groups that were not on
    the grid.
    """
    zero, one = fill(w, 0.0), fill(w, 1.0)
    groups, steps = form.n // form.size, 2 * form.steps + 1
    for step in range(steps):
        at = np.float32(step - form.steps)
        inverse = fill(w, np.float32(form.top) + at * np.float32(form.width)) / largest
        store(w, ls, SCALES + step, one / inverse)
        _find_all(w, ls, ints, step, inverse, load(w, ls, REACH), form)
    for k in range(groups):
        move(w, grid, ls, ints, k, steps, form, SCALES, (VALUE, ROOT))
        store(w, ls, first + k, fill(w, form.start))
    best = zero
    for step in range(steps):
        sum_qx, sum_q2 = _sums(w, ls, ints, step, form)
        better = (sum_q2 > zero) & (sum_qx * sum_qx > best * sum_q2)
        scale = select(better, sum_qx / sum_q2, scale)
        best = select(better, scale * sum_qx, best)
        for k in range(groups):
            new = real(load(w, ints, STEPS * k + step) & (2 * MOVED - 1))
            store(w, ls, first + k, select(better, new, load(w, ls, first + k)))
    return scale


def _settle_groups(w: Any, grid: Any, ls: Any, ints: Any, first: Any, scale: Any, form: Any) -> Any:
    """Move groups once more, at the scale found, and take MOVED off; returns the new scale."""
    zero, moved = fill(w, 0.0), fill(w, MOVED)
    some = scale > zero
    again = zero != zero
    for k in range(form.n // form.size):
        again = again | (load(w, ls, first + k) >= moved)
    if form.again == ALL:
        again = zero == zero
    again = again & some
    store(w, ls, SCALES, scale)
    _find_all(w, ls, ints, 0, fill(w, 1.0) / scale, load(w, ls, REACH), form)
    for k in range(form.n // form.size):
        replaced = again
        if form.again == EACH:
            replaced = some & (load(w, ls, first + k) >= moved)
        # Spot 0 is a point of every grid, and no search.
        store(w, ints, STEPS * k, select(replaced, load(w, ints, STEPS * k), whole(w, 0)))
        move(w, grid, ls, ints, k, 1, form, SCALES, (VALUE, ROOT))
        kept = truncate(load(w, ls, first + k))
        code = select(replaced, load(w, ints, STEPS * k), kept) & (MOVED - 1)
        store(w, ints, STEPS * k, code)
        store(w, ls, first + k, real(code))
    sum_qx, sum_q2 = _sums(w, ls, ints, 0, form)
    return select(again & (sum_q2 > zero), sum_qx / sum_q2, scale)


def _keep(w: Any, ls: Any, st: Any, g: Any, scale: Any, empty: Any, form: Any) -> None:
    """Store the scale, which is made positive by turning all signs; an empty sub-block is 0."""
    zero = fill(w, 0.0)
    all_signs = fill(w, 127.0 if form.even else 255.0)
    turned = scale < zero
    store(w, st, g, select(empty, zero, select(turned, -scale, scale)))
    for k in range(form.n // 8):
        row = SIGN + g * (form.n // 8) + k
        signs = load(w, ls, row)
        signs = select(turned, all_signs - signs, signs)
        store(w, ls, row, select(empty, zero, signs))
    for k in range(form.n // form.size):
        row = CODE + g * (form.n // form.size) + k
        store(w, ls, row, select(empty, fill(w, form.empty), load(w, ls, row)))


def _square_weights(w: Any, xs: Any, ls: Any) -> None:
    for i in range(32):
        x = load(w, xs, i)
        store(w, ls, WEIGHT + i, x * x)


def _fit(w: Any, grid: Any, xs: Any, ls: Any, ints: Any, st: Any, g: Any, form: Any) -> None:
    """Everything but IQ2_XXS, the weights given."""
    _fold(w, xs, ls, g, form)
    largest = _largest(w, ls, form.n)
    first = CODE + g * (form.n // form.size)
    scale = _search(w, grid, ls, ints, first, largest, largest / fill(w, form.top), form)
    scale = _settle_groups(w, grid, ls, ints, first, scale, form)
    _keep(w, ls, st, g, scale, largest < fill(w, form.tiny), form)


def iq2_xxs(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """Starts from a scale that a search without a grid finds; all groups are placed again."""
    importance_weights(w, xs, qs, ls[WEIGHT:], 32, sigma2)
    _fold(w, xs, ls, g, IQ2_XXS)
    largest = _largest(w, ls, 32)
    zero = fill(w, 0.0)
    scale = fit_positive(w, ls[VALUE:], ls[WEIGHT:], ints, 32, 4)
    reach = scale * fill(w, 3.0)
    empty = (largest < fill(w, IQ2_XXS.tiny)) | (reach <= zero)
    scale = _search(w, grid, ls, ints, CODE + 4 * g, reach, scale, IQ2_XXS)
    scale = _settle_groups(w, grid, ls, ints, CODE + 4 * g, scale, IQ2_XXS)
    _keep(w, ls, st, g, scale, empty, IQ2_XXS)


def iq2_xs(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """16 sub-blocks, 512 points."""
    importance_weights(w, xs, qs, ls[WEIGHT:], 16, sigma2)
    _fit(w, grid, xs, ls, ints, st, g, IQ2_XS)


def iq2_s(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """Without importances: weights sigma2 / 4 + x*x."""
    part = fill(w, 0.25) * sigma2
    for i in range(16):
        x = load(w, xs, i)
        store(w, ls, WEIGHT + i, part + x * x)
    _fit(w, grid, xs, ls, ints, st, g, IQ2_S)


def iq2_s_weighted(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """16 sub-blocks, 1,024 points, all signs kept."""
    importance_weights(w, xs, qs, ls[WEIGHT:], 16, sigma2)
    _fit(w, grid, xs, ls, ints, st, g, IQ2_S)


def iq3_xxs(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """Without importances: weights x*x."""
    _square_weights(w, xs, ls)
    _fit(w, grid, xs, ls, ints, st, g, IQ3_XXS)


def iq3_xxs_weighted(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """8 sub-blocks, 256 points of four values."""
    importance_weights(w, xs, qs, ls[WEIGHT:], 32, sigma2)
    _fit(w, grid, xs, ls, ints, st, g, IQ3_XXS)


def iq3_s(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """Without importances: weights x*x."""
    _square_weights(w, xs, ls)
    _fit(w, grid, xs, ls, ints, st, g, IQ3_S)


def iq3_s_weighted(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """8 sub-blocks, 512 points of four values, all signs kept."""
    importance_weights(w, xs, qs, ls[WEIGHT:], 32, sigma2)
    _fit(w, grid, xs, ls, ints, st, g, IQ3_S)


def odd_scales(w: Any, st: Any, it: Any, subs: Any, last: Any, factor: Any) -> Any:
    """Scales as odd multiples, up to 2 * ``last`` + 1, of one step, which is stored.

    Returns the lanes in which no scale is above 0.
    """
    zero, one, half = fill(w, 0.0), fill(w, 1.0), fill(w, 0.5)
    top = zero
    for g in range(subs):
        scale = load(w, st, g)
        top = select(top > scale, top, scale)
    some = top != zero
    d = top / fill(w, 2 * last + 1)
    inverse = one / d
    store(w, it, D, half_bits(w, select(some, d * fill(w, factor), zero)))
    for g in range(subs):
        level = clamp(nearest(half * (inverse * load(w, st, g) - one)), 0, last)
        store(w, it, WHOLE_HEAD + g, select(some, level, whole(w, 0)))
    return top == zero


def _settle(w: Any, st: Any, it: Any, ls: Any, subs: Any, factor: Any) -> None:
    """The scales; a block without any is all zero bytes."""
    nothing = odd_scales(w, st, it, subs, 15, factor)
    for row in range(CODE, SIGN + 32):
        store(w, ls, row, select(nothing, fill(w, 0.0), load(w, ls, row)))


def settle_iq2_xxs(w: Any, grid: Any, st: Any, it: Any, ls: Any) -> None:
    """8 scales in four bits."""
    _settle(w, st, it, ls, 8, 1.0)


def settle_iq2_xs(w: Any, grid: Any, st: Any, it: Any, ls: Any) -> None:
    """16 scales in four bits."""
    _settle(w, st, it, ls, 16, 1.0)


def settle_iq2_s(w: Any, grid: Any, st: Any, it: Any, ls: Any) -> None:
    """16 scales in four bits; points and signs of a block without scales stay."""
    odd_scales(w, st, it, 16, 15, 0.9875)


def settle_iq3_xxs(w: Any, grid: Any, st: Any, it: Any, ls: Any) -> None:
    """8 scales in four bits."""
    _settle(w, st, it, ls, 8, 1.0125)


def settle_iq3_s(w: Any, grid: Any, st: Any, it: Any, ls: Any) -> None:
    """8 scales in four bits; points and signs of a block without scales stay."""
    odd_scales(w, st, it, 8, 15, 1.033)
