"""What compiled layouts are made of: one block's levels to its bytes.

Plain loops that numba compiles; the twin of :mod:`mbuild.quant.layouts.packing`, which does
the same for all blocks at once in numpy. ``it`` are the whole columns of a tile and
``b`` the block's lane in it, ``levels`` the block's levels (uint8), ``out`` the bytes
of all blocks (uint8, one dimension) and ``o`` where this block's begin. Nothing here
needs numba to be imported.
"""

from __future__ import annotations

from typing import Any

from mbuild.quant.layouts.instructions import Width, load_bytes, store_bytes, store_half
from mbuild.quant.search.columns import D

W = Width(16)
"""The lanes that levels are packed in."""


def half(out: Any, o: Any, pattern: Any) -> None:
    """The two bytes of a float16 pattern."""
    store_half(out, o, pattern)


def nibbles(levels: Any, out: Any, o: Any, groups: Any, size: Any) -> None:
    """Of each group values i and i + size share byte i, the first in the low half."""
    for p in range(groups):
        for i in range(0, size, 16):
            low = load_bytes(W, levels, 2 * size * p + i) & 0x0F
            high = load_bytes(W, levels, 2 * size * p + size + i) << 4
            store_bytes(W, out, o + size * p + i, low | high)


def quarters(levels: Any, shift: Any, out: Any, o: Any) -> None:
    """Two bits above ``shift`` of values i, i + 32, i + 64, i + 96 of every 128 in a byte."""
    for p in range(2):
        for i in range(0, 32, 16):
            packed = (load_bytes(W, levels, 128 * p + i) >> shift) & 3
            for k in range(1, 4):
                part = (load_bytes(W, levels, 128 * p + 32 * k + i) >> shift) & 3
                packed = packed | (part << (2 * k))
            store_bytes(W, out, o + 32 * p + i, packed)


def one_bit(levels: Any, shift: Any, out: Any, o: Any) -> None:
    """What lies above ``shift`` in level i of each 32 becomes one bit of byte i."""
    for i in range(0, 32, 16):
        packed = load_bytes(W, levels, i) >> shift
        for g in range(1, 8):
            packed = packed | ((load_bytes(W, levels, 32 * g + i) >> shift) << g)
        store_bytes(W, out, o + i, packed)


def scale_and_nibbles(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """One float16, 16 bytes of levels; Q4_0's layout as well."""
    half(out, o, it[D, b])
    nibbles(levels, out, o + 2, 1, 16)
