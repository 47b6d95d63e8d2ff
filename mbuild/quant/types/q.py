"""Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: blocks of 32 values with one scale, and perhaps a minimum.

Without importances the scale follows from the block's extremes; with them it is searched for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.gguf.types import GGMLType
from mbuild.quant.layouts import checks, direct, emit, levels, packing
from mbuild.quant.layouts.emit import W
from mbuild.quant.layouts.instructions import load_bytes, store_bits, store_bytes, store_nibbles
from mbuild.quant.layouts.packing import Bytes, Whole
from mbuild.quant.layouts.rooms import DirectBlock, Room
from mbuild.quant.search import simple
from mbuild.quant.search.columns import DMIN, Columns, D, Sub
from mbuild.quant.search.findings import LOW, SCALE, STEP, keep_affine, keep_symmetric
from mbuild.quant.search.fitting import fit_affine, fit_symmetric, importance_weights
from mbuild.quant.search.halves import half_bits
from mbuild.quant.search.methods import SQUARES_OF_ROW, Measure, MethodLayout, Parts, Search, Simple
from mbuild.quant.search.ops import fill, load, select, store, whole


def scale_q8_0(w: Any, st: Any, it: Any) -> None:
    """d = largest magnitude / 127."""
    d = load(w, st, simple.TOP) / fill(w, 127.0)
    store(w, it, D, half_bits(w, d))
    simple.invert(w, st, d, 0.0, 0.0)


def scale_q4_0(w: Any, st: Any, it: Any) -> None:
    """d = extreme / -8, so that the extreme value itself gets level 0."""
    d = simple.extreme(w, st) / fill(w, -8.0)
    store(w, it, D, half_bits(w, d))
    store(w, st, simple.LOW, fill(w, 0.0))
    simple.invert(w, st, d, 8.5, 0.0)


def scale_q5_0(w: Any, st: Any, it: Any) -> None:
    """d = extreme / -16."""
    d = simple.extreme(w, st) / fill(w, -16.0)
    store(w, it, D, half_bits(w, d))
    store(w, st, simple.LOW, fill(w, 0.0))
    simple.invert(w, st, d, 16.5, 0.0)


def _scale_range(w: Any, st: Any, it: Any, nmax: Any) -> None:
    low = load(w, st, simple.VALUE)
    top = load(w, st, simple.TOP)
    # Where both are zeros their signs are not to be seen in the difference.
    d = select(top == low, fill(w, 0.0), (top - low) / fill(w, nmax))
    store(w, it, D, half_bits(w, d))
    store(w, it, DMIN, half_bits(w, low))
    store(w, st, simple.LOW, select(simple.finite(w, d), low, fill(w, 0.0)))
    simple.invert(w, st, d, 0.5, 0.5)


def scale_q4_1(w: Any, st: Any, it: Any) -> None:
    """d = (greatest - least) / 15, m = least."""
    _scale_range(w, st, it, 15)


def scale_q5_1(w: Any, st: Any, it: Any) -> None:
    """d = (greatest - least) / 31, m = least."""
    _scale_range(w, st, it, 31)


def fit_q4_0_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q4_0 with an importance matrix: the search's levels are final."""
    importance_weights(w, c, 32, sigma2)
    keep_symmetric(
        w, c.found, 1, g, fit_symmetric(w, Sub(c.values, c.weights, c.scratch, 32, 8), True)
    )


def fit_q5_0_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q5_0 with an importance matrix."""
    importance_weights(w, c, 32, sigma2)
    keep_symmetric(
        w, c.found, 1, g, fit_symmetric(w, Sub(c.values, c.weights, c.scratch, 32, 16), True)
    )


def fit_q4_1_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q4_1 with an importance matrix."""
    importance_weights(w, c, 32, sigma2)
    keep_affine(
        w,
        c.found,
        1,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 15), (-0.9, 0.05, 36), False),
    )


def fit_q5_1_weighted(w: Any, c: Columns, g: Any, sigma2: Any) -> None:
    """Q5_1 with an importance matrix."""
    importance_weights(w, c, 32, sigma2)
    keep_affine(
        w,
        c.found,
        1,
        g,
        fit_affine(w, Sub(c.values, c.weights, c.scratch, 32, 31), (-0.9, 0.05, 36), False),
    )


def settle_single(w: Any, c: Columns) -> None:
    """Q4_0 ... Q5_1 with an importance matrix: scale and minimum as found, in float16."""
    store(w, c.whole, D, half_bits(w, load(w, c.found, SCALE)))
    store(w, c.whole, DMIN, half_bits(w, -load(w, c.found, LOW)))
    store(w, c.found, STEP, fill(w, 0.0))


def pack_high_bits(levels: Bytes, bit: int) -> Bytes:
    """Bit ``bit`` of values 0 ... 31 as four little-endian bytes a block of 32."""
    return np.packbits((levels >> bit) & 1, axis=1, bitorder="little")


def pack_q4_1(levels: Bytes, it: Whole) -> Bytes:
    """Two float16, 16 bytes of levels."""
    return np.concatenate(
        [packing.half(it[D]), packing.half(it[DMIN]), packing.nibbles(levels, 32)], axis=1
    )


def pack_q5_0(levels: Bytes, it: Whole) -> Bytes:
    """One float16, 32 high bits, 16 bytes of levels."""
    return np.concatenate(
        [packing.half(it[D]), pack_high_bits(levels, 4), packing.nibbles(levels, 32)], axis=1
    )


