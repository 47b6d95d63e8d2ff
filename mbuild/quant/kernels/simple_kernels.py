"""Kernels of the types without a search, the casts and the checks, compiled by numba."""

# numba and llvmlite are typed in part or not at all.
# mypy: disable-error-code="import-untyped,import-not-found,no-untyped-call,no-untyped-def"
# mypy: disable-error-code="call-overload,misc,no-any-return,attr-defined,untyped-decorator"

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.kernels import emit
from mbuild.quant.kernels.emit import half
from mbuild.quant.kernels.lane_arrays import (
    as_bytes,
    as_rows,
    flat_reals,
    octets,
    reals,
    wholes,
)
from mbuild.quant.kernels.lane_bytes import (
    first_lane,
    lane_of,
    largest,
    load_f32,
    magnitudes,
    ranges,
    store_bits,
    store_bytes,
    store_halves,
    store_nibbles,
    store_words,
)
from mbuild.quant.kernels.tiles import allow, beyond, done, fetch, infinite
from mbuild.quant.search import fitting, simple
from mbuild.quant.search.fits import DMIN, MXFP4_VALUES, D
from mbuild.quant.search.ops import (
    absolute,
    any_lane,
    at_most,
    away,
    bits,
    fill,
    load,
    select,
    store,
    truncate,
    unbits,
    whole,
)
from mbuild.quant.search.simple import LANES, ROWS, Measure
from mbuild.quant.specs import SCALES

MXFP4 = np.array(MXFP4_VALUES, np.float32)


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


def _truncated(w: Any, source: Any, at: Any, nmax: Any, ranged: Any, st: Any, b: Any) -> Any:
    """Levels of the 32 values of a block that truncates; its LOW is 0 if not ``ranged``."""
    scaled = load_f32(w, source, at)
    if ranged:
        scaled = scaled - fill(w, st[simple.LOW, b])
    scaled = scaled * fill(w, st[simple.INVERSE, b]) + fill(w, st[simple.SHIFT, b])
    # No level is below zero.
    return at_most(truncate(scaled), nmax)


def _rounded(w: Any, source: Any, at: Any, st: Any, b: Any) -> Any:
    """Levels of 32 values of a block that rounds."""
    return away(load_f32(w, source, at) * fill(w, st[simple.INVERSE, b]))


def q4_0(
    w: Any, source: Any, at: Any, st: Any, it: Any, b: Any, levels: Any, out: Any, o: Any
) -> None:
    """One float16, 16 bytes of levels."""
    half(out, o, it[D, b])
    store_nibbles(w, out, o + 2, _truncated(w, source, at, 15, False, st, b))


def q4_1(
    w: Any, source: Any, at: Any, st: Any, it: Any, b: Any, levels: Any, out: Any, o: Any
) -> None:
    """Two float16, 16 bytes of levels."""
    half(out, o, it[D, b])
    half(out, o + 2, it[DMIN, b])
    store_nibbles(w, out, o + 4, _truncated(w, source, at, 15, True, st, b))


def q5_0(
    w: Any, source: Any, at: Any, st: Any, it: Any, b: Any, levels: Any, out: Any, o: Any
) -> None:
    """One float16, 32 high bits, 16 bytes of levels."""
    half(out, o, it[D, b])
    level = _truncated(w, source, at, 31, False, st, b)
    store_bits(w, out, o + 2, level > whole(w, 15))
    store_nibbles(w, out, o + 6, level)


def q5_1(
    w: Any, source: Any, at: Any, st: Any, it: Any, b: Any, levels: Any, out: Any, o: Any
) -> None:
    """Two float16, 32 high bits, 16 bytes of levels."""
    half(out, o, it[D, b])
    half(out, o + 2, it[DMIN, b])
    level = _truncated(w, source, at, 31, True, st, b)
    store_bits(w, out, o + 4, level > whole(w, 15))
    store_nibbles(w, out, o + 8, level)


def q8_0(
    w: Any, source: Any, at: Any, st: Any, it: Any, b: Any, levels: Any, out: Any, o: Any
) -> None:
    """One float16, 32 bytes of levels."""
    half(out, o, it[D, b])
    store_bytes(w, out, o + 2, _rounded(w, source, at, st, b))


def tq1_0(
    w: Any, source: Any, at: Any, st: Any, it: Any, b: Any, levels: Any, out: Any, o: Any
) -> None:
    """54 bytes of five ternary digits, one float16."""
    for i in range(8):
        store_bytes(w, levels, i * LANES, _rounded(w, source, at + i, st, b))
    emit.tq1_0(levels, it, b, out, o)


def tq2_0(
    w: Any, source: Any, at: Any, st: Any, it: Any, b: Any, levels: Any, out: Any, o: Any
) -> None:
    """64 bytes of four ternary digits, one float16."""
    for i in range(8):
        store_bytes(w, levels, i * LANES, _rounded(w, source, at + i, st, b))
    emit.tq2_0(levels, it, b, out, o)


_EMIT = {
    GGMLType.Q4_0: q4_0,
    GGMLType.Q4_1: q4_1,
    GGMLType.Q5_0: q5_0,
    GGMLType.Q5_1: q5_1,
    GGMLType.Q8_0: q8_0,
    GGMLType.TQ1_0: tq1_0,
    GGMLType.TQ2_0: tq2_0,
}


