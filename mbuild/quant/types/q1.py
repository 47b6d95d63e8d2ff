"""Q1_0: signs alone, and the mean magnitude of 128 values."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.gguf.types import GGMLType
from mbuild.quant.layouts import checks, emit, packing
from mbuild.quant.layouts.emit import W
from mbuild.quant.layouts.instructions import load_bytes, store_bits, store_bytes
from mbuild.quant.layouts.packing import Bytes, Whole
from mbuild.quant.layouts.rooms import Room, SearchedShape
from mbuild.quant.search.columns import Columns, D
from mbuild.quant.search.halves import half_bits
from mbuild.quant.search.methods import Levels, MethodLayout, Parts, Search
from mbuild.quant.search.ops import absolute, fill, load, select, store, whole


def fit_q1_0(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """The sum of magnitudes, in the block's order."""
    total = fill(w, 0.0)
    if g > 0:
        total = load(w, c.found, 0)
    for i in range(32):
        total = total + absolute(load(w, c.values, i))
    store(w, c.found, 0, total)


def settle_q1_0(w: Any, c: Columns) -> None:
    """The mean magnitude (quantize_row_q1_0_ref)."""
    store(w, c.whole, D, half_bits(w, load(w, c.found, 0) / fill(w, 128.0)))


def choose_signs(method: Search, x: Any, c: Columns) -> Any:
    """1 from zero on, of either sign, else 0."""
    return x >= 0


def sign_levels(e: Any, room: Room, shape: SearchedShape, b: Any) -> None:
    """1 from zero on, else 0."""
    rows = shape.subs * shape.n // 16
    for i in range(rows):
        below = load(e, room.rows, b * rows + i) < fill(e, 0.0)
        store_bytes(e, room.levels, i * 16, select(below, whole(e, 0), whole(e, 1)))


SIGNS = Levels(choose_signs, sign_levels)


def pack_q1_0(levels: Bytes, it: Whole) -> Bytes:
    """One float16, 16 bytes of one bit a value."""
    return np.concatenate(
        [packing.half(it[D]), np.packbits(levels, axis=1, bitorder="little")], axis=1
    )


def emit_q1_0(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """One float16, 16 bytes of one bit a value."""
    emit.half(out, o, it[D, b])
    for i in range(0, 128, 16):
        store_bits(W, out, o + 2 + i // 8, load_bytes(W, levels, i) > whole(W, 0))


ROWS = {
    GGMLType.Q1_0: Parts(
        Search(4, 32, 1, SIGNS, fit_q1_0, settle_q1_0),
        *checks.at(0),
        MethodLayout(pack_q1_0, emit_q1_0),
    )
}
