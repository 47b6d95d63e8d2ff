"""What the compiled engine measures of blocks without a search: their extremes.

Texts that numba compiles; nothing here needs it to be imported. ``source`` are bytes that hold
float32, ``first`` the number of the first of 32 blocks' rows of 32 values, ``st`` the columns of
:mod:`mbuild.quant.search.simple`.
"""

from __future__ import annotations

from typing import Any

from mbuild.quant.layouts.instructions import (
    first_lane,
    lane_of,
    largest,
    load_f32,
    magnitudes,
    ranges,
)
from mbuild.quant.search import simple
from mbuild.quant.search.methods import Measure
from mbuild.quant.search.ops import absolute, any_lane, bits, fill, load, select, store, whole
from mbuild.quant.search.simple import LANES


def settle_sign(w: Any, source: Any, first: Any, b: Any, st: Any) -> None:
    """VALUE of block ``b`` becomes the first of its values that have VALUE's magnitude."""
    value = load_f32(w, source, first + b)
    same = absolute(value) == absolute(fill(w, st[simple.VALUE, b]))
    st[simple.VALUE, b] = lane_of(value, first_lane(same))


def measure_magnitude(w: Any, source: Any, first: Any, count: Any, st: Any) -> Any:
    """TOP of 32 blocks: the largest magnitudes. Returns whether all values are finite."""
    if count == 1:
        for b in range(0, LANES, 8):
            magnitudes(source, first + b, st, simple.TOP, b)
    else:
        for b in range(LANES):
            top = largest(load_f32(w, source, first + b * count))
            for i in range(1, count):
                top = max(top, largest(load_f32(w, source, first + b * count + i)))
            st[simple.TOP, b] = top
    return not any_lane(bits(load(w, st, simple.TOP)) > whole(w, 0x7F7FFFFF))


def measure_range(w: Any, source: Any, first: Any, count: Any, st: Any) -> Any:
    """TOP and VALUE of 32 blocks: the greatest and the first least value; as above."""
    if not _extremes(source, first, st) and not finite(w, source, first):
        return False
    least = load(w, st, simple.VALUE)
    if any_lane(least == fill(w, 0.0)):
        for b in range(LANES):
            if st[simple.VALUE, b] == 0.0:
                settle_sign(w, source, first, b, st)
    return True


def measure_extreme(w: Any, source: Any, first: Any, count: Any, st: Any) -> Any:
    """TOP and VALUE of 32 blocks: the largest magnitude and the first such value; as above."""
    if not _extremes(source, first, st) and not finite(w, source, first):
        return False
    high, low = load(w, st, simple.TOP), load(w, st, simple.VALUE)
    above = high > -low
    store(w, st, simple.TOP, select(above, high, -low))
    store(w, st, simple.VALUE, select(above, high, low))
    if any_lane((high == -low) & (high > fill(w, 0.0))):
        for b in range(LANES):
            settle_sign(w, source, first, b, st)
    return True


def _extremes(source: Any, first: Any, st: Any) -> Any:
    """Greatest and least values; returns whether all are finite, perhaps falsely no."""
    total = ranges(source, first, st, simple.TOP, 0)
    for b in range(8, LANES, 8):
        total = total + ranges(source, first + b, st, simple.TOP, b)
    # A difference of infinities is no number, and unequal to itself.
    rest = total - total
    return not any_lane(rest != rest)


def finite(w: Any, source: Any, first: Any) -> Any:
    """Whether all values of 32 rows are finite."""
    rest = fill(w, 0.0)
    for b in range(LANES):
        value = load_f32(w, source, first + b)
        rest = rest + (value - value)
    return not any_lane(rest != rest)


MEASURES = {
    Measure.MAGNITUDE: measure_magnitude,
    Measure.EXTREME: measure_extreme,
    Measure.RANGE: measure_range,
}
