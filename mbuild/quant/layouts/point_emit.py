"""The compiled engine's layouts of the types on grids; the twin of
:mod:`mbuild.quant.layouts.point_packing`.

Plain loops that numba compiles. ``c`` are the columns of a tile and ``b`` the block's lane
in it, ``out`` the bytes of all blocks (uint8, one dimension) and ``o`` where this block's
begin.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.quant.layouts.emit import half
from mbuild.quant.search.columns import CODE, SIGN, WHOLE_HEAD, Columns, D


def point(c: Columns, k: Any, b: Any) -> Any:
    """The number of the point of group ``k``."""
    return int(c.grid.numbers[int(c.scratch[CODE + k, b])])


def _word(c: Columns, g: Any, b: Any, out: Any, o: Any) -> None:
    """Four times seven signs and a scale in 32 bits."""
    word = np.int64(c.whole[WHOLE_HEAD + g, b]) << 28
    for k in range(4):
        word |= np.int64(c.scratch[SIGN + 4 * g + k, b]) << (7 * k)
    for i in range(4):
        out[o + i] = (word >> (8 * i)) & 0xFF


def _nibbles(c: Columns, b: Any, out: Any, o: Any) -> None:
    """16 scales in 8 bytes."""
    for g in range(8):
        out[o + g] = c.whole[WHOLE_HEAD + 2 * g, b] | (c.whole[WHOLE_HEAD + 2 * g + 1, b] << 4)


def iq2_xxs(c: Columns, b: Any, out: Any, o: Any) -> None:
    """One float16, then 8 times four points and a word of signs and scale."""
    half(out, o, c.whole[D, b])
    for g in range(8):
        for k in range(4):
            out[o + 2 + 8 * g + k] = point(c, 4 * g + k, b)
        _word(c, g, b, out, o + 6 + 8 * g)


def iq2_xs(c: Columns, b: Any, out: Any, o: Any) -> None:
    """One float16, 32 times nine bits of a point and seven signs, 16 scales."""
    half(out, o, c.whole[D, b])
    for k in range(32):
        word = point(c, k, b) | (int(c.scratch[SIGN + k, b]) << 9)
        half(out, o + 2 + 2 * k, word)
    _nibbles(c, b, out, o + 66)


def iq2_s(c: Columns, b: Any, out: Any, o: Any) -> None:
    """One float16, 32 low bytes of points, 32 of signs, 8 of high bits, 16 scales."""
    half(out, o, c.whole[D, b])
    for g in range(8):
        high = 0
        for j in range(4):
            k = 4 * g + j
            number = point(c, k, b)
            out[o + 2 + k] = number & 0xFF
            out[o + 34 + k] = int(c.scratch[SIGN + k, b])
            high |= (number >> 8) << (2 * j)
        out[o + 66 + g] = high
    _nibbles(c, b, out, o + 74)


def iq3_xxs(c: Columns, b: Any, out: Any, o: Any) -> None:
    """One float16, 64 points, 8 words of signs and scale."""
    half(out, o, c.whole[D, b])
    for k in range(64):
        out[o + 2 + k] = point(c, k, b)
    for g in range(8):
        _word(c, g, b, out, o + 66 + 4 * g)


def iq3_s(c: Columns, b: Any, out: Any, o: Any) -> None:
    """One float16, 64 low bytes of points, 8 of high bits, 32 of signs, 4 of scales.

    An empty sub-block takes no place among points and signs: those after it move up.
    """
    half(out, o, c.whole[D, b])
    for i in range(2, 106):
        out[o + i] = 0
    at = 0
    for g in range(8):
        if c.scratch[CODE + 8 * g, b] < 0.0:
            continue
        high = 0
        for k in range(8):
            number = point(c, 8 * g + k, b)
            out[o + 2 + at * 8 + k] = number & 0xFF
            high |= (number >> 8) << k
        out[o + 66 + g] = high
        for k in range(4):
            out[o + 74 + at * 4 + k] = int(c.scratch[SIGN + 4 * g + k, b])
        at += 1
    for g in range(4):
        out[o + 106 + g] = c.whole[WHOLE_HEAD + 2 * g, b] | (
            c.whole[WHOLE_HEAD + 2 * g + 1, b] << 4
        )


def iq1_s(c: Columns, b: Any, out: Any, o: Any) -> None:
    """One float16, 32 low bytes of points, 8 words: four times three high bits, scale, shift."""
    half(out, o, c.whole[D, b])
    for g in range(8):
        word = (c.whole[WHOLE_HEAD + g, b] << 12) | (int(c.scratch[SIGN + g, b]) << 15)
        for j in range(4):
            number = point(c, 4 * g + j, b)
            out[o + 2 + 4 * g + j] = number & 0xFF
            word |= (number >> 8) << (3 * j)
        half(out, o + 34 + 2 * g, word)


def iq1_m(c: Columns, b: Any, out: Any, o: Any) -> None:
    """32 low bytes of points, 16 of high bits and shifts, 4 words of scales.

    The block's float16 lies in the highest four bits of these words.
    """
    for g in range(16):
        high = 0
        for j in range(2):
            k = 2 * g + j
            number = point(c, k, b)
            out[o + k] = number & 0xFF
            high |= ((number >> 8) | (int(c.scratch[SIGN + k, b]) << 3)) << (4 * j)
        out[o + 32 + g] = high
    for g in range(4):
        word = ((c.whole[D, b] >> (4 * g)) & 15) << 12
        for j in range(4):
            word |= c.whole[WHOLE_HEAD + 4 * g + j, b] << (3 * j)
        half(out, o + 48 + 2 * g, word)
