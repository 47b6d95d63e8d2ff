"""What compiled layouts of the types on grids are made of; the twin of
:mod:`mbuild.quant.layouts.point_packing`.

Plain loops that numba compiles. ``c`` are the columns of a tile and ``b`` the block's lane
in it, ``out`` the bytes of all blocks (uint8, one dimension) and ``o`` where this block's
begin.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.quant.search.columns import CODE, SIGN, WHOLE_HEAD, Columns


def point(c: Columns, k: Any, b: Any) -> Any:
    """The number of the point of group ``k``."""
    return int(c.grid.numbers[int(c.scratch[CODE + k, b])])


def word(c: Columns, g: Any, b: Any, out: Any, o: Any) -> None:
    """Four times seven signs and a scale in 32 bits."""
    word = np.int64(c.whole[WHOLE_HEAD + g, b]) << 28
    for k in range(4):
        word |= np.int64(c.scratch[SIGN + 4 * g + k, b]) << (7 * k)
    for i in range(4):
        out[o + i] = (word >> (8 * i)) & 0xFF


def nibbles(c: Columns, b: Any, out: Any, o: Any) -> None:
    """16 scales in 8 bytes."""
    for g in range(8):
        out[o + g] = c.whole[WHOLE_HEAD + 2 * g, b] | (c.whole[WHOLE_HEAD + 2 * g + 1, b] << 4)
