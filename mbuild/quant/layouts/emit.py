"""The compiled engine's layouts: one block's levels to its bytes.

Plain loops that numba compiles; the twin of :mod:`mbuild.quant.layouts.packing`, which does
the same for all blocks at once in numpy. ``it`` are the whole columns of a tile and
``b`` the block's lane in it, ``levels`` the block's levels (uint8), ``out`` the bytes
of all blocks (uint8, one dimension) and ``o`` where this block's begin. Nothing here
needs numba to be imported.
"""

from __future__ import annotations

from typing import Any

from mbuild.quant.layouts.instructions import Width, load_bytes, store_bits, store_bytes, store_half
from mbuild.quant.search.columns import DMIN, WHOLE_HEAD, D
from mbuild.quant.search.ops import whole

W = Width(16)
"""The lanes that levels are packed in."""


def half(out: Any, o: Any, pattern: Any) -> None:
    """The two bytes of a float16 pattern."""
    store_half(out, o, pattern)


def _nibbles(levels: Any, out: Any, o: Any, groups: Any, size: Any) -> None:
    for p in range(groups):
        for i in range(0, size, 16):
            low = load_bytes(W, levels, 2 * size * p + i) & 0x0F
            high = load_bytes(W, levels, 2 * size * p + size + i) << 4
            store_bytes(W, out, o + size * p + i, low | high)


def _quarters(levels: Any, shift: Any, out: Any, o: Any) -> None:
    for p in range(2):
        for i in range(0, 32, 16):
            packed = (load_bytes(W, levels, 128 * p + i) >> shift) & 3
            for k in range(1, 4):
                part = (load_bytes(W, levels, 128 * p + 32 * k + i) >> shift) & 3
                packed = packed | (part << (2 * k))
            store_bytes(W, out, o + 32 * p + i, packed)


def _one_bit(levels: Any, shift: Any, out: Any, o: Any) -> None:
    """What lies above ``shift`` in level i of each 32 becomes one bit of byte i."""
    for i in range(0, 32, 16):
        packed = load_bytes(W, levels, i) >> shift
        for g in range(1, 8):
            packed = packed | ((load_bytes(W, levels, 32 * g + i) >> shift) << g)
        store_bytes(W, out, o + i, packed)


def _sixes(it: Any, b: Any, out: Any, o: Any) -> None:
    for g in range(4):
        s, s4 = it[WHOLE_HEAD + g, b], it[WHOLE_HEAD + 4 + g, b]
        m, m4 = it[WHOLE_HEAD + 8 + g, b], it[WHOLE_HEAD + 12 + g, b]
        out[o + g] = s | ((s4 >> 4) << 6)
        out[o + 4 + g] = m | ((m4 >> 4) << 6)
        out[o + 8 + g] = (s4 & 0x0F) | ((m4 & 0x0F) << 4)


def q2_k(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """16 bytes of scales and minima, 64 of levels, two float16."""
    for g in range(16):
        out[o + g] = it[WHOLE_HEAD + g, b] | (it[WHOLE_HEAD + 16 + g, b] << 4)
    _quarters(levels, 0, out, o + 16)
    half(out, o + 80, it[D, b])
    half(out, o + 82, it[DMIN, b])


def q3_k(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """32 bytes of high bits, 64 of low ones, 12 of scales, one float16."""
    _one_bit(levels, 2, out, o)
    _quarters(levels, 0, out, o + 32)
    for g in range(8):
        low = it[WHOLE_HEAD + g, b] & 0x0F
        out[o + 96 + g] = low | ((it[WHOLE_HEAD + 8 + g, b] & 0x0F) << 4)
    for g in range(4):
        upper = 0
        for k in range(4):
            upper |= (it[WHOLE_HEAD + 4 * k + g, b] >> 4) << (2 * k)
        out[o + 104 + g] = upper
    half(out, o + 108, it[D, b])


def q4_k(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """Two float16, 12 bytes of scales and minima, 128 of levels."""
    half(out, o, it[D, b])
    half(out, o + 2, it[DMIN, b])
    _sixes(it, b, out, o + 4)
    _nibbles(levels, out, o + 16, 4, 32)


def q5_k(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """As Q4_K, with 32 bytes of high bits before the low ones."""
    half(out, o, it[D, b])
    half(out, o + 2, it[DMIN, b])
    _sixes(it, b, out, o + 4)
    _one_bit(levels, 4, out, o + 16)
    _nibbles(levels, out, o + 48, 4, 32)


def q6_k(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """128 bytes of low bits, 64 of high ones, 16 scales, one float16."""
    _nibbles(levels, out, o, 2, 64)
    _quarters(levels, 4, out, o + 128)
    for g in range(16):
        out[o + 192 + g] = it[WHOLE_HEAD + g, b]
    half(out, o + 208, it[D, b])


def _high_bits(levels: Any, out: Any, o: Any) -> None:
    for i in range(0, 32, 16):
        store_bits(W, out, o + i // 8, load_bytes(W, levels, i) > whole(W, 15))


def iq4_nl(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """One float16, 16 bytes of levels; Q4_0's layout as well."""
    half(out, o, it[D, b])
    _nibbles(levels, out, o + 2, 1, 16)


def iq4_xs(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """One float16, the scales' high and low bits, 128 bytes of levels."""
    half(out, o, it[D, b])
    high = 0
    for g in range(8):
        high |= (it[WHOLE_HEAD + g, b] >> 4) << (2 * g)
    half(out, o + 2, high)
    for g in range(4):
        low = it[WHOLE_HEAD + 2 * g, b] & 0x0F
        out[o + 4 + g] = low | ((it[WHOLE_HEAD + 2 * g + 1, b] & 0x0F) << 4)
    _nibbles(levels, out, o + 8, 8, 16)


def q1_0(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """One float16, 16 bytes of one bit a value."""
    half(out, o, it[D, b])
    for i in range(0, 128, 16):
        store_bits(W, out, o + 2 + i // 8, load_bytes(W, levels, i) > whole(W, 0))


def q4_1(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """Two float16, 16 bytes of levels."""
    half(out, o, it[D, b])
    half(out, o + 2, it[DMIN, b])
    _nibbles(levels, out, o + 4, 1, 16)


def q5_0(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """One float16, 32 high bits, 16 bytes of levels."""
    half(out, o, it[D, b])
    _high_bits(levels, out, o + 2)
    _nibbles(levels, out, o + 6, 1, 16)


def q5_1(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """Two float16, 32 high bits, 16 bytes of levels."""
    half(out, o, it[D, b])
    half(out, o + 2, it[DMIN, b])
    _high_bits(levels, out, o + 4)
    _nibbles(levels, out, o + 8, 1, 16)


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


def tq1_0(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """Five ternary digits a byte: of 160 values, of 80, and four of the last 16."""
    _trits(levels, 0, 32, 32, out, o)
    _trits(levels, 160, 16, 16, out, o + 32)
    for i in range(4):
        number = 0
        for digit in range(4):
            number = number * 3 + ((levels[240 + 4 * digit + i] + 1) & 3)
        out[o + 48 + i] = (number * 3 * 256 + 242) // 243
    half(out, o + 52, it[D, b])


def tq2_0(levels: Any, it: Any, b: Any, out: Any, o: Any) -> None:
    """Four ternary digits a byte."""
    for i in range(256):
        levels[i] = (levels[i] + 1) & 3
    _quarters(levels, 0, out, o)
    half(out, o + 64, it[D, b])
