"""The operations that a search over lanes is written in, as numpy defines them.

The quantizers' searches (:mod:`mbuild.quant.search.fitting`) are each written once, over
*lanes*: every value is a vector whose lanes belong to different blocks, and every
lane does the reference's scalar arithmetic in the reference's order. Two engines
run that text. Here a vector is a numpy array with one element per block; in
:mod:`mbuild.quant.kernels.lanes` numba gives the same functions and operators another
meaning, an LLVM vector of 8, 16 or 32 lanes. Beside these functions the text may
use ``+ - * /``, comparisons, unary minus, ``& | << >>``, and loops over plain
integers.

A *real* vector holds float32, a *whole* vector int32, a *mask* truth values.
``w`` is the width: numba reads the number of lanes from its type, numpy has no use
for it. Columns are two-dimensional arrays, row ``i`` holding value ``i`` of every
lane. Float32 arithmetic is single IEEE operations in both engines; nothing is
contracted or reordered.
"""

from __future__ import annotations

from typing import Any

import numpy as np

ROUNDER = 12582912.0
"""1.5 * 2**23: adding it leaves a float32's value, rounded half to even, in the mantissa."""


def fill(w: Any, value: Any) -> Any:
    """A real vector that has ``value`` in every lane."""
    return np.float32(value)


def whole(w: Any, value: int) -> Any:
    """A whole vector that has ``value`` in every lane."""
    return np.int32(value)


def load(w: Any, columns: Any, row: int) -> Any:
    """Row ``row`` of the columns: a real or a whole vector, as the columns' dtype is."""
    return columns[row]


def store(w: Any, columns: Any, row: int, value: Any) -> None:
    """Make ``value`` row ``row`` of the columns."""
    columns[row] = value


def select(mask: Any, yes: Any, no: Any) -> Any:
    """Per lane ``yes`` where the mask holds, else ``no``."""
    return np.where(mask, yes, no)


def absolute(value: Any) -> Any:
    """The real vector without its signs."""
    return np.abs(value)


def root(value: Any) -> Any:
    """The correctly rounded square root of a real vector."""
    return np.sqrt(value)


def bits(value: Any) -> Any:
    """The bit patterns of a real vector, as a whole vector."""
    return np.asarray(value, np.float32).view(np.int32)


def unbits(value: Any) -> Any:
    """The real vector whose bit patterns these are."""
    return np.asarray(value, np.int32).view(np.float32)


def real(value: Any) -> Any:
    """A whole vector's values as float32."""
    return np.asarray(value).astype(np.float32)


def odd4(value: Any) -> Any:
    """``2 * (value & 3) + 1`` of a whole vector, as a real one: 1, 3, 5 or 7."""
    return real(2 * (value & 3) + 1)


def odd8(value: Any) -> Any:
    """``2 * (value & 7) + 1`` of a whole vector, as a real one: 1, 3 ... 15."""
    return real(2 * (value & 7) + 1)


def nearest(value: Any) -> Any:
    """Rounded half to even, as ggml's ``nearest_int`` does it.

    The result is taken from the mantissa bits, so that values out of range,
    infinities and NaN give exactly the whole numbers that they give there.
    """
    return (bits(value + np.float32(ROUNDER)) & np.int32(0x7FFFFF)) - np.int32(0x400000)


def rounded(value: Any) -> Any:
    """Rounded half to even, as a real vector; only for magnitudes below 2**22."""
    return (value + np.float32(ROUNDER)) - np.float32(ROUNDER)


def confine(value: Any, low: float, high: float) -> Any:
    """The real vector without NaN limited to ``low`` ... ``high``."""
    return np.minimum(np.maximum(value, np.float32(low)), np.float32(high))


def floor(value: Any) -> Any:
    """The greatest integer that is not above, as a real vector."""
    return np.floor(value)


ALMOST_HALF = 0.49999997
"""The float32 below one half: adding a half itself would carry this one to 1."""


def away(value: Any) -> Any:
    """Rounded half away from zero (C's ``roundf``): a real vector within int32 as a whole one."""
    return truncate(value + np.copysign(np.float32(ALMOST_HALF), value))


def truncate(value: Any) -> Any:
    """A real vector within int32 as a whole vector, fractions cut off."""
    return np.asarray(value).astype(np.int32)


def at_most(value: Any, high: int) -> Any:
    """The whole vector limited to ``high``."""
    return np.minimum(value, np.int32(high))


def clamp(value: Any, low: int, high: int) -> Any:
    """The whole vector limited to ``low`` ... ``high``."""
    return np.minimum(np.maximum(value, np.int32(low)), np.int32(high))


def any_lane(mask: Any) -> bool:
    """Whether the mask holds in any lane."""
    return bool(np.any(mask))


def lookup(w: Any, table: Any, index: Any) -> Any:
    """Per lane ``table[index]`` of a one-dimensional table of float32 or uint8, as reals."""
    return table[index].astype(np.float32)
