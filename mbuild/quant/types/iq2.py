"""IQ2_XXS, IQ2_XS and IQ2_S: groups of eight on a grid, by :mod:`mbuild.quant.search.points`."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.gguf.types import GGMLType
from mbuild.quant.layouts import checks, emit, packing, point_emit, point_packing
from mbuild.quant.layouts.packing import Bytes
from mbuild.quant.search import points
from mbuild.quant.search.columns import CODE, SIGN, VALUE, WEIGHT, Columns, D, Sub
from mbuild.quant.search.fitting import fit_positive, importance_weights
from mbuild.quant.search.forms import ALL, EACH, Form
from mbuild.quant.search.grids import EIGHT, Grid
from mbuild.quant.search.methods import MethodLayout, OnGrid, Parts
from mbuild.quant.search.ops import fill, load, store

IQ2_XXS = Form(32, 8, 3, 2, 6561, 5, 6, 0.1, 1e-15, True, ALL)
IQ2_XS = Form(16, 8, 3, 2, 6561, 5, 9, 0.1, 1e-15, True, EACH)
IQ2_S = Form(16, 8, 3, 2, 6561, 5, 9, 0.1, 1e-8, False, EACH)


def fit_iq2_xxs(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Starts from a scale that a search without a grid finds; all groups are placed again."""
    importance_weights(w, c, 32, sigma2)
    points.fold(w, c, g, IQ2_XXS)
    largest = points.prepare(w, c, 32)
    zero = fill(w, 0.0)
    scale = fit_positive(w, Sub(c.scratch[VALUE:], c.weights, c.spots, 32, 4))
    reach = scale * fill(w, 3.0)
    empty = (largest < fill(w, IQ2_XXS.tiny)) | (reach <= zero)
    scale = points.search_scale(w, c, CODE + 4 * g, (reach, scale), IQ2_XXS)
    scale = points.settle_groups(w, c, CODE + 4 * g, scale, IQ2_XXS)
    points.keep(w, c, g, (scale, empty), IQ2_XXS)


def fit_iq2_xs(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """16 sub-blocks, 512 points."""
    importance_weights(w, c, 16, sigma2)
    points.fit(w, c, g, IQ2_XS)


def fit_iq2_s(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Without importances: weights sigma2 / 4 + x*x."""
    part = fill(w, 0.25) * sigma2
    for i in range(16):
        x = load(w, c.values, i)
        store(w, c.scratch, WEIGHT + i, part + x * x)
    points.fit(w, c, g, IQ2_S)


def fit_iq2_s_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """16 sub-blocks, 1,024 points, all signs kept."""
    importance_weights(w, c, 16, sigma2)
    points.fit(w, c, g, IQ2_S)


def settle_iq2_xxs(w: Any, c: Columns) -> None:
    """8 scales in four bits."""
    points.settle(w, c, 8, 1.0)


def settle_iq2_xs(w: Any, c: Columns) -> None:
    """16 scales in four bits."""
    points.settle(w, c, 16, 1.0)


def settle_iq2_s(w: Any, c: Columns) -> None:
    """16 scales in four bits; points and signs of a block without scales stay."""
    points.odd_scales(w, c, 16, 15, 0.9875)


def pack_iq2_xxs(c: Columns) -> Bytes:
    """One float16, then 8 times four points and a word of signs and scale."""
    points = point_packing.points(c, 32).astype(np.uint8).view("<u4")
    parts = np.stack([points, point_packing.words(c).astype("<u4")], axis=2)
    return np.concatenate(
        [packing.half(c.whole[D]), parts.reshape(len(parts), -1).view(np.uint8)], axis=1
    )


def pack_iq2_xs(c: Columns) -> Bytes:
    """One float16, 32 times nine bits of a point and seven signs, 16 scales."""
    words = (
        (point_packing.points(c, 32) | (point_packing.signs(c) << 9)).astype("<u2").view(np.uint8)
    )
    scales = packing.nibbles(point_packing.scales(c, 16).astype(np.uint8), 2)
    return np.concatenate([packing.half(c.whole[D]), words, scales], axis=1)


def pack_iq2_s(c: Columns) -> Bytes:
    """One float16, 32 low bytes of points, 32 of signs, 8 of high bits, 16 scales."""
    points = point_packing.points(c, 32)
    high = ((points >> 8).reshape(-1, 8, 4) << np.arange(0, 8, 2)).sum(axis=2)
    scales = packing.nibbles(point_packing.scales(c, 16).astype(np.uint8), 2)
    parts = [packing.half(c.whole[D]), points & 0xFF, point_packing.signs(c), high, scales]
    return np.concatenate([p.astype(np.uint8) for p in parts], axis=1)


def emit_iq2_xxs(c: Columns, b: Any, out: Any, o: Any) -> None:
    """One float16, then 8 times four points and a word of signs and scale."""
    emit.half(out, o, c.whole[D, b])
    for g in range(8):
        for k in range(4):
            out[o + 2 + 8 * g + k] = point_emit.point(c, 4 * g + k, b)
        point_emit.word(c, g, b, out, o + 6 + 8 * g)


def emit_iq2_xs(c: Columns, b: Any, out: Any, o: Any) -> None:
    """One float16, 32 times nine bits of a point and seven signs, 16 scales."""
    emit.half(out, o, c.whole[D, b])
    for k in range(32):
        word = point_emit.point(c, k, b) | (int(c.scratch[SIGN + k, b]) << 9)
        emit.half(out, o + 2 + 2 * k, word)
    point_emit.nibbles(c, b, out, o + 66)


def emit_iq2_s(c: Columns, b: Any, out: Any, o: Any) -> None:
    """One float16, 32 low bytes of points, 32 of signs, 8 of high bits, 16 scales."""
    emit.half(out, o, c.whole[D, b])
    for g in range(8):
        high = 0
        for j in range(4):
            k = 4 * g + j
            number = point_emit.point(c, k, b)
            out[o + 2 + k] = number & 0xFF
            out[o + 34 + k] = int(c.scratch[SIGN + k, b])
            high |= (number >> 8) << (2 * j)
        out[o + 66 + g] = high
    point_emit.nibbles(c, b, out, o + 74)


_XXS, _XS, _S = (
    Grid(*row) for row in (("IQ2_XXS", EIGHT, 2), ("IQ2_XS", EIGHT, 2), ("IQ2_S", EIGHT, 1))
)
_ONE, _TWO = (1.0, 1 / 256), (2.0, 1 / 256)

ROWS = {
    GGMLType.IQ2_XXS: Parts(
        None,
        *checks.at(0),
        MethodLayout(pack_iq2_xxs, emit_iq2_xxs),
        OnGrid(8, 32, _XXS, fit_iq2_xxs, settle_iq2_xxs, _ONE),
    ),
    GGMLType.IQ2_XS: Parts(
        None,
        *checks.at(0),
        MethodLayout(pack_iq2_xs, emit_iq2_xs),
        OnGrid(16, 16, _XS, fit_iq2_xs, settle_iq2_xs, _ONE),
    ),
    GGMLType.IQ2_S: Parts(
        OnGrid(16, 16, _S, fit_iq2_s, settle_iq2_s, _TWO),
        *checks.at(0),
        MethodLayout(pack_iq2_s, emit_iq2_s),
        OnGrid(16, 16, _S, fit_iq2_s_weighted, settle_iq2_s, _TWO),
    ),
}
