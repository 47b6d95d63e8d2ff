"""MXFP4: four-bit floating-point numbers, and a power of two for each 32 of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbuild.gguf.types import GGMLType
from mbuild.quant.layouts import checks, packing
from mbuild.quant.layouts.instructions import largest, store_nibbles
from mbuild.quant.layouts.packing import Bytes, Reals
from mbuild.quant.search.methods import Each, Parts
from mbuild.quant.search.ops import absolute, fill, select, unbits, whole

MXFP4_VALUES = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice what the 16 levels of MXFP4 stand for (kvalues_mxfp4)."""


def pack_mxfp4(x: Reals) -> Bytes:
    """Blocks ``x`` (blocks, 32) as MXFP4 bytes (blocks, 17)."""
    magnitude = np.abs(x).max(axis=1)
    with np.errstate(all="ignore"):
        exponent = np.where(magnitude > 0, mxfp4_exponent(magnitude), 0).astype(np.int32)
        scale = np.where(exponent < 2, 0x00200000 << exponent.clip(0, 1), (exponent - 1) << 23)
        d = scale.astype(np.int32).view(np.float32)[:, None]
        best = np.zeros(x.shape, np.uint8)
        least = np.abs(np.float32(0) * d - x)
        for index, value in enumerate(MXFP4_VALUES):
            error = np.abs(np.float32(value) * d - x)
            best = np.where(error < least, np.uint8(index), best)
            least = np.minimum(error, least)
    return np.concatenate([exponent.astype(np.uint8)[:, None], packing.nibbles(best, 32)], axis=1)


def mxfp4_exponent(magnitude: Reals) -> NDArray[np.int32]:
    """floor(log2f(magnitude)) + 125 cut to eight bits.

    log2f rounds to float32, up to the next integer for values just below a power of two.
    """
    rounded = np.log2(magnitude.astype(np.float64)).astype(np.float32)
    return (np.floor(rounded).astype(np.int32) + 125) & 0xFF


MXFP4_REALS = np.array(MXFP4_VALUES, np.float32)


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
    best = whole(w, 0)
    # A level of the other sign is never nearer than 0, and those of both signs are alike.
    magnitude = absolute(value)
    least = magnitude
    for i in range(1, 8):
        error = absolute(fill(w, MXFP4_REALS[i]) * scale - magnitude)
        better = error < least
        best = select(better, whole(w, i), best)
        least = select(better, error, least)
    below = (value < fill(w, 0.0)) & (best != whole(w, 0))
    store_nibbles(w, out, o + 1, select(below, best + 8, best))
    return whole(w, 1 if exponent == 0xFF else 0)


def bad_mxfp4(blocks: checks.Blocks) -> Any:
    """An exponent of 255 stands for no number."""
    return blocks[:, 0] == 0xFF


ROWS = {GGMLType.MXFP4: Parts(Each(pack_mxfp4, put_mxfp4), bad_mxfp4)}
