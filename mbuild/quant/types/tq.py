"""TQ1_0 and TQ2_0: the ternary types, whose scale is the largest magnitude."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.gguf.types import GGMLType
from mbuild.quant.layouts import checks, direct, emit, levels, packing
from mbuild.quant.layouts.emit import W
from mbuild.quant.layouts.instructions import load_bytes, store_bytes
from mbuild.quant.layouts.packing import Bytes, Whole
from mbuild.quant.layouts.rooms import DirectBlock, Room
from mbuild.quant.search import simple
from mbuild.quant.search.columns import D
from mbuild.quant.search.halves import half_bits
from mbuild.quant.search.methods import Parts, Simple
from mbuild.quant.search.ops import load, store, whole
from mbuild.quant.search.simple import LANES


def scale_ternary(w: Any, st: Any, it: Any) -> None:
    """d = largest magnitude."""
    d = load(w, st, simple.TOP)
    store(w, it, D, half_bits(w, d))
    simple.invert(w, st, d, 0.0, 0.0)


def pack_tq1_0(levels: Bytes, it: Whole) -> Bytes:
    """Five ternary digits a byte: of 160 values, of 80, and four of the last 16."""
    trits = levels + np.uint8(1)
    groups = (
        trits[:, :160].reshape(-1, 5, 32),
        trits[:, 160:240].reshape(-1, 5, 16),
        np.concatenate([trits[:, 240:].reshape(-1, 4, 4), np.zeros_like(trits[:, :4])[:, None]], 1),
    )
    parts = []
    for group in groups:
        number = np.zeros(group[:, 0].shape, np.uint32)
        for digit in range(5):
            number = number * 3 + group[:, digit]
        # Rounded up, so that multiplying by 3 gives the digits back.
        parts.append(((number * 256 + 242) // 243).astype(np.uint8))
    return np.concatenate([*parts, packing.half(it[D])], axis=1)


def pack_tq2_0(levels: Bytes, it: Whole) -> Bytes:
    """Four ternary digits a byte."""
    return np.concatenate([packing.quarters(levels + np.uint8(1)), packing.half(it[D])], axis=1)


def _trits(levels: Any, start: Any, stride: Any, count: Any, out: Any, o: Any) -> None:
    """Five digits a byte, of values ``stride`` apart; ``count`` bytes, a multiple of 16."""
    for i in range(0, count, 16):
        number = whole(W, 0)
        for digit in range(5):
            level = (load_bytes(W, levels, start + digit * stride + i) + 1) & 3
            number = number + number + number + level
        # (256 n + 242) // 243: rounded up, so that multiplying by 3 gives the digits back.
        rest = (number << 3) + (number << 2) + number + 242
        quotient = ((rest << 8) + (rest << 3) + (rest << 2) + (rest << 1)) >> 16
        store_bytes(W, out, o + i, number + quotient)


def emit_tq1_0(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """Five ternary digits a byte: of 160 values, of 80, and four of the last 16."""
    _trits(levels, 0, 32, 32, out, o)
    _trits(levels, 160, 16, 16, out, o + 32)
    for i in range(4):
        number = 0
        for digit in range(4):
            number = number * 3 + ((levels[240 + 4 * digit + i] + 1) & 3)
        out[o + 48 + i] = (number * 3 * 256 + 242) // 243
    emit.half(out, o + 52, it[D, b])


def emit_tq2_0(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """Four ternary digits a byte."""
    for i in range(256):
        levels[i] = (levels[i] + 1) & 3
    emit.quarters(levels, 0, out, o)
    emit.half(out, o + 64, it[D, b])


def write_tq1_0(w: Any, room: Room, block: DirectBlock) -> None:
    """54 bytes of five ternary digits, one float16."""
    for i in range(8):
        store_bytes(w, room.levels, i * LANES, direct.rounded(w, room, block, i))
    emit_tq1_0(room.levels, room.columns.whole, block.lane, block.out, block.at)


def write_tq2_0(w: Any, room: Room, block: DirectBlock) -> None:
    """64 bytes of four ternary digits, one float16."""
    for i in range(8):
        store_bytes(w, room.levels, i * LANES, direct.rounded(w, room, block, i))
    emit_tq2_0(room.levels, room.columns.whole, block.lane, block.out, block.at)


ROWS = {
    GGMLType.TQ1_0: Parts(
        Simple(scale_ternary, levels.to_nearest, pack_tq1_0, write_tq1_0), *checks.at(52)
    ),
    GGMLType.TQ2_0: Parts(
        Simple(scale_ternary, levels.to_nearest, pack_tq2_0, write_tq2_0), *checks.at(64)
    ),
}
