"""IQ4_NL and IQ4_XS: 16 levels that do not lie evenly."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from mbuild.gguf.types import GGMLType
from mbuild.quant.layouts import checks, emit, levels, packing
from mbuild.quant.layouts.instructions import store_bytes
from mbuild.quant.layouts.packing import Bytes, Whole
from mbuild.quant.layouts.rooms import Room, SearchedShape
from mbuild.quant.search.columns import WHOLE_HEAD, Columns, D, Sub
from mbuild.quant.search.findings import INVERSE, SCALE, largest_magnitude, square_weights
from mbuild.quant.search.fitting import fit_table, importance_weights, place
from mbuild.quant.search.halves import half_bits
from mbuild.quant.search.methods import Levels, MethodLayout, Parts, Search
from mbuild.quant.search.ops import (
    clamp,
    fill,
    load,
    lookup,
    nearest,
    real,
    select,
    store,
    truncate,
)

IQ4_VALUES = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What the 16 levels of IQ4_NL and IQ4_XS stand for (kvalues_iq4nl)."""
# Level i is nearest from the midpoint with its lower neighbour on. Twice a midpoint is an
# integer, so that floor(2 * value) decides; entry k stands for floor(2 * value) = k - 256.
IQ4_INDEX = np.searchsorted(
    [a + b for a, b in pairwise(IQ4_VALUES)], np.arange(-256, 256), side="right"
).astype(np.uint8)
IQ4_TABLE = np.array(IQ4_VALUES, np.float32)[IQ4_INDEX]


def fit_iq4(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """IQ4_NL and IQ4_XS: 16 non-linear levels, weights x*x."""
    square_weights(w, c.values, c.weights, 32)
    store(
        w, c.found, g, fit_table(w, Sub(c.values, c.weights, c.scratch, 32, 0), IQ4_TABLE, -127.0)
    )


def fit_iq4_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """IQ4_NL and IQ4_XS with an importance matrix."""
    importance_weights(w, c, 32, sigma2)
    store(
        w, c.found, g, fit_table(w, Sub(c.values, c.weights, c.scratch, 32, 0), IQ4_TABLE, -127.0)
    )


def settle_iq4_nl(w: Any, c: Columns) -> None:
    """The scale itself; levels follow from the unrounded one."""
    zero = fill(w, 0.0)
    scale = load(w, c.found, SCALE)
    store(w, c.whole, D, half_bits(w, scale))
    store(w, c.found, INVERSE, select(scale != zero, fill(w, 1.0) / scale, zero))


def settle_iq4_xs(w: Any, c: Columns) -> None:
    """6-bit scales around zero against the extreme one; stored plus 32."""
    zero = fill(w, 0.0)
    _, extreme = largest_magnitude(w, c.found, 0, 8)
    d = -extreme / fill(w, 32.0)
    store(w, c.whole, D, half_bits(w, d))
    inverse = select(d != zero, fill(w, 1.0) / d, zero)
    for g in range(8):
        level = clamp(nearest(inverse * load(w, c.found, g)), -32, 31)
        store(w, c.whole, WHOLE_HEAD + g, level + 32)
        step = d * real(level)
        store(w, c.found, INVERSE * 8 + g, select(step != zero, fill(w, 1.0) / step, zero))


PLACES = IQ4_INDEX.astype(np.float32)
"""The index of the nearest non-linear level for each half step, as a table of reals."""


def choose_table(method: Search, x: Any, c: Columns) -> Any:
    """The non-linear level nearest to x * INVERSE."""
    inverse = levels.of_each(method, c, INVERSE)
    return IQ4_INDEX[place(None, x * inverse + x * inverse)]


def table_levels(e: Any, room: Room, shape: SearchedShape, b: Any) -> None:
    """The nearest of the non-linear levels."""
    subs, n, _ = shape
    st = room.columns.found
    for g in range(subs):
        inverse = fill(e, st[INVERSE * subs + g, b])
        for i in range(n // 16):
            value = load(e, room.rows, (b * subs + g) * (n // 16) + i) * inverse
            level = lookup(e, PLACES, place(e, value + value))
            store_bytes(e, room.levels, g * n + i * 16, truncate(level))


TABLE = Levels(choose_table, table_levels)


def pack_iq4_xs(levels: Bytes, it: Whole) -> Bytes:
    """One float16, the scales' high and low bits, 128 bytes of levels."""
    scales = it[WHOLE_HEAD : WHOLE_HEAD + 8]
    high = sum(((scales[g] >> 4) << 2 * g for g in range(8)), np.zeros_like(scales[0]))
    low = packing.nibbles(
        packing.rows_of(it, WHOLE_HEAD, 8).reshape(-1, 4, 2).reshape(-1, 2), 2
    ).reshape(-1, 4)
    return np.concatenate(
        [packing.half(it[D]), packing.half(high), low, packing.nibbles(levels, 32)], axis=1
    )


def emit_iq4_xs(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """One float16, the scales' high and low bits, 128 bytes of levels."""
    emit.half(out, o, it[D, b])
    high = 0
    for g in range(8):
        high |= (it[WHOLE_HEAD + g, b] >> 4) << (2 * g)
    emit.half(out, o + 2, high)
    for g in range(4):
        low = it[WHOLE_HEAD + 2 * g, b] & 0x0F
        out[o + 4 + g] = low | ((it[WHOLE_HEAD + 2 * g + 1, b] & 0x0F) << 4)
    emit.nibbles(levels, out, o + 8, 8, 16)


ROWS = {
    GGMLType.IQ4_NL: Parts(
        Search(1, 32, 15, TABLE, fit_iq4, settle_iq4_nl),
        *checks.at(0),
        MethodLayout(packing.scale_and_nibbles, emit.scale_and_nibbles),
        Search(1, 32, 15, TABLE, fit_iq4_weighted, settle_iq4_nl, (1.0, 2 / 32)),
    ),
    GGMLType.IQ4_XS: Parts(
        Search(8, 32, 15, TABLE, fit_iq4, settle_iq4_xs),
        *checks.at(0),
        MethodLayout(pack_iq4_xs, emit_iq4_xs),
        Search(8, 32, 15, TABLE, fit_iq4_weighted, settle_iq4_xs, (1.0, 2 / 256)),
    ),
}
