"""Generated tensors: the factors by which RoPE frequencies are divided."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mbuild.convert.hyper import as_number
from mbuild.convert.lazy import constant
from mbuild.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mbuild.convert.hyper import Hyper
    from mbuild.convert.rules import Named

MAX_HEAD = 1 << 16


def llama3_factors(hp: Hyper, tensors: Mapping[str, Any]) -> Iterator[Named]:
    """``rope_freqs``: Llama 3's stretching of long wavelengths, half a head of float32.

    In float32 step by step, as the reference computes them:
    https://github.com/huggingface/transformers, ``_compute_llama3_parameters``.
    """
    if str(hp.full_rope.get("rope_type", "")).lower() != "llama3":
        return
    import numpy as np

    dim = hp.head_dim
    if dim > MAX_HEAD:
        raise FormatError(f"config.json: head_dim is {dim}, more than {MAX_HEAD}")
    base = hp.rope_number("rope_theta", 10000.0)
    factor, low, high, original = (
        hp.rope_number(name, default)
        for name, default in (
            ("factor", 8.0),
            ("low_freq_factor", 1.0),
            ("high_freq_factor", 4.0),
            ("original_max_position_embeddings", 8192),
        )
    )
    if base <= 0 or not factor or not low or not high:
        raise FormatError("config.json: rope_parameters has a factor that is zero")
    f32 = np.float32
    exponents = np.arange(0, dim, 2, dtype=f32) / f32(dim)
    frequencies = f32(1) / np.power(float(base), exponents.astype(np.float64)).astype(f32)
    factors = []
    for frequency in frequencies:
        wavelength = f32(2 * math.pi) / frequency
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (f32(original) / wavelength - f32(low)) / f32(high - low)
            share = (f32(1) - smooth) / f32(factor) + smooth
            factors.append(float(f32(1) / share))
    yield "rope_freqs.weight", constant(factors, "rope_freqs")


def long_factors(hp: Hyper, dim: int) -> Iterator[Named]:
    """``rope_factors_long`` and ``_short`` of LongRoPE, half the rotary width of float32 each."""
    lists = [hp.rope.get("long_factor"), hp.rope.get("short_factor")]
    if not any(lists):
        return
    for label, values in zip(("long", "short"), lists, strict=True):
        name = f"rope_parameters.{label}_factor"
        if not isinstance(values, list) or 2 * len(values) != dim:
            raise FormatError(f"config.json: {name} is not a list of {dim // 2} numbers")
        numbers = [as_number(value, name) for value in values]
        yield f"rope_factors_{label}.weight", constant(numbers, name)
