"""The numpy engine's layouts of the types on grids: codes, signs and scales to bytes.

The twin of :mod:`mbuild.quant.layouts.point_emit`. ``c`` are the columns that a search left
(:mod:`mbuild.quant.search.points`); each function returns uint8 (blocks, bytes of a block).
Layouts: ``ggml-common.h``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.quant.layouts.packing import Bytes, half, nibbles
from mbuild.quant.search.columns import CODE, SIGN, WHOLE_HEAD, Columns, D


def _points(c: Columns, count: int) -> Any:
    """The groups' point numbers, (blocks, count)."""
    codes = np.ascontiguousarray(c.scratch[CODE : CODE + count].T).astype(np.int64)
    return c.grid.numbers[np.maximum(codes, 0)]


def _signs(c: Columns) -> Any:
    return np.ascontiguousarray(c.scratch[SIGN : SIGN + 32].T).astype(np.uint32)


def _scales(c: Columns, count: int) -> Any:
    return np.ascontiguousarray(c.whole[WHOLE_HEAD : WHOLE_HEAD + count].T)


def _words(c: Columns) -> Any:
    """Four times seven signs and a scale in 32 bits, (blocks, 8)."""
    parts = _signs(c).reshape(-1, 8, 4) << np.arange(0, 28, 7, dtype=np.uint32)
    return parts.sum(axis=2, dtype=np.uint32) | (_scales(c, 8).astype(np.uint32) << 28)


def iq2_xxs(c: Columns) -> Bytes:
    """One float16, then 8 times four points and a word of signs and scale."""
    points = _points(c, 32).astype(np.uint8).view("<u4")
    parts = np.stack([points, _words(c).astype("<u4")], axis=2)
    return np.concatenate([half(c.whole[D]), parts.reshape(len(parts), -1).view(np.uint8)], axis=1)


def iq2_xs(c: Columns) -> Bytes:
    """One float16, 32 times nine bits of a point and seven signs, 16 scales."""
    words = (_points(c, 32) | (_signs(c) << 9)).astype("<u2").view(np.uint8)
    scales = nibbles(_scales(c, 16).astype(np.uint8), 2)
    return np.concatenate([half(c.whole[D]), words, scales], axis=1)


def iq2_s(c: Columns) -> Bytes:
    """One float16, 32 low bytes of points, 32 of signs, 8 of high bits, 16 scales."""
    points = _points(c, 32)
    high = ((points >> 8).reshape(-1, 8, 4) << np.arange(0, 8, 2)).sum(axis=2)
    scales = nibbles(_scales(c, 16).astype(np.uint8), 2)
    parts = [half(c.whole[D]), points & 0xFF, _signs(c), high, scales]
    return np.concatenate([p.astype(np.uint8) for p in parts], axis=1)


def iq3_xxs(c: Columns) -> Bytes:
    """One float16, 64 points, 8 words of signs and scale."""
    points = _points(c, 64).astype(np.uint8)
    return np.concatenate([half(c.whole[D]), points, _words(c).astype("<u4").view(np.uint8)], 1)


def iq3_s(c: Columns) -> Bytes:
    """An empty sub-block takes no place among points and signs: those after it move up."""
    points = _points(c, 64).reshape(-1, 8, 8)
    full = np.ascontiguousarray(c.scratch[CODE : CODE + 64 : 8].T) >= 0
    order = np.argsort(~full, axis=1, kind="stable")[:, :, None]
    kept = np.arange(8)[None, :, None] < full.sum(axis=1)[:, None, None]
    low = np.where(kept, np.take_along_axis(points & 0xFF, order, 1), 0)
    high = np.where(full, ((points >> 8) << np.arange(8)).sum(axis=2), 0)
    signs = np.where(kept, np.take_along_axis(_signs(c).reshape(-1, 8, 4), order, 1), 0)
    size = len(points)
    scales = nibbles(_scales(c, 8).astype(np.uint8), 2)
    parts = [half(c.whole[D]), low.reshape(size, -1), high, signs.reshape(size, -1), scales]
    return np.concatenate([p.astype(np.uint8) for p in parts], axis=1)


def iq1_s(c: Columns) -> Bytes:
    """One float16, 32 low bytes of points, 8 words: four times three high bits, scale, shift."""
    points = _points(c, 32)
    high = ((points >> 8).reshape(-1, 8, 4) << np.arange(0, 12, 3)).sum(axis=2)
    high = high | (_scales(c, 8) << 12) | (_signs(c)[:, :8] << 15)
    low = points.astype(np.uint8)
    return np.concatenate([half(c.whole[D]), low, high.astype("<u2").view(np.uint8)], axis=1)


def iq1_m(c: Columns) -> Bytes:
    """32 low bytes of points, 16 of high bits and shifts, 4 words of scales."""
    points = _points(c, 32)
    high = ((points >> 8) | (_signs(c) << 3)).astype(np.uint8)
    scales = (_scales(c, 16).reshape(-1, 4, 4) << np.arange(0, 12, 3)).sum(axis=2)
    # The float16 lies in the highest four bits of the words of scales.
    scales = scales | ((c.whole[D][:, None] >> np.arange(0, 16, 4)) & 15) << 12
    parts = [points.astype(np.uint8), nibbles(high, 2), scales.astype("<u2").view(np.uint8)]
    return np.concatenate(parts, axis=1)
