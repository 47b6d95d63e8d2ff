"""From float32 to the bits of F16, BF16 and Q8_0, as ggml rounds.

The roundings are integer arithmetic, because numpy's own casts to half precision run at 0.4 GB/s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]

INFINITE: dict[int, int] = {2: 0x7F80, 4: 0x7F800000}
"""Infinity's bits in BF16 and F32, by their bytes; what is above is not a number."""


def beyond(bits: Array, limit: int) -> bool:
    """Whether unsigned integers hold a bit pattern from ``limit`` on, with either sign.

    Two maxima, as signed and as unsigned numbers, are the fastest pass that numpy has.
    """
    sign = 1 << (8 * bits.itemsize - 1)
    signed = bits.view(np.dtype(f"i{bits.itemsize}"))
    return bool(bits.size) and bool(signed.max() >= limit or bits.max() >= sign + limit)


def f32_to_f16(values: Array) -> Array:
    """Half-precision bit patterns (uint16) of float32 values, rounded to nearest even."""
    bits = values.view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    half = magnitude >> np.uint32(13)
    half &= np.uint32(1)
    half += magnitude
    half += np.uint32((0x0FFF - (112 << 23)) & 0xFFFFFFFF)  # rounds, and changes the bias
    half >>= np.uint32(13)
    out = half.astype(np.uint16)
    out |= (bits >> np.uint32(16)).astype(np.uint16) & np.uint16(0x8000)
    # Subnormal halves, overflow and NaN; 0x477FF000 is the first value that rounds to infinity.
    odd = magnitude - np.uint32(0x38800000) >= np.uint32(0x477FF000 - 0x38800000)
    if odd.any():
        with np.errstate(all="ignore"):
            out[odd] = values[odd].astype(np.float16).view(np.uint16)
    return out


def f32_to_bf16(values: Array) -> Array:
    """BF16 bit patterns (uint16) of float32 values: nearest even, NaN made quiet."""
    bits = values.view(np.uint32)
    out = bits >> np.uint32(16)
    out &= np.uint32(1)
    out += np.uint32(0x7FFF)
    out += bits  # wraps for NaN only, which is replaced
    out >>= np.uint32(16)
    if beyond(bits, INFINITE[4] + 1):
        nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(INFINITE[4])
        out[nan] = (bits[nan] >> np.uint32(16)) | np.uint32(0x40)
    return out.astype(np.uint16)


def f32_to_q8_0(values: Array) -> Array:
    """Q8_0 blocks (uint8, 34 bytes for 32 values): the f16 scale, then 32 int8.

    The scale is max/127; values round half away from zero (ggml's ``roundf``).
    """
    blocks = values.reshape(-1, 32)
    out = np.empty((blocks.shape[0], 34), dtype=np.uint8)
    with np.errstate(all="ignore"):
        work = np.abs(blocks)
        scale = work.max(axis=1, keepdims=True) / np.float32(127)
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
        inverse[np.isinf(inverse)] = np.nan  # as in the reference, where infinity minus itself is
        np.multiply(blocks, inverse, out=work)
        # Plus or minus the float below 0.5, so that 0.49999997 stays 0; the cast truncates.
        half = work.view(np.uint32) & np.uint32(0x80000000)
        half |= np.uint32(0x3EFFFFFF)
        work += half.view(np.float32)
        out[:, :2] = scale.astype(np.float16).view(np.uint8)
        out[:, 2:] = work.astype(np.int8).view(np.uint8)
    return out
