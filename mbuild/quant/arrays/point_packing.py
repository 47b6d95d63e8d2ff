"""The numpy engine's layouts of the types on grids: codes, signs and scales to bytes.

The twin of :mod:`mbuild.quant.kernels.point_emit`. ``ls`` are the scratch columns that a
search left (:mod:`mbuild.quant.search.points`), ``it`` the whole columns and ``numbers`` the
grid's point numbers; each function returns uint8 (blocks, bytes of a block).
Layouts: ``ggml-common.h``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mbuild.gguf.types import GGMLType
from mbuild.quant.arrays.packing import Bytes, Whole, half, nibbles
from mbuild.quant.search.fits import WHOLE_HEAD, D
from mbuild.quant.search.points import CODE, SIGN


def _points(ls: Any, numbers: Any, count: int) -> Any:
    """The groups' point numbers, (blocks, count)."""
    codes = np.ascontiguousarray(ls[CODE : CODE + count].T).astype(np.int64)
    return numbers[np.maximum(codes, 0)]


def _signs(ls: Any) -> Any:
    return np.ascontiguousarray(ls[SIGN : SIGN + 32].T).astype(np.uint32)


def _scales(it: Whole, count: int) -> Any:
    return np.ascontiguousarray(it[WHOLE_HEAD : WHOLE_HEAD + count].T)


def _words(ls: Any, it: Whole) -> Any:
    """Four times seven signs and a scale in 32 bits, (blocks, 8)."""
    parts = _signs(ls).reshape(-1, 8, 4) << np.arange(0, 28, 7, dtype=np.uint32)
    return parts.sum(axis=2, dtype=np.uint32) | (_scales(it, 8).astype(np.uint32) << 28)


def _iq2_xxs(ls: Any, it: Whole, numbers: Any) -> Bytes:
    points = _points(ls, numbers, 32).astype(np.uint8).view("<u4")
    parts = np.stack([points, _words(ls, it).astype("<u4")], axis=2)
    return np.concatenate([half(it[D]), parts.reshape(len(parts), -1).view(np.uint8)], axis=1)


def _iq2_xs(ls: Any, it: Whole, numbers: Any) -> Bytes:
    words = (_points(ls, numbers, 32) | (_signs(ls) << 9)).astype("<u2").view(np.uint8)
    scales = nibbles(_scales(it, 16).astype(np.uint8), 2)
    return np.concatenate([half(it[D]), words, scales], axis=1)


def _iq2_s(ls: Any, it: Whole, numbers: Any) -> Bytes:
    points = _points(ls, numbers, 32)
    high = ((points >> 8).reshape(-1, 8, 4) << np.arange(0, 8, 2)).sum(axis=2)
    scales = nibbles(_scales(it, 16).astype(np.uint8), 2)
    parts = [half(it[D]), points & 0xFF, _signs(ls), high, scales]
    return np.concatenate([p.astype(np.uint8) for p in parts], axis=1)


def _iq3_xxs(ls: Any, it: Whole, numbers: Any) -> Bytes:
    points = _points(ls, numbers, 64).astype(np.uint8)
    return np.concatenate([half(it[D]), points, _words(ls, it).astype("<u4").view(np.uint8)], 1)


def _iq3_s(ls: Any, it: Whole, numbers: Any) -> Bytes:
    """An empty sub-block takes no place among points and signs: those after it move up."""
    points = _points(ls, numbers, 64).reshape(-1, 8, 8)
    full = np.ascontiguousarray(ls[CODE : CODE + 64 : 8].T) >= 0
    order = np.argsort(~full, axis=1, kind="stable")[:, :, None]
    kept = np.arange(8)[None, :, None] < full.sum(axis=1)[:, None, None]
    low = np.where(kept, np.take_along_axis(points & 0xFF, order, 1), 0)
    high = np.where(full, ((points >> 8) << np.arange(8)).sum(axis=2), 0)
    signs = np.where(kept, np.take_along_axis(_signs(ls).reshape(-1, 8, 4), order, 1), 0)
    size = len(points)
    scales = nibbles(_scales(it, 8).astype(np.uint8), 2)
    parts = [half(it[D]), low.reshape(size, -1), high, signs.reshape(size, -1), scales]
    return np.concatenate([p.astype(np.uint8) for p in parts], axis=1)


def _iq1_s(ls: Any, it: Whole, numbers: Any) -> Bytes:
    points = _points(ls, numbers, 32)
    high = ((points >> 8).reshape(-1, 8, 4) << np.arange(0, 12, 3)).sum(axis=2)
    high = high | (_scales(it, 8) << 12) | (_signs(ls)[:, :8] << 15)
    low = points.astype(np.uint8)
    return np.concatenate([half(it[D]), low, high.astype("<u2").view(np.uint8)], axis=1)


def _iq1_m(ls: Any, it: Whole, numbers: Any) -> Bytes:
    points = _points(ls, numbers, 32)
    high = ((points >> 8) | (_signs(ls) << 3)).astype(np.uint8)
    scales = (_scales(it, 16).reshape(-1, 4, 4) << np.arange(0, 12, 3)).sum(axis=2)
    # The float16 lies in the highest four bits of the words of scales.
    scales = scales | ((it[D][:, None] >> np.arange(0, 16, 4)) & 15) << 12
    parts = [points.astype(np.uint8), nibbles(high, 2), scales.astype("<u2").view(np.uint8)]
    return np.concatenate(parts, axis=1)


PACK: dict[GGMLType, Callable[[Any, Whole, Any], Bytes]] = {
    GGMLType.IQ1_S: _iq1_s,
    GGMLType.IQ1_M: _iq1_m,
    GGMLType.IQ2_XXS: _iq2_xxs,
    GGMLType.IQ2_XS: _iq2_xs,
    GGMLType.IQ2_S: _iq2_s,
    GGMLType.IQ3_XXS: _iq3_xxs,
    GGMLType.IQ3_S: _iq3_s,
}
"""Scratch and whole columns to blocks, per type."""
