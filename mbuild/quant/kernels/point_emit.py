"""The compiled engine's layouts of the types on grids; the twin of
:mod:`mbuild.quant.arrays.point_packing`.

Plain loops that numba compiles. ``ls`` and ``it`` are the columns of a tile and ``b``
the block's lane in it, ``numbers`` the grid's point numbers, ``out`` the bytes of all
blocks (uint8, one dimension) and ``o`` where this block's begin.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.quant.kernels.emit import half
from mbuild.quant.search.fits import WHOLE_HEAD, D
from mbuild.quant.search.points import CODE, SIGN


def point(ls: Any, numbers: Any, k: Any, b: Any) -> Any:
    """The number of the point of group ``k``."""
    return int(numbers[int(ls[CODE + k, b])])


def _word(ls: Any, it: Any, g: Any, b: Any, out: Any, o: Any) -> None:
    """Four times seven signs and a scale in 32 bits."""
    word = np.int64(it[WHOLE_HEAD + g, b]) << 28
    for k in range(4):
        word |= np.int64(ls[SIGN + 4 * g + k, b]) << (7 * k)
    for i in range(4):
        out[o + i] = (word >> (8 * i)) & 0xFF


def _nibbles(it: Any, b: Any, out: Any, o: Any) -> None:
    """16 scales in 8 bytes."""
    for g in range(8):
        out[o + g] = it[WHOLE_HEAD + 2 * g, b] | (it[WHOLE_HEAD + 2 * g + 1, b] << 4)


def iq2_xxs(ls: Any, it: Any, numbers: Any, b: Any, out: Any, o: Any) -> None:
    """One float16, then 8 times four points and a word of signs and scale."""
    half(out, o, it[D, b])
    for g in range(8):
        for k in range(4):
            out[o + 2 + 8 * g + k] = point(ls, numbers, 4 * g + k, b)
        _word(ls, it, g, b, out, o + 6 + 8 * g)


def iq2_xs(ls: Any, it: Any, numbers: Any, b: Any, out: Any, o: Any) -> None:
    """One float16, 32 times nine bits of a point and seven signs, 16 scales."""
    half(out, o, it[D, b])
    for k in range(32):
        word = point(ls, numbers, k, b) | (int(ls[SIGN + k, b]) << 9)
        half(out, o + 2 + 2 * k, word)
    _nibbles(it, b, out, o + 66)


def iq2_s(ls: Any, it: Any, numbers: Any, b: Any, out: Any, o: Any) -> None:
    """One float16, 32 low bytes of points, 32 of signs, 8 of high bits, 16 scales."""
    half(out, o, it[D, b])
    for g in range(8):
        high = 0
        for j in range(4):
            k = 4 * g + j
            number = point(ls, numbers, k, b)
            out[o + 2 + k] = number & 0xFF
            out[o + 34 + k] = int(ls[SIGN + k, b])
            high |= (number >> 8) << (2 * j)
        out[o + 66 + g] = high
    _nibbles(it, b, out, o + 74)


def iq3_xxs(ls: Any, it: Any, numbers: Any, b: Any, out: Any, o: Any) -> None:
    """One float16, 64 points, 8 words of signs and scale."""
    half(out, o, it[D, b])
    for k in range(64):
        out[o + 2 + k] = point(ls, numbers, k, b)
    for g in range(8):
        _word(ls, it, g, b, out, o + 66 + 4 * g)


def iq3_s(ls: Any, it: Any, numbers: Any, b: Any, out: Any, o: Any) -> None:
    """One float16, 64 low bytes of points, 8 of high bits, 32 of signs, 4 of scales.

    An empty sub-block takes no place among points and signs: those after it move up.
    """
    half(out, o, it[D, b])
    for i in range(2, 106):
        out[o + i] = 0
    at = 0
    for g in range(8):
        if ls[CODE + 8 * g, b] < 0.0:
            continue
        high = 0
        for k in range(8):
            number = point(ls, numbers, 8 * g + k, b)
            out[o + 2 + at * 8 + k] = number & 0xFF
            high |= (number >> 8) << k
        out[o + 66 + g] = high
        for k in range(4):
            out[o + 74 + at * 4 + k] = int(ls[SIGN + 4 * g + k, b])
        at += 1
    for g in range(4):
        out[o + 106 + g] = it[WHOLE_HEAD + 2 * g, b] | (it[WHOLE_HEAD + 2 * g + 1, b] << 4)


def iq1_s(ls: Any, it: Any, numbers: Any, b: Any, out: Any, o: Any) -> None:
    """One float16, 32 low bytes of points, 8 words: four times three high bits, scale, shift."""
    half(out, o, it[D, b])
    for g in range(8):
        word = (it[WHOLE_HEAD + g, b] << 12) | (int(ls[SIGN + g, b]) << 15)
        for j in range(4):
            number = point(ls, numbers, 4 * g + j, b)
            out[o + 2 + 4 * g + j] = number & 0xFF
            word |= (number >> 8) << (3 * j)
        half(out, o + 34 + 2 * g, word)


def iq1_m(ls: Any, it: Any, numbers: Any, b: Any, out: Any, o: Any) -> None:
    """32 low bytes of points, 16 of high bits and shifts, 4 words of scales.

    The block's float16 lies in the highest four bits of these words.
    """
    for g in range(16):
        high = 0
        for j in range(2):
            k = 2 * g + j
            number = point(ls, numbers, k, b)
            out[o + k] = number & 0xFF
            high |= ((number >> 8) | (int(ls[SIGN + k, b]) << 3)) << (4 * j)
        out[o + 32 + g] = high
    for g in range(4):
        word = ((it[D, b] >> (4 * g)) & 15) << 12
        for j in range(4):
            word |= it[WHOLE_HEAD + 4 * g + j, b] << (3 * j)
        half(out, o + 48 + 2 * g, word)
