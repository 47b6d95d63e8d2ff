"""The search of IQ2 and IQ3: magnitudes on a grid of points, signs apart.

A sub-block's magnitudes get levels that stand for odd multiples of a scale, and each group
of eight (IQ3: four) is moved to a point of the type's grid; scales near the largest
value's are tried. Three of the types keep only seven signs of eight: where an odd number of
values is negative, the value that costs least changes its sign. Written once for both
engines (:mod:`mbuild.quant.search.ops`), after ``quantize_row_iq2_xxs_impl`` and its siblings in
``ggml-quants.c``.

A fit takes (w, columns, g, sigma2), as in :mod:`mbuild.quant.search.findings`. It leaves the
groups' codes in rows CODE ... of the scratch, the signs of every eight values in rows
SIGN ..., and the sub-block's scale in row ``g`` of ``found``. A settle function stores the
block's float16 scale and the sub-blocks' scales. The weights are rows WEIGHT ... of the
scratch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.core.values import NamedTuple
from mbuild.quant.search.columns import (
    CODE,
    PRODUCT,
    REACH,
    ROOT,
    SCALES,
    SIGN,
    STEPS,
    VALUE,
    WEIGHT,
    WHOLE_HEAD,
    Columns,
    D,
)
from mbuild.quant.search.fitting import LIMIT
from mbuild.quant.search.forms import ALL, EACH, Form
from mbuild.quant.search.grids import MOVED, move
from mbuild.quant.search.halves import half_bits
from mbuild.quant.search.ops import (
    absolute,
    any_lane,
    clamp,
    confine,
    fill,
    load,
    nearest,
    odd4,
    odd8,
    real,
    root,
    rounded,
    select,
    store,
    truncate,
    whole,
)

CERTAIN = 0.4995
"""A value so near to its level has no other that costs less, however the costs are rounded."""

HALVED = 1e-37
"""Half of a number above it is none of those denormal ones that have fewer bits."""


class Trial(NamedTuple):
    """One of the scales that are tried: its place among them, and one over it.

    ``small`` says that magnitudes stay below ``LIMIT``, and that half of one over it is exact.
    """

    step: Any
    inverse: Any
    small: Any


def fold(w: Any, c: Columns, g: Any, form: Form) -> None:
    """Magnitudes into VALUE, signs into SIGN; one value stays negative where it must."""
    zero = fill(w, 0.0)
    for k in range(form.n // 8):
        least = zero
        number = whole(w, 0)
        count = whole(w, 0)
        for i in range(8):
            x = load(w, c.values, 8 * k + i)
            cost = load(w, c.scratch, WEIGHT + 8 * k + i) * x * x
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
            x = load(w, c.values, 8 * k + i)
            flipped = odd & (number == whole(w, i))
            magnitude = absolute(x)
            store(w, c.scratch, VALUE + 8 * k + i, select(flipped, -magnitude, magnitude))
            negative = select(x < zero, whole(w, 1), whole(w, 0))
            negative = select(flipped, whole(w, 1) - negative, negative)
            signs = signs | (negative << i)
        if form.even:
            signs = signs & 127
        store(w, c.scratch, SIGN + g * (form.n // 8) + k, real(signs))


def _ratio(w: Any, x: Any, trial: Trial) -> Any:
    """The level as a fraction: half of the value over the scale, less half of one.

    Halving is exact at either place, so that one multiplication does for two.
    """
    one, half = fill(w, 1.0), fill(w, 0.5)
    if trial.small:
        return (half * trial.inverse) * x - half
    return half * (trial.inverse * x - one)


def _level(ratio: Any, top: Any, small: Any) -> Any:
    """The nearest level; ``small`` says that magnitudes stay below ``LIMIT``."""
    if small:
        return rounded(confine(ratio, 0, top))
    return real(clamp(nearest(ratio), 0, top))


def _find(w: Any, c: Columns, k: Any, trial: Trial, form: Form) -> None:
    """The spot of group ``k`` at this scale, for :func:`mbuild.quant.search.grids.move`."""
    spot = apart = fill(w, 0.0)
    place = np.float32(1)
    for i in range(form.size):
        ratio = _ratio(w, load(w, c.scratch, VALUE + form.size * k + i), trial)
        level = _level(ratio, form.levels - 1, trial.small)
        distance = absolute(confine(ratio, 0, form.levels - 1) - level)
        apart = select(apart > distance, apart, distance)
        spot = spot + level * fill(w, place)
        place = place * np.float32(form.levels)
    unsure = spot + fill(w, form.spots)
    spot = select(apart < fill(w, CERTAIN), spot, unsure)
    store(w, c.spots, STEPS * k + trial.step, truncate(spot))


def _find_all(w: Any, c: Columns, step: Any, inverse: Any, form: Form) -> None:
    """The spots of all groups at this scale."""
    small = absolute(inverse * load(w, c.scratch, REACH)) < fill(w, LIMIT)
    if any_lane(~(small & (absolute(inverse) > fill(w, HALVED)))):
        for k in range(form.n // form.size):
            _find(w, c, k, Trial(step, inverse, False), form)
    else:
        for k in range(form.n // form.size):
            _find(w, c, k, Trial(step, inverse, True), form)


def _sums(w: Any, c: Columns, step: Any, form: Form) -> Any:
    """(sum of weight*x*value, sum of weight*value*value) of the groups' codes at this step."""
    sum_qx, sum_q2 = fill(w, 0.0), fill(w, 0.0)
    for k in range(form.n // form.size):
        code = load(w, c.spots, STEPS * k + step)
        for i in range(form.size):
            row = form.size * k + i
            level = code >> (form.bits * i)
            value = odd8(level) if form.levels == 8 else odd4(level)
            sum_qx = sum_qx + load(w, c.scratch, PRODUCT + row) * value
            sum_q2 = sum_q2 + load(w, c.scratch, WEIGHT + row) * value * value
    return sum_qx, sum_q2


def prepare(w: Any, c: Columns, n: Any) -> Any:
    """The largest value; roots and products of the weights are made on the way."""
    largest = load(w, c.scratch, VALUE)
    reach = absolute(largest)
    for i in range(n):
        x, weight = load(w, c.scratch, VALUE + i), load(w, c.scratch, WEIGHT + i)
        largest = select(largest > x, largest, x)
        reach = select(reach > absolute(x), reach, absolute(x))
        store(w, c.scratch, ROOT + i, root(weight))
        store(w, c.scratch, PRODUCT + i, weight * x)
    store(w, c.scratch, REACH, reach)
    return largest


def search_scale(w: Any, c: Columns, first: Any, start: Any, form: Form) -> Any:
    """The best scale around ``top / largest``, its codes in rows ``first`` ...; returns it.

    ``start`` are (largest value, scale to start from). MOVED is in the codes of groups that
    were not on the grid.
    """
    largest, scale = start
    zero, one = fill(w, 0.0), fill(w, 1.0)
    groups, steps = form.n // form.size, 2 * form.steps + 1
    for step in range(steps):
        at = np.float32(step - form.steps)
        inverse = fill(w, np.float32(form.top) + at * np.float32(form.width)) / largest
        store(w, c.scratch, SCALES + step, one / inverse)
        _find_all(w, c, step, inverse, form)
    for k in range(groups):
        move(w, c, k, steps, form)
    best, chosen = zero, whole(w, -1)
    for step in range(steps):
        sum_qx, sum_q2 = _sums(w, c, step, form)
        better = (sum_q2 > zero) & (sum_qx * sum_qx > best * sum_q2)
        scale = select(better, sum_qx / sum_q2, scale)
        best = select(better, scale * sum_qx, best)
        chosen = select(better, whole(w, step), chosen)
    for k in range(groups):
        code = whole(w, form.start)
        for step in range(steps):
            code = select(chosen == whole(w, step), load(w, c.spots, STEPS * k + step), code)
        store(w, c.scratch, first + k, real(code & (2 * MOVED - 1)))
    return scale


def settle_groups(w: Any, c: Columns, first: Any, scale: Any, form: Form) -> Any:
    """Move groups once more, at the scale found, and take MOVED off; returns the new scale."""
    zero, moved = fill(w, 0.0), fill(w, MOVED)
    some = scale > zero
    again = zero != zero
    for k in range(form.n // form.size):
        again = again | (load(w, c.scratch, first + k) >= moved)
    if form.again == ALL:
        again = zero == zero
    again = again & some
    store(w, c.scratch, SCALES, scale)
    _find_all(w, c, 0, fill(w, 1.0) / scale, form)
    for k in range(form.n // form.size):
        replaced = again
        if form.again == EACH:
            replaced = some & (load(w, c.scratch, first + k) >= moved)
        # Spot 0 is a point of every grid, and no search.
        store(w, c.spots, STEPS * k, select(replaced, load(w, c.spots, STEPS * k), whole(w, 0)))
        move(w, c, k, 1, form)
        kept = truncate(load(w, c.scratch, first + k))
        code = select(replaced, load(w, c.spots, STEPS * k), kept) & (MOVED - 1)
        store(w, c.spots, STEPS * k, code)
        store(w, c.scratch, first + k, real(code))
    sum_qx, sum_q2 = _sums(w, c, 0, form)
    return select(again & (sum_q2 > zero), sum_qx / sum_q2, scale)


def keep(w: Any, c: Columns, g: Any, made: Any, form: Form) -> None:
    """Store the scale, which is made positive by turning all signs; an empty sub-block is 0.

    ``made`` are (scale, whether the sub-block is empty).
    """
    scale, empty = made
    zero = fill(w, 0.0)
    all_signs = fill(w, 127.0 if form.even else 255.0)
    turned = scale < zero
    store(w, c.found, g, select(empty, zero, select(turned, -scale, scale)))
    for k in range(form.n // 8):
        row = SIGN + g * (form.n // 8) + k
        signs = load(w, c.scratch, row)
        signs = select(turned, all_signs - signs, signs)
        store(w, c.scratch, row, select(empty, zero, signs))
    for k in range(form.n // form.size):
        row = CODE + g * (form.n // form.size) + k
        store(w, c.scratch, row, select(empty, fill(w, form.empty), load(w, c.scratch, row)))


def fit(w: Any, c: Columns, g: Any, form: Form) -> None:
    """Everything but IQ2_XXS, the weights given."""
    fold(w, c, g, form)
    largest = prepare(w, c, form.n)
    first = CODE + g * (form.n // form.size)
    scale = search_scale(w, c, first, (largest, largest / fill(w, form.top)), form)
    scale = settle_groups(w, c, first, scale, form)
    keep(w, c, g, (scale, largest < fill(w, form.tiny)), form)


def odd_scales(w: Any, c: Columns, subs: Any, last: Any, factor: Any) -> Any:
    """Scales as odd multiples, up to 2 * ``last`` + 1, of one step, which is stored.

    Returns the lanes in which no scale is above 0.
    """
    zero, one, half = fill(w, 0.0), fill(w, 1.0), fill(w, 0.5)
    top = zero
    for g in range(subs):
        scale = load(w, c.found, g)
        top = select(top > scale, top, scale)
    some = top != zero
    d = top / fill(w, 2 * last + 1)
    inverse = one / d
    store(w, c.whole, D, half_bits(w, select(some, d * fill(w, factor), zero)))
    for g in range(subs):
        level = clamp(nearest(half * (inverse * load(w, c.found, g) - one)), 0, last)
        store(w, c.whole, WHOLE_HEAD + g, select(some, level, whole(w, 0)))
    return top == zero


def settle(w: Any, c: Columns, subs: Any, factor: Any) -> None:
    """The scales; a block without any is all zero bytes."""
    nothing = odd_scales(w, c, subs, 15, factor)
    for row in range(CODE, SIGN + 32):
        store(w, c.scratch, row, select(nothing, fill(w, 0.0), load(w, c.scratch, row)))
