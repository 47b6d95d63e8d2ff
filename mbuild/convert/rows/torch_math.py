"""Arithmetic in float32, to the last bit as torch on x86-64 does it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

_STEPS = 128
_LIMIT = 80


def exp32(values: Array) -> Array:
    """e to the power of each value of an F32 or F16 array, in its type.

    torch on x86-64 rounds wrongly in one of a hundred cases: it adds a table's power of
    2 to the n/128 and a product, each in float32. The steps here were found by measuring: of
    three million float32 between -80 and 80 and of all BF16, none differs in a bit. Beyond
    80, where no trained model has a value, the result is rounded once.
    """
    import numpy as np

    f32, f64 = np.float32, np.float64
    x = values.astype(f32)
    width = math.log(2) / _STEPS
    mantissa, power = math.frexp(width)
    high = f32(math.ldexp(round(math.ldexp(mantissa, 10)), power - 10))
    low = f32(width - f64(high))
    table = 2.0 ** (np.arange(_STEPS) / _STEPS)
    main = table.astype(f32)
    rest = (table - main.astype(f64)).astype(f32)
    near = np.clip(x, -_LIMIT, _LIMIT)
    count = np.rint(near * f32(_STEPS / math.log(2)))
    left = (near - count * high) - count * low
    part = left + left * left * f32(0.5)
    whole = count.astype(np.int64)
    place = whole % _STEPS
    result = np.ldexp(main[place] + (main[place] * part + rest[place]), (whole - place) // _STEPS)
    with np.errstate(over="ignore", under="ignore"):
        result = np.where(np.abs(x) <= _LIMIT, result, np.exp(x.astype(f64)).astype(f32))
        return result.astype(values.dtype)


_LANES, _SUMS = 8, 4


def mean32(values: Array) -> np.float32:
    """The mean of a vector of F32, added in torch's order.

    Rows of eight lanes (of one, in a vector shorter than that) go round four sums; what is left
    over goes to the first. The sums are added, then the lanes, after the values behind the last
    row. Measured on vectors of 4 to 512 values.
    """
    import numpy as np

    f32 = np.float32
    x = values.astype(f32)
    lanes = _LANES if x.size >= _LANES else 1
    rows = x[: x.size // lanes * lanes].reshape(-1, lanes)
    sums = np.zeros((_SUMS, lanes), f32)
    even = len(rows) // _SUMS * _SUMS
    for row in rows[:even].reshape(-1, _SUMS, lanes):
        sums += row
    for row in rows[even:]:
        sums[0] += row
    across = sums[0] + sums[1] + sums[2] + sums[3]
    total = f32(0)
    for value in (*x[rows.size :], *across):
        total += value
    return f32(total / f32(x.size))


def sincos32(angles: Array) -> tuple[Array, Array]:
    """Sines and cosines of F32 angles of a circle, each rounded once to F32.

    torch computes them with a library that rounds one of twenty values to the neighbour, and not
    to the same on every processor.
    """
    import numpy as np

    wide = angles.astype(np.float64)
    return np.sin(wide).astype(np.float32), np.cos(wide).astype(np.float32)