_MEASURE = {
    Measure.MAGNITUDE: measure_magnitude,
    Measure.EXTREME: measure_extreme,
    Measure.RANGE: measure_range,
}


@cache
def kernel_of(type_: GGMLType) -> Any:
    """kernel(w, e, source, kind, out), as :func:`mbuild.quant.kernels.tiles.plain` has it.

    ``w`` is the width ``LANES``, a tile 32 blocks.
    """
    for text in (fitting, emit, simple, beyond, done, fetch, infinite, sys.modules[__name__]):
        allow(text)
    row = simple.SIMPLE[type_]
    scale, block, count = row.scale, row.weights, row.weights // LANES
    measure = _MEASURE[row.measure]
    write, size, scales = _EMIT[type_], BLOCKS[type_].size, len(SCALES[type_])

    def kernel(w, e, source, kind, out):
        st = reals(w, ROWS)
        it = wholes(w, 2)
        levels = octets(block)
        x = flat_reals(w, block)
        wide = as_bytes(x)
        suspect = whole(w, 0)
        for tile in range(out.size // (LANES * size)):
            values, first = source, tile * LANES * count
            if kind != 0:
                if not fetch(e, source, kind, tile * x.size, x):
                    return tile
                values, first = wide, 0
            if not measure(w, values, first, count, st):
                return tile
            scale(w, st, it)
            suspect = suspect | infinite(w, it, scales)
            for b in range(LANES):
                at = (tile * LANES + b) * size
                write(w, values, first + b * count, st, it, b, levels, out, at)
        return done(w, suspect)

    return kernel


def put_f16(w: Any, out: Any, o: Any, value: Any) -> Any:
    """float16, to nearest even; returns where it is infinite."""
    half = fitting.half_bits(w, value)
    store_halves(w, out, o, half)
    return beyond(half)


def put_bf16(w: Any, out: Any, o: Any, value: Any) -> Any:
    """bfloat16, to nearest even; returns where it is infinite."""
    pattern = bits(value)
    odd = (pattern >> 16) & 1
    rounded = (pattern + odd + 0x7FFF) >> 16
    store_halves(w, out, o, rounded)
    return ((rounded & 0x7FFF) + 0x80) & 0x8000


def put_f32(w: Any, out: Any, o: Any, value: Any) -> Any:
    """float32 as it is."""
    store_words(w, out, o, bits(value))
    return whole(w, 0)


_PUT = {GGMLType.F16: put_f16, GGMLType.BF16: put_bf16, GGMLType.F32: put_f32}


@cache
def cast_of(type_: GGMLType) -> Any:
    """A kernel like :func:`kernel_of` for a type without blocks; a tile is 1024 values."""
    for text in (fitting, beyond, done, fetch, sys.modules[__name__]):
        allow(text)
    put, size = _PUT[type_], BLOCKS[type_].size

    def kernel(w, e, source, kind, out):
        x = flat_reals(w, LANES)
        rows = as_rows(x, LANES)
        suspect = whole(w, 0)
        for tile in range(out.size // (x.size * size)):
            if not fetch(e, source, kind, tile * x.size, x):
                return tile
            for i in range(LANES):
                at = (tile * x.size + i * LANES) * size
                suspect = suspect | put(w, out, at, load(w, rows, i))
        return done(w, suspect)

    return kernel


def write_mxfp4(w: Any, value: Any, out: Any, o: Any) -> Any:
    """One exponent, 16 bytes of levels; returns the exponent."""
    top = largest(value)
    exponent: Any = 0
    pattern = np.float32(top).view(np.int32)
    if pattern > 0x00800000 and (pattern & 0x7FFFFF) < 0x7FFF00:
        exponent = ((pattern >> 23) - 2) & 0xFF
    elif top > 0.0:
        # float32 rounds up to the next integer just below a power of two, as log2f does.
        exponent = (int(np.floor(np.float32(np.log2(np.float64(top))))) + 125) & 0xFF
    out[o] = exponent
    scale = unbits(whole(w, 0x00200000 << exponent if exponent < 2 else (exponent - 1) << 23))
    best = whole(w, 0)
    # A level of the other sign is never nearer than 0, and those of both signs are alike.
    magnitude = absolute(value)
    least = magnitude
    for i in range(1, 8):
        error = absolute(fill(w, MXFP4[i]) * scale - magnitude)
        better = error < least
        best = select(better, whole(w, i), best)
        least = select(better, error, least)
    below = (value < fill(w, 0.0)) & (best != whole(w, 0))
    store_nibbles(w, out, o + 1, select(below, best + 8, best))
    return exponent


@cache
def mxfp4() -> Any:
    """A kernel like :func:`kernel_of` for MXFP4."""
    for text in (fitting, beyond, done, fetch, sys.modules[__name__]):
        allow(text)

    def kernel(w, e, source, kind, out):
        x = flat_reals(w, LANES)
        rows = as_rows(x, LANES)
        top = 0
        for tile in range(out.size // (LANES * 17)):
            if not fetch(e, source, kind, tile * x.size, x):
                return tile
            for b in range(LANES):
                at = (tile * LANES + b) * 17
                top = max(top, write_mxfp4(w, load(w, rows, b), out, at))
        return -2 if top == 0xFF else -1

    return kernel


def choose(type_: GGMLType) -> Any:
    """The kernel of a type of this module."""
    if type_ in _PUT:
        return cast_of(type_)
    return mxfp4() if type_ is GGMLType.MXFP4 else kernel_of(type_)
