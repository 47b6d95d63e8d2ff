"""IQ3_XXS and IQ3_S: groups of four on a grid, by :mod:`mbuild.quant.search.points`."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.gguf.types import GGMLType
from mbuild.quant.layouts import checks, emit, packing, point_emit, point_packing
from mbuild.quant.layouts.packing import Bytes
from mbuild.quant.search import points
from mbuild.quant.search.columns import CODE, SIGN, WEIGHT, WHOLE_HEAD, Columns, D
from mbuild.quant.search.fitting import importance_weights
from mbuild.quant.search.forms import ANY, EACH, Form
from mbuild.quant.search.grids import FOUR, MOVED, Grid
from mbuild.quant.search.methods import MethodLayout, OnGrid, Parts
from mbuild.quant.search.ops import load, store

IQ3_XXS = Form(32, 4, 8, 4, 4096, 15, 15, 0.2, 1e-8, True, EACH)
IQ3_S = Form(32, 4, 8, 4, 4096, 15, 9, 0.2, 1e-45, False, ANY, MOVED, -1)
"""Without a better scale its groups count as moved; an empty sub-block has no points."""


def _square_weights(w: Any, c: Columns) -> None:
    for i in range(32):
        x = load(w, c.values, i)
        store(w, c.scratch, WEIGHT + i, x * x)


def fit_iq3_xxs(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Without importances: weights x*x."""
    _square_weights(w, c)
    points.fit(w, c, g, IQ3_XXS)


def fit_iq3_xxs_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """8 sub-blocks, 256 points of four values."""
    importance_weights(w, c, 32, sigma2)
    points.fit(w, c, g, IQ3_XXS)


def fit_iq3_s(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Without importances: weights x*x."""
    _square_weights(w, c)
    points.fit(w, c, g, IQ3_S)


def fit_iq3_s_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """8 sub-blocks, 512 points of four values, all signs kept."""
    importance_weights(w, c, 32, sigma2)
    points.fit(w, c, g, IQ3_S)


def settle_iq3_xxs(w: Any, c: Columns) -> None:
    """8 scales in four bits."""
    points.settle(w, c, 8, 1.0125)


def settle_iq3_s(w: Any, c: Columns) -> None:
    """8 scales in four bits; points and signs of a block without scales stay."""
    points.odd_scales(w, c, 8, 15, 1.033)


def pack_iq3_xxs(c: Columns) -> Bytes:
    """One float16, 64 points, 8 words of signs and scale."""
    points = point_packing.points(c, 64).astype(np.uint8)
    return np.concatenate(
        [packing.half(c.whole[D]), points, point_packing.words(c).astype("<u4").view(np.uint8)], 1
    )


def pack_iq3_s(c: Columns) -> Bytes:
    """An empty sub-block takes no place among points and signs: those after it move up."""
    points = point_packing.points(c, 64).reshape(-1, 8, 8)
    full = np.ascontiguousarray(c.scratch[CODE : CODE + 64 : 8].T) >= 0
    order = np.argsort(~full, axis=1, kind="stable")[:, :, None]
    kept = np.arange(8)[None, :, None] < full.sum(axis=1)[:, None, None]
    low = np.where(kept, np.take_along_axis(points & 0xFF, order, 1), 0)
    high = np.where(full, ((points >> 8) << np.arange(8)).sum(axis=2), 0)
    signs = np.where(
        kept, np.take_along_axis(point_packing.signs(c).reshape(-1, 8, 4), order, 1), 0
    )
    size = len(points)
    scales = packing.nibbles(point_packing.scales(c, 8).astype(np.uint8), 2)
    parts = [packing.half(c.whole[D]), low.reshape(size, -1), high, signs.reshape(size, -1), scales]
    return np.concatenate([p.astype(np.uint8) for p in parts], axis=1)


def emit_iq3_xxs(c: Columns, b: Any, out: Any, o: Any) -> None:
    """One float16, 64 points, 8 words of signs and scale."""
    emit.half(out, o, c.whole[D, b])
    for k in range(64):
        out[o + 2 + k] = point_emit.point(c, k, b)
    for g in range(8):
        point_emit.word(c, g, b, out, o + 66 + 4 * g)


def emit_iq3_s(c: Columns, b: Any, out: Any, o: Any) -> None:
    """One float16, 64 low bytes of points, 8 of high bits, 32 of signs, 4 of scales.

    An empty sub-block takes no place among points and signs: those after it move up.
    """
    emit.half(out, o, c.whole[D, b])
    for i in range(2, 106):
        out[o + i] = 0
    at = 0
    for g in range(8):
        if c.scratch[CODE + 8 * g, b] < 0.0:
            continue
        high = 0
        for k in range(8):
            number = point_emit.point(c, 8 * g + k, b)
            out[o + 2 + at * 8 + k] = number & 0xFF
            high |= (number >> 8) << k
        out[o + 66 + g] = high
        for k in range(4):
            out[o + 74 + at * 4 + k] = int(c.scratch[SIGN + 4 * g + k, b])
        at += 1
    for g in range(4):
        out[o + 106 + g] = c.whole[WHOLE_HEAD + 2 * g, b] | (
            c.whole[WHOLE_HEAD + 2 * g + 1, b] << 4
        )


_XXS, _S = Grid("IQ3_XXS", FOUR, 2), Grid("IQ3_S", FOUR, 3)
_TWO = (2.0, 1 / 256)

ROWS = {
    GGMLType.IQ3_XXS: Parts(
        OnGrid(8, 32, _XXS, fit_iq3_xxs, settle_iq3_xxs, _TWO),
        *checks.at(0),
        MethodLayout(pack_iq3_xxs, emit_iq3_xxs),
        OnGrid(8, 32, _XXS, fit_iq3_xxs_weighted, settle_iq3_xxs, _TWO),
    ),
    GGMLType.IQ3_S: Parts(
        OnGrid(8, 32, _S, fit_iq3_s, settle_iq3_s, _TWO),
        *checks.at(0),
        MethodLayout(pack_iq3_s, emit_iq3_s),
        OnGrid(8, 32, _S, fit_iq3_s_weighted, settle_iq3_s, _TWO),
    ),
}
