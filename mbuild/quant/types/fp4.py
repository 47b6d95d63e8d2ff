"""MXFP4 and NVFP4: four-bit floating-point numbers, and a scale for each 32 or 16 of them.

Constants are those of ``quantize_row_mxfp4_ref`` and ``quantize_row_nvfp4_ref`` in
``ggml-quants.c``. MXFP4's scale is a power of two; NVFP4's is a float of eight bits without a sign
(UE4M3: four bits of exponent, three of fraction), of which a block of 64 values holds four.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbuild.gguf.types import GGMLType
from mbuild.quant.layouts import checks, packing
from mbuild.quant.layouts.instructions import largest, store_nibbles
from mbuild.quant.layouts.packing import Bytes, Reals
from mbuild.quant.search.methods import Each, Parts
from mbuild.quant.search.ops import absolute, fill, load, select, unbits, whole

FP4_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice what the 16 levels of both types stand for (kvalues_fp4)."""


def pack_mxfp4(x: Reals) -> Bytes:
    """Blocks ``x`` (blocks, 32) as MXFP4 bytes (blocks, 17)."""
    magnitude = np.abs(x).max(axis=1)
    with np.errstate(all="ignore"):
        exponent = np.where(magnitude > 0, mxfp4_exponent(magnitude), 0).astype(np.int32)
        scale = np.where(exponent < 2, 0x00200000 << exponent.clip(0, 1), (exponent - 1) << 23)
        best = _nearest(x, scale.astype(np.int32).view(np.float32)[:, None])
    return np.concatenate([exponent.astype(np.uint8)[:, None], packing.nibbles(best, 32)], axis=1)


def _nearest(x: Reals, d: Reals) -> Bytes:
    """The first of the levels nearest to values (blocks, n) with scales ``d`` (blocks, 1)."""
    best = np.zeros(x.shape, np.uint8)
    least = np.abs(np.float32(0) * d - x)
    for index, value in enumerate(FP4_VALUES):
        error = np.abs(np.float32(value) * d - x)
        best = np.where(error < least, np.uint8(index), best)
        least = np.minimum(error, least)
    return best


def mxfp4_exponent(magnitude: Reals) -> NDArray[np.int32]:
    """floor(log2f(magnitude)) + 125 cut to eight bits.

    log2f rounds to float32, up to the next integer for values just below a power of two.
    """
    rounded = np.log2(magnitude.astype(np.float64)).astype(np.float32)
    return (np.floor(rounded).astype(np.int32) + 125) & 0xFF


FP4_REALS = np.array(FP4_VALUES, np.float32)


def put_mxfp4(w: Any, out: Any, o: Any, value: Any) -> Any:
    """One exponent, 16 bytes of levels; returns where the exponent stands for no number."""
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
    store_nibbles(w, out, o + 1, nearest_fp4(w, value, scale))
    return whole(w, 1 if exponent == 0xFF else 0)


def nearest_fp4(w: Any, value: Any, scale: Any) -> Any:
    """The first level of those nearest to each lane's value with its scale."""
    best = whole(w, 0)
    # A level of the other sign is never nearer than 0, and those of both signs are alike.
    magnitude = absolute(value)
    least = magnitude
    for i in range(1, 8):
        error = absolute(fill(w, FP4_REALS[i]) * scale - magnitude)
        better = error < least
        best = select(better, whole(w, i), best)
        least = select(better, error, least)
    below = (value < fill(w, 0.0)) & (best != whole(w, 0))
    return select(below, best + 8, best)


def bad_mxfp4(blocks: checks.Blocks) -> Any:
    """An exponent of 255 stands for no number."""
    return blocks[:, 0] == 0xFF


def _ue4m3_values() -> Reals:
    """Half of what each byte stands for, as levels are doubled; 0x7F stands for nothing."""
    exponent, fraction = np.arange(256) >> 3 & 15, np.arange(256) & 7
    small, usual = np.ldexp(fraction, -9), np.ldexp(1 + fraction / 8, exponent - 7)
    values = np.where(exponent == 0, small, usual) * 0.5
    values[0x7F] = 0
    halves: Reals = values.astype(np.float32)
    return halves


UE4M3_REALS = _ue4m3_values()
HALVES = np.repeat(np.array([1, 0], np.float32), 16)[None]
"""1 in the lanes of the first of two groups of 16."""


def pack_nvfp4(x: Reals) -> Bytes:
    """Blocks ``x`` (blocks, 64) as NVFP4 bytes (blocks, 36): four scales, then the levels."""
    groups = x.reshape(-1, 16)
    scales = np.array([ue4m3(top) for top in np.abs(groups).max(axis=1)], np.uint8)
    with np.errstate(all="ignore"):
        best = _nearest(groups, UE4M3_REALS[scales][:, None])
    levels = packing.nibbles(best, 16)
    return np.concatenate([scales.reshape(len(x), 4), levels.reshape(len(x), 32)], axis=1)


def ue4m3(top: Any) -> Any:
    """The scale with which the largest level reaches a group's largest magnitude, as its byte.

    Halves round up, whatever stands behind them; from 256 on all become the largest scale, 448.
    """
    scale = np.float32(top) / np.float32(6)
    # The exponent, three bits of fraction, and one more to round by.
    pattern = np.float32(scale).view(np.int32) >> 19
    if pattern >> 4 <= 120:
        return min(int(scale * np.float32(512) + np.float32(0.5)), 7)
    rounded = (pattern - (120 << 4) + 1) >> 1
    return rounded if rounded < 0x78 else 0x7E


def put_nvfp4(w: Any, out: Any, o: Any, value: Any) -> Any:
    """Half a block, two groups of 16: their scales, then each one's levels in 8 bytes."""
    first = load(w, HALVES, 0) != fill(w, 0.0)
    zero = fill(w, 0.0)
    left = ue4m3(largest(select(first, value, zero)))
    right = ue4m3(largest(select(first, zero, value)))
    half = (o // 18) & 1
    start = o - 18 * half
    out[start + 2 * half] = left
    out[start + 2 * half + 1] = right
    scale = select(first, fill(w, UE4M3_REALS[left]), fill(w, UE4M3_REALS[right]))
    at = start + 4 + 16 * half
    store_nibbles(w, out, at, nearest_fp4(w, value, scale))
    for i in range(8):
        # The groups lie side by side there, in low bits and high: they change places.
        low, high = out[at + i], out[at + 8 + i]
        out[at + i] = (low & 15) | ((high & 15) << 4)
        out[at + 8 + i] = (low >> 4) | (high & 0xF0)
    return whole(w, 0)


def decode_nvfp4(blocks: Bytes) -> Reals:
    """Level times scale, float32 (blocks, 64)."""
    scales = UE4M3_REALS[blocks[:, :4]].reshape(-1, 1)
    levels = blocks[:, 4:].reshape(-1, 8)
    both = np.concatenate([levels & 15, levels >> 4], axis=1)
    values: Reals = FP4_REALS[both] * scales
    return values.reshape(len(blocks), 64)


ROWS = {
    GGMLType.MXFP4: Parts(Each(pack_mxfp4, put_mxfp4), bad_mxfp4),
    GGMLType.NVFP4: Parts(Each(pack_nvfp4, put_nvfp4), checks.nothing, decode=decode_nvfp4),
}
