"""The numpy engine's types whose values are written each for itself: casts, MXFP4."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mbuild.quant.layouts.packing import Bytes, nibbles
from mbuild.quant.search.fits import MXFP4_VALUES

Reals = NDArray[np.float32]


def mxfp4(x: Reals) -> Bytes:
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
    return np.concatenate([exponent.astype(np.uint8)[:, None], nibbles(best, 32)], axis=1)


def mxfp4_exponent(magnitude: Reals) -> NDArray[np.int32]:
    """floor(log2f(magnitude)) + 125 cut to eight bits.

    log2f rounds to float32, up to the next integer for values just below a power of two.
    """
    rounded = np.log2(magnitude.astype(np.float64)).astype(np.float32)
    return (np.floor(rounded).astype(np.int32) + 125) & 0xFF


def cast_f16(x: Reals) -> Bytes:
    """float32 (any shape) as float16 bytes, to nearest even; what is too large is infinite."""
    with np.errstate(over="ignore"):
        return x.astype("<f2").view(np.uint8)


def cast_bf16(x: Reals) -> Bytes:
    """float32 (any shape, no NaN) as bfloat16 bytes, to nearest even."""
    pattern = x.view(np.uint32)
    rounded = (pattern + (0x7FFF + ((pattern >> 16) & 1)).astype(np.uint32)) >> 16
    return rounded.astype("<u2").view(np.uint8)


def cast_f32(x: Reals) -> Bytes:
    """float32 (any shape) as its bytes."""
    return np.ascontiguousarray(x, "<f4").view(np.uint8)
