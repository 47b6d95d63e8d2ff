"""Q2_K, Q4_K and Q5_K: levels above a minimum, scales and minima of sub-blocks quantized too.

Constants are those of ``ggml-quants.c``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.gguf.types import GGMLType
from mbuild.quant.layouts import checks, emit, levels, packing
from mbuild.quant.layouts.packing import Bytes, Whole
from mbuild.quant.search.columns import DMIN, WHOLE_HEAD, Columns, D, Sub
from mbuild.quant.search.findings import BASE, SCALE, STEP, WEIGHT, keep_affine
from mbuild.quant.search.fitting import fit_affine, fit_positive, importance_weights, sum_of_squares
from mbuild.quant.search.halves import half_bits, half_value
from mbuild.quant.search.methods import MethodLayout, Parts, Search
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
    whole,
)


def _rms_weights(w: Any, xs: Any, ws: Any) -> None:
    """Root mean square of the 32 values plus the value's magnitude."""
    mean = root(sum_of_squares(w, xs, 32, fill(w, 0.0)) / fill(w, 32.0))
    for i in range(32):
        store(w, ws, i, mean + absolute(load(w, xs, i)))


def fit_q2_k(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Weights are the magnitudes; absolute errors."""
    for i in range(16):
        store(w, c.weights, i, absolute(load(w, c.values, i)))
    keep_affine(
        w,
        c.found,
        16,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 16, 3), (-0.5, 0.1, 15), True),
    )


def fit_q4_k(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """16 levels above a minimum."""
    _rms_weights(w, c.values, c.weights)
    keep_affine(
        w,
        c.found,
        8,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 15), (-1.0, 0.1, 20), False),
    )


def fit_q5_k(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """32 levels above a minimum."""
    _rms_weights(w, c.values, c.weights)
    keep_affine(
        w,
        c.found,
        8,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 31), (-0.5, 0.1, 15), False),
    )


def fit_q2_k_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q2_K with an importance matrix: squared errors, 37 trials."""
    store(w, c.found, WEIGHT * 16 + g, importance_weights(w, c, 16, sigma2))
    keep_affine(
        w,
        c.found,
        16,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 16, 3), (-0.9, 0.05, 36), False),
    )


def fit_q4_k_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q4_K with an importance matrix."""
    store(w, c.found, WEIGHT * 8 + g, importance_weights(w, c, 32, sigma2))
    keep_affine(
        w,
        c.found,
        8,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 15), (-0.9, 0.05, 36), False),
    )


def fit_q5_k_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q5_K with an importance matrix."""
    store(w, c.found, WEIGHT * 8 + g, importance_weights(w, c, 32, sigma2))
    keep_affine(
        w,
        c.found,
        8,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 31), (-0.9, 0.05, 36), False),
    )


def _largest(w: Any, st: Any, row: Any, count: Any) -> Any:
    """The largest of ``count`` rows, 0 if none is positive."""
    best = fill(w, 0.0)
    for g in range(count):
        value = load(w, st, row + g)
        best = select(value > best, value, best)
    return best


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


def _pack_sixes(it: Whole) -> Bytes:
    """8 scales and 8 minima of 6 bits in 12 bytes."""
    sc, m = packing.rows_of(it, WHOLE_HEAD, 8), packing.rows_of(it, WHOLE_HEAD + 8, 8)
    return np.concatenate(
        [
            sc[:, :4] | (sc[:, 4:] >> 4 << 6),
            m[:, :4] | (m[:, 4:] >> 4 << 6),
            (sc[:, 4:] & 0x0F) | (m[:, 4:] << 4),
        ],
        axis=1,
    )


def pack_q2_k(levels: Bytes, it: Whole) -> Bytes:
    """16 bytes of scales and minima, 64 of levels, two float16."""
    scales = packing.rows_of(it, WHOLE_HEAD, 16) | packing.rows_of(it, WHOLE_HEAD + 16, 16) << 4
    return np.concatenate(
        [scales, packing.quarters(levels), packing.half(it[D]), packing.half(it[DMIN])], axis=1
    )


def pack_q4_k(levels: Bytes, it: Whole) -> Bytes:
    """Two float16, 12 bytes of scales and minima, 128 of levels."""
    return np.concatenate(
        [packing.half(it[D]), packing.half(it[DMIN]), _pack_sixes(it), packing.nibbles(levels, 64)],
        axis=1,
    )


def pack_q5_k(levels: Bytes, it: Whole) -> Bytes:
    """As Q4_K, with 32 bytes of high bits before the low ones."""
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    high = ((levels >> 4).reshape(-1, 8, 32) << shifts).sum(axis=1).astype(np.uint8)
    head = [packing.half(it[D]), packing.half(it[DMIN]), _pack_sixes(it)]
    return np.concatenate([*head, high, packing.nibbles(levels, 64)], axis=1)


def _emit_sixes(it: Any, b: Any, out: Any, o: Any) -> None:
    for g in range(4):
        s, s4 = it[WHOLE_HEAD + g, b], it[WHOLE_HEAD + 4 + g, b]
        m, m4 = it[WHOLE_HEAD + 8 + g, b], it[WHOLE_HEAD + 12 + g, b]
        out[o + g] = s | ((s4 >> 4) << 6)
        out[o + 4 + g] = m | ((m4 >> 4) << 6)
        out[o + 8 + g] = (s4 & 0x0F) | ((m4 & 0x0F) << 4)


def emit_q2_k(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """16 bytes of scales and minima, 64 of levels, two float16."""
    for g in range(16):
        out[o + g] = it[WHOLE_HEAD + g, b] | (it[WHOLE_HEAD + 16 + g, b] << 4)
    emit.quarters(levels, 0, out, o + 16)
    emit.half(out, o + 80, it[D, b])
    emit.half(out, o + 82, it[DMIN, b])


def emit_q4_k(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """Two float16, 12 bytes of scales and minima, 128 of levels."""
    emit.half(out, o, it[D, b])
    emit.half(out, o + 2, it[DMIN, b])
    _emit_sixes(it, b, out, o + 4)
    emit.nibbles(levels, out, o + 16, 4, 32)


def emit_q5_k(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """As Q4_K, with 32 bytes of high bits before the low ones."""
    emit.half(out, o, it[D, b])
    emit.half(out, o + 2, it[DMIN, b])
    _emit_sixes(it, b, out, o + 4)
    emit.one_bit(levels, 4, out, o + 16)
    emit.nibbles(levels, out, o + 48, 4, 32)


_A, _ONE, _TWO = levels.AFFINE, (1.0, 1 / 256), (2.0, 1 / 256)

ROWS = {
    GGMLType.Q2_K: Parts(
        Search(16, 16, 3, _A, fit_q2_k, settle_q2_k),
        *checks.at(80, 82),
        MethodLayout(pack_q2_k, emit_q2_k),
        Search(16, 16, 3, _A, fit_q2_k_weighted, settle_q2_k_weighted, _ONE),
    ),
    GGMLType.Q4_K: Parts(
        Search(8, 32, 15, _A, fit_q4_k, settle_k),
        *checks.at(0, 2),
        MethodLayout(pack_q4_k, emit_q4_k),
        Search(8, 32, 15, _A, fit_q4_k_weighted, settle_q4_k_weighted, _TWO),
    ),
    GGMLType.Q5_K: Parts(
        Search(8, 32, 31, _A, fit_q5_k, settle_k),
        *checks.at(0, 2),
        MethodLayout(pack_q5_k, emit_q5_k),
        Search(8, 32, 31, _A, fit_q5_k_weighted, settle_q5_k_weighted, _TWO),
    ),
}
