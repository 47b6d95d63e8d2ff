"""Generated tensors: the factors by which RoPE frequencies are divided."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.lazy import constant
from mbuild.convert.rows.hyper import as_number
from mbuild.core.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named

    Array = np.ndarray[Any, np.dtype[Any]]

MAX_HEAD = 1 << 16


_STRETCHING = (
    ("factor", 8.0),
    ("low_freq_factor", 1.0),
    ("high_freq_factor", 4.0),
    ("original_max_position_embeddings", 8192.0),
)


def _stretching(hp: Hyper, dim: int) -> tuple[tuple[float, ...], Array] | None:
    """What Llama 3's stretching asks for, and the frequencies of ``dim`` values; None without it.

    In float32 step by step, as the reference computes them:
    https://github.com/huggingface/transformers, ``_compute_llama3_parameters``.
    """
    kind = hp.full_rope.get("rope_type", "")
    if not isinstance(kind, str):
        raise FormatError(
            f"config.json: rope_parameters.rope_type is {kind!r:.60}; a text is needed",
            hint="take config.json from the base model",
        )
    if kind.lower() != "llama3":
        return None
    import numpy as np

    if dim > MAX_HEAD:
        raise FormatError(f"config.json: head_dim is {dim}, more than {MAX_HEAD}")
    base = hp.rope_number("rope_theta", 10000.0)
    numbers = tuple(hp.rope_number(name, default) for name, default in _STRETCHING)
    if base <= 0 or not all(numbers[:3]):
        raise FormatError("config.json: rope_parameters has a factor that is zero")
    f32 = np.float32
    exponents = np.arange(0, dim, 2, dtype=f32) / f32(dim)
    return numbers, f32(1) / _power(base, exponents)


def llama3_factors(hp: Hyper, tensors: Mapping[str, Any]) -> Iterator[Named]:
    """``rope_freqs``: Llama 3's stretching of long wavelengths, half a head of float32."""
    found = _stretching(hp, hp.head_dim)
    if found is None:
        return
    import numpy as np

    (factor, low, high, original), frequencies = found
    f32, factors = np.float32, []
    for frequency in frequencies:
        # torch divides a number by a tensor by multiplying with the reciprocal.
        wavelength = f32(1) / frequency * f32(2 * math.pi)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (f32(1) / wavelength * f32(original) - f32(low)) / f32(high - low)
            share = (f32(1) - smooth) / f32(factor) + smooth
            factors.append(float(f32(1) / share))
    yield "rope_freqs.weight", constant(factors, "rope_freqs")


def llama3_share(hp: Hyper, share: float) -> Iterator[Named]:
    """The same for the first ``share`` of a head, in float64; the rest stays as it is."""
    found = _stretching(hp, int(hp.head_dim * share))
    if found is None:
        return
    (factor, low, high, original), frequencies = found
    factors = []
    for frequency in map(float, frequencies):
        wavelength = 2 * math.pi / frequency
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1.0 / ((1.0 - smooth) / factor + smooth))
    factors += [1.0] * (hp.head_dim // 2 - len(factors))
    yield "rope_freqs.weight", constant(factors, "rope_freqs")


def _power(base: float, exponents: Array) -> Array:
    """Powers of a positive float32 as torch computes them on x86-64, not always correctly rounded.

    torch takes SLEEF's ``powf`` (https://sleef.org, error below 1 ulp). These are its polynomials
    for logarithm and exponential; what it keeps in pairs of float32 is float64 here. Of 10,000
    frequencies of usual bases and widths two in a thousand differ in their last bit.
    """
    import numpy as np

    f32, f64 = np.float32, np.float64

    def polynomial(x: Array, *factors: float) -> Array:
        result: Array = np.full_like(x, factors[0])
        for factor in factors[1:]:  # fused: one rounding for product and sum
            result = (result.astype(f64) * x.astype(f64) + f64(f32(factor))).astype(f32)
        return result

    mantissa, power = math.frexp(float(f32(base)))
    if mantissa < 0.75:
        mantissa, power = mantissa * 2, power - 1
    x = (mantissa - 1) / (mantissa + 1)
    square = x * x
    tail = float(polynomial(np.asarray(f32(square)), 0.24032035, 0.28511268, 0.400008))
    cubic = float(f32(0.6666666)) + 3.69183861259614332084311e-09
    ln2 = float(f32(0.6931472)) - 1.904654323148236017e-09
    logarithm = ln2 * power + 2 * x + square * x * (square * tail + cubic)
    product = logarithm * exponents.astype(f64)
    twos = np.rint(product.astype(f32) * f32(1.442695)).astype(f64)
    rest = product - twos * float(f32(0.69314575)) - twos * float(f32(1.4286068e-06))
    head = polynomial(
        rest.astype(f32), 0.0013632465, 0.0083659692, 0.041671082, 0.16666552, 0.49999985
    )
    powers: Array = np.ldexp(1.0 + (rest + rest * rest * head.astype(f64)), twos.astype(int))
    return powers.astype(f32)


def partial_factors(dim: int, share: float) -> Named:
    """``rope_freqs`` where only the first pairs of a head of ``dim`` turn, a ``share`` of them:
    those that do not have so large a factor that their angle is nothing."""
    turned = int(dim * share / 2)
    if not 0 <= turned <= dim // 2 <= MAX_HEAD:
        raise FormatError(f"config.json: partial_rotary_factor is {share} for a head of {dim}")
    factors = [1.0] * turned + [1e30] * (dim // 2 - turned)
    return "rope_freqs.weight", constant(factors, "rope_freqs")


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


def turned(kind: str) -> Callable[[Hyper], int | None]:
    """How much of a head RoPE turns in layers of a kind, where that has parameters of its own."""

    def compute(hp: Hyper) -> int | None:
        rope = hp.rope.get(kind)
        if not isinstance(rope, dict):
            return None
        share = rope.get("partial_rotary_factor", 1.0)
        return int(hp.head_dim * as_number(share, f"rope_parameters.{kind}.partial_rotary_factor"))

    return compute
