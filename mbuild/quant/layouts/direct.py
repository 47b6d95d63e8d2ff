"""What compiled layouts are made of that write blocks straight from values.

Texts that numba compiles; nothing here needs it to be imported. Vectors have 32 lanes.
"""

from __future__ import annotations

from typing import Any

from mbuild.quant.layouts.instructions import load_f32
from mbuild.quant.layouts.rooms import DirectBlock, Room
from mbuild.quant.search import simple
from mbuild.quant.search.ops import at_most, away, fill, truncate


def truncated(w: Any, room: Room, block: DirectBlock, nmax: Any, ranged: Any) -> Any:
    """Levels of the 32 values of a block that truncates; its LOW is 0 if not ``ranged``."""
    st, b = room.columns.found, block.lane
    scaled = load_f32(w, block.values, block.first)
    if ranged:
        scaled = scaled - fill(w, st[simple.LOW, b])
    scaled = scaled * fill(w, st[simple.INVERSE, b]) + fill(w, st[simple.SHIFT, b])
    # No level is below zero.
    return at_most(truncate(scaled), nmax)


def rounded(w: Any, room: Room, block: DirectBlock, i: Any) -> Any:
    """Levels of the values of vector ``i`` of a block that rounds."""
    inverse = fill(w, room.columns.found[simple.INVERSE, block.lane])
    return away(load_f32(w, block.values, block.first + i) * inverse)


def beyond(half: Any) -> Any:
    """Not 0 in the lanes whose float16 pattern is infinite or not a number."""
    return ((half & 0x7FFF) + 0x0400) & 0x8000
