"""IQ2_XXS, IQ2_XS, IQ2_S and IQ3_XXS: magnitudes on a grid of points, signs apart.

As in :mod:`mbuild.quant.grid3` a sub-block's magnitudes get odd multiples of a scale,
and each group of eight (IQ3_XXS: four) is moved to a point of the type's grid; scales
near the largest value's are tried. Three of the types keep only seven signs of eight:
where an odd number of values is negative, the value that costs least changes its sign.
Written once for both engines (:mod:`mbuild.quant.ops`), after
``quantize_row_iq2_xxs_impl`` and its siblings in ``ggml-quants.c``.

A fit takes (w, grid, xs, qs, ls, ints, st, g, sigma2): the table of the grid, values,
importances, real and whole scratch columns, findings, sub-block, mean square. It
leaves the groups' codes in rows CODE ... of ``ls``, the signs of every eight values in
rows SIGN ..., and the sub-block's scale in row ``g`` of ``st``. A settle function takes
(w, grid, st, it, ls) and stores the block's float16 scale and the sub-blocks' scales.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from mbuild.quant.fits import WHOLE_HEAD, D
from mbuild.quant.grids import closest
from mbuild.quant.ops import (
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
from mbuild.quant.search import fit_positive, half_bits, importance_weights

CODE, SIGN = 0, 64
"""Rows of the scratch columns that the blocks are written from: 64 codes, 32 bytes of signs."""
VALUE, WEIGHT, ROOT, PRODUCT = 96, 128, 160, 192
"""Magnitudes, weights, the weights' roots, and weight * magnitude of a sub-block."""
COST, SPOT, TRIAL, MOVED, OFF = 224, 256, 257, 265, 273
"""Costs of a group's levels, its spot, a trial's codes and whether they were off the grid,
and the same of the best trial."""
ROWS = 281


class Form(NamedTuple):
    """How a sub-block of ``n`` values is searched.

    Groups of ``size`` values have ``levels`` levels of ``bits`` bits; inverse scales
    (top + width * step) / largest value are tried for ``steps`` steps to either side.
    Magnitudes below ``tiny`` count as zero; ``even`` types keep seven signs of eight.
    """

    n: int
    size: int
    levels: int
    bits: int
    top: int
    steps: int
    width: float
    tiny: float
    even: bool


IQ2_XXS = Form(32, 8, 3, 2, 5, 6, 0.1, 1e-15, True)
IQ2_XS = Form(16, 8, 3, 2, 5, 9, 0.1, 1e-15, True)
IQ2_S = Form(16, 8, 3, 2, 5, 9, 0.1, 1e-8, False)
IQ3_XXS = Form(32, 4, 8, 3, 15, 15, 0.2, 1e-8, True)


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


def _place(w: Any, grid: Any, ls: Any, k: Any, inverse: Any, scale: Any, to: Any, form: Any) -> Any:
    """The code of the point that group ``k`` is moved to at this scale, into row ``to``.

    Returns the lanes in which the levels nearest to the values were not on the grid.
    """
    one, half = fill(w, 1.0), fill(w, 0.5)
    code, spot = whole(w, 0), fill(w, 0.0)
    place = np.float32(1)
    for i in range(form.size):
        x = load(w, ls, VALUE + form.size * k + i)
        weight = load(w, ls, ROOT + form.size * k + i)
        level = clamp(nearest(half * (inverse * x - one)), 0, form.levels - 1)
        code = code | (level << (form.bits * i))
        spot = spot + real(level) * fill(w, place)
        place = place * np.float32(form.levels)
        for j in range(form.levels):
            difference = scale * fill(w, 2 * j + 1) - x
            store(w, ls, COST + form.levels * i + j, weight * difference * difference)
    store(w, ls, SPOT, spot)
    store(w, ls, to, real(code))
    closest(w, grid, ls, SPOT, to, COST, form.size)
    return load(w, ls, to) != real(code)


