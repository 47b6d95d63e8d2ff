"""F32, F16 and BF16: values that are written each for itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.gguf.types import GGMLType
from mbuild.quant.layouts import checks, direct
from mbuild.quant.layouts.instructions import store_halves, store_words
from mbuild.quant.layouts.packing import Bytes, Reals
from mbuild.quant.search.halves import half_bits
from mbuild.quant.search.methods import Each, Parts
from mbuild.quant.search.ops import bits, whole


def cast_f32(x: Reals) -> Bytes:
    """float32 (any shape) as its bytes."""
    return np.ascontiguousarray(x, "<f4").view(np.uint8)


def cast_f16(x: Reals) -> Bytes:
    """float32 (any shape) as float16 bytes, to nearest even; what is too large is infinite."""
    with np.errstate(over="ignore"):
        return x.astype("<f2").view(np.uint8)


def cast_bf16(x: Reals) -> Bytes:
    """float32 (any shape, no NaN) as bfloat16 bytes, to nearest even."""
    pattern = x.view(np.uint32)
    rounded = (pattern + (0x7FFF + ((pattern >> 16) & 1)).astype(np.uint32)) >> 16
    return rounded.astype("<u2").view(np.uint8)


def put_f32(w: Any, out: Any, o: Any, value: Any) -> Any:
    """float32 as it is."""
    store_words(w, out, o, bits(value))
    return whole(w, 0)


def put_f16(w: Any, out: Any, o: Any, value: Any) -> Any:
    """float16, to nearest even; returns where it is infinite."""
    half = half_bits(w, value)
    store_halves(w, out, o, half)
    return direct.beyond(half)


def put_bf16(w: Any, out: Any, o: Any, value: Any) -> Any:
    """bfloat16, to nearest even; returns where it is infinite."""
    pattern = bits(value)
    odd = (pattern >> 16) & 1
    rounded = (pattern + odd + 0x7FFF) >> 16
    store_halves(w, out, o, rounded)
    return ((rounded & 0x7FFF) + 0x80) & 0x8000


def bad_f16(blocks: checks.Blocks) -> Any:
    """The values themselves."""
    return checks.beyond(blocks[:, 1])


def bad_bf16(blocks: checks.Blocks) -> Any:
    """The values themselves."""
    return ((blocks[:, 1] & 0x7F) == 0x7F) & (blocks[:, 0] >= 0x80)


ROWS = {
    GGMLType.F32: Parts(Each(cast_f32, put_f32), checks.nothing),
    GGMLType.F16: Parts(Each(cast_f16, put_f16), bad_f16),
    GGMLType.BF16: Parts(Each(cast_bf16, put_bf16), bad_bf16),
}
