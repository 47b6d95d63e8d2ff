"""Per type: how a block's scales are stored, once all its sub-blocks are fitted.

Like the searches this text runs in both engines (:mod:`mbuild.quant.search.ops`);
:mod:`mbuild.quant.search.fits` says what these functions find and leave. Constants are
those of ``ggml-quants.c``.
"""

from __future__ import annotations

from typing import Any

from mbuild.quant.search.columns import DMIN, WHOLE_HEAD, Columns, D, Sub
from mbuild.quant.search.fits import BASE, INVERSE, LOW, OFFSET, SCALE, STEP, WEIGHT
from mbuild.quant.search.fitting import TINY, fit_positive, fit_symmetric
from mbuild.quant.search.halves import half_bits, half_value
from mbuild.quant.search.ops import (
    absolute,
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


def settle_single(w: Any, c: Columns) -> None:
    """Q4_0 ... Q5_1 with an importance matrix: scale and minimum as found, in float16."""
    store(w, c.whole, D, half_bits(w, load(w, c.found, SCALE)))
    store(w, c.whole, DMIN, half_bits(w, -load(w, c.found, LOW)))
    store(w, c.found, STEP, fill(w, 0.0))
