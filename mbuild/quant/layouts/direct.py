"""Blocks that the compiled engine makes straight from values: simple types, casts, MXFP4.

Texts that numba compiles; nothing here needs it to be imported. Vectors have 32 lanes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.quant.layouts import emit
from mbuild.quant.layouts.emit import half
from mbuild.quant.layouts.instructions import (
    largest,
    load_f32,
    store_bits,
    store_bytes,
    store_halves,
    store_nibbles,
    store_words,
)
from mbuild.quant.layouts.rooms import DirectBlock, Room
from mbuild.quant.search import halves, simple
from mbuild.quant.search.columns import DMIN, D
from mbuild.quant.search.fits import MXFP4_VALUES
from mbuild.quant.search.ops import (
    absolute,
    at_most,
    away,
    bits,
    fill,
    select,
    truncate,
    unbits,
    whole,
)
from mbuild.quant.search.simple import LANES

MXFP4 = np.array(MXFP4_VALUES, np.float32)


def _truncated(w: Any, room: Room, block: DirectBlock, nmax: Any, ranged: Any) -> Any:
    """Levels of the 32 values of a block that truncates; its LOW is 0 if not ``ranged``."""
    st, b = room.columns.found, block.lane
    scaled = load_f32(w, block.values, block.first)
    if ranged:
        scaled = scaled - fill(w, st[simple.LOW, b])
    scaled = scaled * fill(w, st[simple.INVERSE, b]) + fill(w, st[simple.SHIFT, b])
    # No level is below zero.
    return at_most(truncate(scaled), nmax)


def _rounded(w: Any, room: Room, block: DirectBlock, i: Any) -> Any:
    """Levels of the values of vector ``i`` of a block that rounds."""
    inverse = fill(w, room.columns.found[simple.INVERSE, block.lane])
    return away(load_f32(w, block.values, block.first + i) * inverse)


def q4_0(w: Any, room: Room, block: DirectBlock) -> None:
    """One float16, 16 bytes of levels."""
    half(block.out, block.at, room.columns.whole[D, block.lane])
    store_nibbles(w, block.out, block.at + 2, _truncated(w, room, block, 15, False))


def q4_1(w: Any, room: Room, block: DirectBlock) -> None:
    """Two float16, 16 bytes of levels."""
    half(block.out, block.at, room.columns.whole[D, block.lane])
    half(block.out, block.at + 2, room.columns.whole[DMIN, block.lane])
    store_nibbles(w, block.out, block.at + 4, _truncated(w, room, block, 15, True))


def q5_0(w: Any, room: Room, block: DirectBlock) -> None:
    """One float16, 32 high bits, 16 bytes of levels."""
    half(block.out, block.at, room.columns.whole[D, block.lane])
    level = _truncated(w, room, block, 31, False)
    store_bits(w, block.out, block.at + 2, level > whole(w, 15))
    store_nibbles(w, block.out, block.at + 6, level)


def q5_1(w: Any, room: Room, block: DirectBlock) -> None:
    """Two float16, 32 high bits, 16 bytes of levels."""
    half(block.out, block.at, room.columns.whole[D, block.lane])
    half(block.out, block.at + 2, room.columns.whole[DMIN, block.lane])
    level = _truncated(w, room, block, 31, True)
    store_bits(w, block.out, block.at + 4, level > whole(w, 15))
    store_nibbles(w, block.out, block.at + 8, level)


def q8_0(w: Any, room: Room, block: DirectBlock) -> None:
    """One float16, 32 bytes of levels."""
    half(block.out, block.at, room.columns.whole[D, block.lane])
    store_bytes(w, block.out, block.at + 2, _rounded(w, room, block, 0))


def tq1_0(w: Any, room: Room, block: DirectBlock) -> None:
    """54 bytes of five ternary digits, one float16."""
    for i in range(8):
        store_bytes(w, room.levels, i * LANES, _rounded(w, room, block, i))
    emit.tq1_0(room.levels, room.columns.whole, block.lane, block.out, block.at)


def tq2_0(w: Any, room: Room, block: DirectBlock) -> None:
    """64 bytes of four ternary digits, one float16."""
    for i in range(8):
        store_bytes(w, room.levels, i * LANES, _rounded(w, room, block, i))
    emit.tq2_0(room.levels, room.columns.whole, block.lane, block.out, block.at)


def beyond(half: Any) -> Any:
    """Not 0 in the lanes whose float16 pattern is infinite or not a number."""
    return ((half & 0x7FFF) + 0x0400) & 0x8000


def put_f16(w: Any, out: Any, o: Any, value: Any) -> Any:
    """float16, to nearest even; returns where it is infinite."""
    half = halves.half_bits(w, value)
    store_halves(w, out, o, half)
    return beyond(half)


def put_bf16(w: Any, out: Any, o: Any, value: Any) -> Any:
    """bfloat16, to nearest even; returns where it is infinite."""
    pattern = bits(value)
    odd = (pattern >> 16) & 1
    rounded = (pattern + odd + 0x7FFF) >> 16
    store_halves(w, out, o, rounded)
    return ((rounded & 0x7FFF) + 0x80) & 0x8000


def put_f32(w: Any, out: Any, o: Any, value: Any) -> Any:
    """float32 as it is."""
    store_words(w, out, o, bits(value))
    return whole(w, 0)


def put_mxfp4(w: Any, out: Any, o: Any, value: Any) -> Any:
    """One exponent, 16 bytes of levels; returns where the exponent stands for no number."""
    top = largest(value)
    exponent: Any = 0
    pattern = np.float32(top).view(np.int32)
    if pattern > 0x00800000 and (pattern & 0x7FFFFF) < 0x7FFF00:
        exponent = ((pattern >> 23) - 2) & 0xFF
    elif top > 0.0:
        # float32 rounds up to the next integer just below a power of two, as log2f does.
        exponent = (int(np.floor(np.float32(np.log2(np.float64(top))))) + 125) & 0xFF
    out[o] = exponent
    scale = unbits(whole(w, 0x00200000 << exponent if exponent < 2 else (exponent - 1) << 23))
    best = whole(w, 0)
    # A level of the other sign is never nearer than 0, and those of both signs are alike.
    magnitude = absolute(value)
    least = magnitude
    for i in range(1, 8):
        error = absolute(fill(w, MXFP4[i]) * scale - magnitude)
        better = error < least
        best = select(better, whole(w, i), best)
        least = select(better, error, least)
    below = (value < fill(w, 0.0)) & (best != whole(w, 0))
    store_nibbles(w, out, o + 1, select(below, best + 8, best))
    return whole(w, 1 if exponent == 0xFF else 0)