def pack_q5_1(levels: Bytes, it: Whole) -> Bytes:
    """Two float16, 32 high bits, 16 bytes of levels."""
    head = [packing.half(it[D]), packing.half(it[DMIN])]
    return np.concatenate([*head, pack_high_bits(levels, 4), packing.nibbles(levels, 32)], axis=1)


def pack_q8_0(levels: Bytes, it: Whole) -> Bytes:
    """One float16, 32 bytes of levels."""
    return np.concatenate([packing.half(it[D]), levels], axis=1)


def emit_high_bits(levels: Any, out: Any, o: Any) -> None:
    """Whether each of 32 levels is above 15, in four bytes."""
    for i in range(0, 32, 16):
        store_bits(W, out, o + i // 8, load_bytes(W, levels, i) > whole(W, 15))


def emit_q4_1(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """Two float16, 16 bytes of levels."""
    emit.half(out, o, it[D, b])
    emit.half(out, o + 2, it[DMIN, b])
    emit.nibbles(levels, out, o + 4, 1, 16)


def emit_q5_0(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """One float16, 32 high bits, 16 bytes of levels."""
    emit.half(out, o, it[D, b])
    emit_high_bits(levels, out, o + 2)
    emit.nibbles(levels, out, o + 6, 1, 16)


def emit_q5_1(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """Two float16, 32 high bits, 16 bytes of levels."""
    emit.half(out, o, it[D, b])
    emit.half(out, o + 2, it[DMIN, b])
    emit_high_bits(levels, out, o + 4)
    emit.nibbles(levels, out, o + 8, 1, 16)


def write_q4_0(w: Any, room: Room, block: DirectBlock) -> None:
    """One float16, 16 bytes of levels."""
    emit.half(block.out, block.at, room.columns.whole[D, block.lane])
    store_nibbles(w, block.out, block.at + 2, direct.truncated(w, room, block, 15, False))


def write_q4_1(w: Any, room: Room, block: DirectBlock) -> None:
    """Two float16, 16 bytes of levels."""
    emit.half(block.out, block.at, room.columns.whole[D, block.lane])
    emit.half(block.out, block.at + 2, room.columns.whole[DMIN, block.lane])
    store_nibbles(w, block.out, block.at + 4, direct.truncated(w, room, block, 15, True))


def write_q5_0(w: Any, room: Room, block: DirectBlock) -> None:
    """One float16, 32 high bits, 16 bytes of levels."""
    emit.half(block.out, block.at, room.columns.whole[D, block.lane])
    level = direct.truncated(w, room, block, 31, False)
    store_bits(w, block.out, block.at + 2, level > whole(w, 15))
    store_nibbles(w, block.out, block.at + 6, level)


def write_q5_1(w: Any, room: Room, block: DirectBlock) -> None:
    """Two float16, 32 high bits, 16 bytes of levels."""
    emit.half(block.out, block.at, room.columns.whole[D, block.lane])
    emit.half(block.out, block.at + 2, room.columns.whole[DMIN, block.lane])
    level = direct.truncated(w, room, block, 31, True)
    store_bits(w, block.out, block.at + 4, level > whole(w, 15))
    store_nibbles(w, block.out, block.at + 8, level)


def write_q8_0(w: Any, room: Room, block: DirectBlock) -> None:
    """One float16, 32 bytes of levels."""
    emit.half(block.out, block.at, room.columns.whole[D, block.lane])
    store_bytes(w, block.out, block.at + 2, direct.rounded(w, room, block, 0))


_SIGNED, _ABOVE, _ROW = levels.SYMMETRIC, levels.AFFINE, SQUARES_OF_ROW

ROWS = {
    GGMLType.Q8_0: Parts(
        Simple(scale_q8_0, levels.to_nearest, pack_q8_0, write_q8_0), *checks.at(0)
    ),
    GGMLType.Q4_0: Parts(
        Simple(
            scale_q4_0, levels.up_to(15), packing.scale_and_nibbles, write_q4_0, Measure.EXTREME
        ),
        *checks.at(0),
        MethodLayout(packing.scale_and_nibbles, emit.scale_and_nibbles),
        Search(1, 32, 8, _SIGNED, fit_q4_0_weighted, settle_single, _ROW),
    ),
    GGMLType.Q4_1: Parts(
        Simple(scale_q4_1, levels.up_to(15), pack_q4_1, write_q4_1, Measure.RANGE),
        *checks.at(0, 2),
        MethodLayout(pack_q4_1, emit_q4_1),
        Search(1, 32, 15, _ABOVE, fit_q4_1_weighted, settle_single, _ROW),
    ),
    GGMLType.Q5_0: Parts(
        Simple(scale_q5_0, levels.up_to(31), pack_q5_0, write_q5_0, Measure.EXTREME),
        *checks.at(0),
        MethodLayout(pack_q5_0, emit_q5_0),
        Search(1, 32, 16, _SIGNED, fit_q5_0_weighted, settle_single, _ROW),
    ),
    GGMLType.Q5_1: Parts(
        Simple(scale_q5_1, levels.up_to(31), pack_q5_1, write_q5_1, Measure.RANGE),
        *checks.at(0, 2),
        MethodLayout(pack_q5_1, emit_q5_1),
        Search(1, 32, 31, _ABOVE, fit_q5_1_weighted, settle_single, _ROW),
    ),
}
