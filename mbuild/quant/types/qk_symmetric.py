"""Q3_K and Q6_K: levels around zero, the scales of sub-blocks quantized too.

Constants are those of ``ggml-quants.c``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.gguf.types import GGMLType
from mbuild.quant.layouts import checks, emit, levels, packing
from mbuild.quant.layouts.instructions import store_bytes
from mbuild.quant.layouts.packing import Bytes, Whole
from mbuild.quant.layouts.rooms import Room, SearchedShape
from mbuild.quant.search.columns import WHOLE_HEAD, Columns, D, Sub
from mbuild.quant.search.findings import (
    INVERSE,
    OFFSET,
    SCALE,
    STEP,
    WEIGHT,
    keep_symmetric,
    largest_magnitude,
    square_weights,
)
from mbuild.quant.search.fitting import TINY, fit_descent, fit_symmetric, importance_weights
from mbuild.quant.search.halves import half_bits, half_value
from mbuild.quant.search.methods import Levels, MethodLayout, Parts, Search
from mbuild.quant.search.ops import clamp, fill, load, nearest, real, select, store, truncate, whole


def fit_q3_k(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """8 levels by coordinate descent; the levels stay in the scratch."""
    s = Sub(c.values, c.weights, c.scratch[g * 16 :], 16, 4)
    store(w, c.found, SCALE * 16 + g, fit_descent(w, s))


def fit_q6_k(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """64 levels around zero, weights x*x."""
    square_weights(w, c.values, c.weights, 16)
    keep_symmetric(
        w, c.found, 16, g, fit_symmetric(w, Sub(c.values, c.weights, c.scratch, 16, 32), True)
    )


def fit_q3_k_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q3_K with an importance matrix: no descent, and levels kept likewise."""
    store(w, c.found, WEIGHT * 16 + g, importance_weights(w, c, 16, sigma2))
    s = Sub(c.values, c.weights, c.scratch[g * 16 :], 16, 4)
    scale, inverse, shift = fit_symmetric(w, s, True)
    store(w, c.found, SCALE * 16 + g, scale)
    for i in range(16):
        level = real(clamp(nearest(inverse * load(w, c.values, i)), -4, 3))
        store(w, c.scratch, g * 16 + i, level + shift)


def fit_q6_k_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q6_K with an importance matrix: the importances are the weights."""
    s = Sub(c.values, c.importances, c.scratch, 16, 32)
    keep_symmetric(w, c.found, 16, g, fit_symmetric(w, s, True))


def settle_q3_k(w: Any, c: Columns) -> None:
    """6-bit scales around zero against the extreme one; stored plus 32."""
    zero = fill(w, 0.0)
    _, extreme = largest_magnitude(w, c.found, 0, 16)
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
    magnitude, extreme = largest_magnitude(w, c.found, 0, 16)
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


def choose_descent(method: Search, x: Any, c: Columns) -> Any:
    """As of a symmetric search, but where STEP is 0 the search's levels themselves."""
    kept = c.scratch.T.reshape(x.shape).astype(np.int32)
    return np.where(
        levels.of_each(method, c, STEP) == 0, kept, levels.final_symmetric(method, x, c)
    )


def descent_levels(e: Any, room: Room, shape: SearchedShape, b: Any) -> None:
    """Levels around zero, or those that the search left in the scratch."""
    subs, n, nmax = shape
    st = room.columns.found
    for g in range(subs):
        step = st[STEP * subs + g, b]
        if step == 0.0:
            for i in range(n):
                room.levels[g * n + i] = int(room.columns.scratch[g * n + i, b])
        else:
            for i in range(n // 16):
                value = load(e, room.rows, (b * subs + g) * (n // 16) + i) / fill(e, step)
                level = clamp(nearest(value), -nmax, nmax - 1) + nmax
                store_bytes(e, room.levels, g * n + i * 16, level)


DESCENT = Levels(choose_descent, descent_levels)


def pack_q3_k(levels: Bytes, it: Whole) -> Bytes:
    """32 bytes of high bits, 64 of low ones, 12 of scales, one float16."""
    high = ((levels > 3).reshape(-1, 8, 32) << np.arange(8)[:, None]).sum(axis=1)
    low = np.where(levels > 3, levels - 4, levels).astype(np.uint8)
    sc = packing.rows_of(it, WHOLE_HEAD, 16)
    upper = (sc >> 4).reshape(-1, 4, 4)
    scales = np.concatenate(
        [
            (sc[:, :8] & 0x0F) | (sc[:, 8:] << 4),
            upper[:, 0] | upper[:, 1] << 2 | upper[:, 2] << 4 | upper[:, 3] << 6,
        ],
        axis=1,
    )
    return np.concatenate(
        [high.astype(np.uint8), packing.quarters(low), scales, packing.half(it[D])], axis=1
    )


def pack_q6_k(levels: Bytes, it: Whole) -> Bytes:
    """128 bytes of low bits, 64 of high ones, 16 scales, one float16."""
    # Values l, l + 64 of 128 share a byte of ql, then l + 32, l + 96.
    low = packing.nibbles(levels, 128)
    scales = packing.rows_of(it, WHOLE_HEAD, 16)
    return np.concatenate(
        [low, packing.quarters((levels >> 4).astype(np.uint8)), scales, packing.half(it[D])], axis=1
    )


def emit_q3_k(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """32 bytes of high bits, 64 of low ones, 12 of scales, one float16."""
    emit.one_bit(levels, 2, out, o)
    emit.quarters(levels, 0, out, o + 32)
    for g in range(8):
        low = it[WHOLE_HEAD + g, b] & 0x0F
        out[o + 96 + g] = low | ((it[WHOLE_HEAD + 8 + g, b] & 0x0F) << 4)
    for g in range(4):
        upper = 0
        for k in range(4):
            upper |= (it[WHOLE_HEAD + 4 * k + g, b] >> 4) << (2 * k)
        out[o + 104 + g] = upper
    emit.half(out, o + 108, it[D, b])


def emit_q6_k(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """128 bytes of low bits, 64 of high ones, 16 scales, one float16."""
    emit.nibbles(levels, out, o, 2, 64)
    emit.quarters(levels, 4, out, o + 128)
    for g in range(16):
        out[o + 192 + g] = it[WHOLE_HEAD + g, b]
    emit.half(out, o + 208, it[D, b])


_TWO = (2.0, 1 / 256)

ROWS = {
    GGMLType.Q3_K: Parts(
        Search(16, 16, 4, DESCENT, fit_q3_k, settle_q3_k),
        *checks.at(108),
        MethodLayout(pack_q3_k, emit_q3_k),
        Search(16, 16, 4, DESCENT, fit_q3_k_weighted, settle_q3_k_weighted, _TWO),
    ),
    GGMLType.Q6_K: Parts(
        Search(16, 16, 32, levels.SYMMETRIC, fit_q6_k, settle_q6_k),
        *checks.at(208),
        MethodLayout(pack_q6_k, emit_q6_k),
        Search(16, 16, 32, levels.SYMMETRIC, fit_q6_k_weighted, settle_q6_k),
    ),
}
