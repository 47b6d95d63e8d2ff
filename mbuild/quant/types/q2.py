"""Q2_0: two bits for each of 64 values, whose scale is the largest magnitude.

Constants are those of ``quantize_row_q2_0_ref`` in ``ggml-quants.c``. Code 3, twice the scale, is
never made.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.gguf.types import GGMLType
from mbuild.quant.layouts import checks, direct, emit, levels, packing
from mbuild.quant.layouts.instructions import store_bytes
from mbuild.quant.layouts.packing import Bytes, Reals, Whole
from mbuild.quant.layouts.rooms import DirectBlock, Room
from mbuild.quant.search import simple
from mbuild.quant.search.columns import D
from mbuild.quant.search.halves import half_bits
from mbuild.quant.search.methods import Parts, Simple
from mbuild.quant.search.ops import fill, load, store, truncate
from mbuild.quant.search.simple import LANES


def scale_q2_0(w: Any, st: Any, it: Any) -> None:
    """d = largest magnitude; where its inverse is infinite all codes are 0."""
    d = load(w, st, simple.TOP)
    store(w, it, D, half_bits(w, d))
    simple.invert(w, st, d, 1.0, 0.0)


def choose_q2_0(st: Any, x: Reals) -> Any:
    """-1, 0 or 1 as 0, 1 or 2."""
    return levels.to_nearest(st, x) + truncate(st[simple.SHIFT][:, None])


def pack_q2_0(codes: Bytes, it: Whole) -> Bytes:
    """One float16, 16 bytes of four values each, the first in the lowest bits."""
    four = codes.reshape(len(codes), 16, 4) << np.arange(0, 8, 2, dtype=np.uint8)
    return np.concatenate([packing.half(it[D]), four.sum(axis=2).astype(np.uint8)], axis=1)


def write_q2_0(w: Any, room: Room, block: DirectBlock) -> None:
    """One float16, 16 bytes of four values each, the first in the lowest bits."""
    shift = truncate(fill(w, room.columns.found[simple.SHIFT, block.lane]))
    for i in range(2):
        store_bytes(w, room.levels, i * LANES, direct.rounded(w, room, block, i) + shift)
    emit.half(block.out, block.at, room.columns.whole[D, block.lane])
    for i in range(16):
        low = room.levels[4 * i] | (room.levels[4 * i + 1] << 2)
        high = (room.levels[4 * i + 2] << 4) | (room.levels[4 * i + 3] << 6)
        block.out[block.at + 2 + i] = low | high


def decode_q2_0(blocks: Bytes) -> Reals:
    """(code - 1) * d, float32 (blocks, 64)."""
    d = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    codes = (blocks[:, 2:, None] >> np.arange(0, 8, 2, dtype=np.uint8)) & 3
    return (codes.reshape(len(blocks), 64).astype(np.float32) - np.float32(1)) * d


ROWS = {
    GGMLType.Q2_0: Parts(
        Simple(scale_q2_0, choose_q2_0, pack_q2_0, write_q2_0),
        *checks.at(0),
        decode=decode_q2_0,
    )
}