def _sums(w: Any, ls: Any, at: Any, form: Any) -> Any:
    """(sum of weight*x*value, sum of weight*value*value) of the groups' codes in rows ``at``."""
    sum_qx, sum_q2 = fill(w, 0.0), fill(w, 0.0)
    one = fill(w, 1.0)
    for k in range(form.n // form.size):
        code = truncate(load(w, ls, at + k))
        for i in range(form.size):
            row = form.size * k + i
            level = real((code >> (form.bits * i)) & ((1 << form.bits) - 1))
            value = level + level + one
            sum_qx = sum_qx + load(w, ls, PRODUCT + row) * value
            sum_q2 = sum_q2 + load(w, ls, WEIGHT + row) * value * value
    return sum_qx, sum_q2


def _largest(w: Any, ls: Any, n: Any) -> Any:
    """The largest value; roots and products of the weights are made on the way."""
    largest = load(w, ls, VALUE)
    for i in range(n):
        x, weight = load(w, ls, VALUE + i), load(w, ls, WEIGHT + i)
        largest = select(largest > x, largest, x)
        store(w, ls, ROOT + i, root(weight))
        store(w, ls, PRODUCT + i, weight * x)
    return largest


def _search(w: Any, grid: Any, ls: Any, first: Any, largest: Any, scale: Any, form: Any) -> Any:
    """The best scale around ``top / largest``, its codes in rows ``first`` ...; returns it.

    ``scale`` is the scale to start from. OFF tells of each group whether it was moved.
    """
    zero, one = fill(w, 0.0), fill(w, 1.0)
    groups = form.n // form.size
    for k in range(groups):
        store(w, ls, first + k, zero)
        store(w, ls, OFF + k, zero)
    best = zero
    for step in range(2 * form.steps + 1):
        at = np.float32(step - form.steps)
        target = np.float32(form.top) + at * np.float32(form.width)
        inverse = fill(w, target) / largest
        trial = one / inverse
        for k in range(groups):
            off = _place(w, grid, ls, k, inverse, trial, TRIAL + k, form)
            store(w, ls, MOVED + k, select(off, one, zero))
        sum_qx, sum_q2 = _sums(w, ls, TRIAL, form)
        better = (sum_q2 > zero) & (sum_qx * sum_qx > best * sum_q2)
        scale = select(better, sum_qx / sum_q2, scale)
        best = select(better, scale * sum_qx, best)
        for k in range(groups):
            for kept, new in ((first, TRIAL), (OFF, MOVED)):
                chosen = select(better, load(w, ls, new + k), load(w, ls, kept + k))
                store(w, ls, kept + k, chosen)
    return scale


def _settle_groups(w: Any, grid: Any, ls: Any, first: Any, scale: Any, form: Any) -> Any:
    """Place the groups that OFF marks once more, at the scale found; returns the new scale."""
    zero, one = fill(w, 0.0), fill(w, 1.0)
    again = zero != zero
    inverse = one / scale
    for k in range(form.n // form.size):
        replaced = (scale > zero) & (load(w, ls, OFF + k) > zero)
        again = again | replaced
        _place(w, grid, ls, k, inverse, scale, TRIAL + k, form)
        chosen = select(replaced, load(w, ls, TRIAL + k), load(w, ls, first + k))
        store(w, ls, first + k, chosen)
    sum_qx, sum_q2 = _sums(w, ls, first, form)
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
        store(w, ls, row, select(empty, zero, load(w, ls, row)))


def _fit(w: Any, grid: Any, xs: Any, ls: Any, st: Any, g: Any, form: Any) -> None:
    """Everything but IQ2_XXS, the weights given."""
    _fold(w, xs, ls, g, form)
    largest = _largest(w, ls, form.n)
    first = CODE + g * (form.n // form.size)
    scale = _search(w, grid, ls, first, largest, largest / fill(w, form.top), form)
    scale = _settle_groups(w, grid, ls, first, scale, form)
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
    scale = _search(w, grid, ls, CODE + 4 * g, reach, scale, IQ2_XXS)
    for k in range(4):
        store(w, ls, OFF + k, fill(w, 1.0))
    scale = _settle_groups(w, grid, ls, CODE + 4 * g, scale, IQ2_XXS)
    _keep(w, ls, st, g, scale, empty, IQ2_XXS)


def iq2_xs(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """16 sub-blocks, 512 points."""
    importance_weights(w, xs, qs, ls[WEIGHT:], 16, sigma2)
    _fit(w, grid, xs, ls, st, g, IQ2_XS)


def iq2_s(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """Without importances: weights sigma2 / 4 + x*x."""
    part = fill(w, 0.25) * sigma2
    for i in range(16):
        x = load(w, xs, i)
        store(w, ls, WEIGHT + i, part + x * x)
    _fit(w, grid, xs, ls, st, g, IQ2_S)


def iq2_s_weighted(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """16 sub-blocks, 1,024 points, all signs kept."""
    importance_weights(w, xs, qs, ls[WEIGHT:], 16, sigma2)
    _fit(w, grid, xs, ls, st, g, IQ2_S)


def iq3_xxs(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """Without importances: weights x*x."""
    for i in range(32):
        x = load(w, xs, i)
        store(w, ls, WEIGHT + i, x * x)
    _fit(w, grid, xs, ls, st, g, IQ3_XXS)


def iq3_xxs_weighted(
    w: Any, grid: Any, xs: Any, qs: Any, ls: Any, ints: Any, st: Any, g: Any, sigma2: Any
) -> None:
    """8 sub-blocks, 256 points of four values."""
    importance_weights(w, xs, qs, ls[WEIGHT:], 32, sigma2)
    _fit(w, grid, xs, ls, st, g, IQ3_XXS)


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
