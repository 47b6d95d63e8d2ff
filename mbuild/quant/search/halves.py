"""float16 as ggml rounds it, and back.

Like the searches this text runs in both engines (:mod:`mbuild.quant.search.ops`).
"""

from __future__ import annotations

from typing import Any

from mbuild.quant.search.ops import absolute, bits, clamp, fill, select, unbits, whole


def half_bits(w: Any, value: Any) -> Any:
    """The float16 bit pattern of a float32, to nearest even, as ggml computes it."""
    pattern = bits(value)
    magnitude = pattern & 0x7FFFFFFF
    exponent = clamp(pattern & 0x7F800000, 0x38800000, 0x7F800000)
    base = (absolute(value) * fill(w, 2.0**112)) * fill(w, 2.0**-110)
    rounded = bits(unbits(exponent + 0x07800000) + base)
    half = ((rounded >> 13) & 0x7C00) + (rounded & 0x0FFF)
    nan = magnitude > whole(w, 0x7F800000)
    return ((pattern >> 16) & 0x8000) | select(nan, whole(w, 0x7E00), half)


def half_value(w: Any, half: Any) -> Any:
    """The float32 value of float16 bit patterns, infinities and NaN included."""
    widened = (half & 0x7FFF) << 13
    finite = bits(unbits(widened) * fill(w, 2.0**112))
    special = (half & 0x7C00) > whole(w, 0x7BFF)
    magnitude = select(special, widened | whole(w, 0x7F800000), finite)
    return unbits(magnitude | ((half & 0x8000) << 16))
