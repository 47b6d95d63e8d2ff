"""The numpy engine's layouts: levels and whole scales to the bytes of blocks.

Levels are uint8 arrays (blocks, weights of a block), whole columns int32 arrays
(rows, blocks) as :mod:`mbuild.quant.search.fits` fills them; each function returns
uint8 (blocks, bytes of a block). Layouts: ``ggml-common.h``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mbuild.quant.search.columns import DMIN, WHOLE_HEAD, D

Bytes = NDArray[np.uint8]
Whole = NDArray[np.int32]


def half(row: NDArray[np.int32]) -> Bytes:
    """float16 patterns (blocks,) as bytes (blocks, 2)."""
    return row.astype("<u2").view(np.uint8).reshape(-1, 2)


def _columns(it: Whole, start: int, count: int) -> Bytes:
    """``count`` rows of whole columns as bytes (blocks, count)."""
    return np.ascontiguousarray(it[start : start + count].T).astype(np.uint8)


def nibbles(levels: Bytes, group: int) -> Bytes:
    """Value i and value i + group/2 of each group share a byte, the first in the low half."""
    pairs = levels.reshape(len(levels), -1, 2, group // 2)
    packed = (pairs[:, :, 0] & 0x0F) | (pairs[:, :, 1] << 4)
    return packed.astype(np.uint8).reshape(len(levels), -1)


def _quarters(levels: Bytes) -> Bytes:
    """Two bits each of values i, i + 32, i + 64, i + 96 of every 128 in a byte."""
    parts = (levels & 3).reshape(len(levels), 2, 4, 32)
    packed = parts[:, :, 0] | parts[:, :, 1] << 2 | parts[:, :, 2] << 4 | parts[:, :, 3] << 6
    return packed.astype(np.uint8).reshape(len(levels), -1)


def high_bits(levels: Bytes, bit: int) -> Bytes:
    """Bit ``bit`` of values 0 ... 31 as four little-endian bytes a block of 32."""
    return np.packbits((levels >> bit) & 1, axis=1, bitorder="little")


def _sixes(it: Whole) -> Bytes:
    """8 scales and 8 minima of 6 bits in 12 bytes."""
    sc, m = _columns(it, WHOLE_HEAD, 8), _columns(it, WHOLE_HEAD + 8, 8)
    return np.concatenate(
        [
            sc[:, :4] | (sc[:, 4:] >> 4 << 6),
            m[:, :4] | (m[:, 4:] >> 4 << 6),
            (sc[:, 4:] & 0x0F) | (m[:, 4:] << 4),
        ],
        axis=1,
    )


def q2_k(levels: Bytes, it: Whole) -> Bytes:
    """16 bytes of scales and minima, 64 of levels, two float16."""
    scales = _columns(it, WHOLE_HEAD, 16) | _columns(it, WHOLE_HEAD + 16, 16) << 4
    return np.concatenate([scales, _quarters(levels), half(it[D]), half(it[DMIN])], axis=1)


def q3_k(levels: Bytes, it: Whole) -> Bytes:
    """32 bytes of high bits, 64 of low ones, 12 of scales, one float16."""
    high = ((levels > 3).reshape(-1, 8, 32) << np.arange(8)[:, None]).sum(axis=1)
    low = np.where(levels > 3, levels - 4, levels).astype(np.uint8)
    sc = _columns(it, WHOLE_HEAD, 16)
    upper = (sc >> 4).reshape(-1, 4, 4)
    scales = np.concatenate(
        [
            (sc[:, :8] & 0x0F) | (sc[:, 8:] << 4),
            upper[:, 0] | upper[:, 1] << 2 | upper[:, 2] << 4 | upper[:, 3] << 6,
        ],
        axis=1,
    )
    return np.concatenate([high.astype(np.uint8), _quarters(low), scales, half(it[D])], axis=1)


def q4_k(levels: Bytes, it: Whole) -> Bytes:
    """Two float16, 12 bytes of scales and minima, 128 of levels."""
    return np.concatenate([half(it[D]), half(it[DMIN]), _sixes(it), nibbles(levels, 64)], axis=1)


def q5_k(levels: Bytes, it: Whole) -> Bytes:
    """As Q4_K, with 32 bytes of high bits before the low ones."""
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    high = ((levels >> 4).reshape(-1, 8, 32) << shifts).sum(axis=1).astype(np.uint8)
    head = [half(it[D]), half(it[DMIN]), _sixes(it)]
    return np.concatenate([*head, high, nibbles(levels, 64)], axis=1)


def q6_k(levels: Bytes, it: Whole) -> Bytes:
    """128 bytes of low bits, 64 of high ones, 16 scales, one float16."""
    # Values l, l + 64 of 128 share a byte of ql, then l + 32, l + 96.
    low = nibbles(levels, 128)
    scales = _columns(it, WHOLE_HEAD, 16)
    return np.concatenate(
        [low, _quarters((levels >> 4).astype(np.uint8)), scales, half(it[D])], axis=1
    )


def iq4_nl(levels: Bytes, it: Whole) -> Bytes:
    """One float16, 16 bytes of levels; Q4_0's layout as well."""
    return np.concatenate([half(it[D]), nibbles(levels, 32)], axis=1)


def iq4_xs(levels: Bytes, it: Whole) -> Bytes:
    """One float16, the scales' high and low bits, 128 bytes of levels."""
    scales = it[WHOLE_HEAD : WHOLE_HEAD + 8]
    high = sum(((scales[g] >> 4) << 2 * g for g in range(8)), np.zeros_like(scales[0]))
    low = nibbles(_columns(it, WHOLE_HEAD, 8).reshape(-1, 4, 2).reshape(-1, 2), 2).reshape(-1, 4)
    return np.concatenate([half(it[D]), half(high), low, nibbles(levels, 32)], axis=1)


def q1_0(levels: Bytes, it: Whole) -> Bytes:
    """One float16, 16 bytes of one bit a value."""
    return np.concatenate([half(it[D]), np.packbits(levels, axis=1, bitorder="little")], axis=1)


def q4_1(levels: Bytes, it: Whole) -> Bytes:
    """Two float16, 16 bytes of levels."""
    return np.concatenate([half(it[D]), half(it[DMIN]), nibbles(levels, 32)], axis=1)


def q5_0(levels: Bytes, it: Whole) -> Bytes:
    """One float16, 32 high bits, 16 bytes of levels."""
    return np.concatenate([half(it[D]), high_bits(levels, 4), nibbles(levels, 32)], axis=1)


def q5_1(levels: Bytes, it: Whole) -> Bytes:
    """Two float16, 32 high bits, 16 bytes of levels."""
    head = [half(it[D]), half(it[DMIN])]
    return np.concatenate([*head, high_bits(levels, 4), nibbles(levels, 32)], axis=1)


def q8_0(levels: Bytes, it: Whole) -> Bytes:
    """One float16, 32 bytes of levels."""
    return np.concatenate([half(it[D]), levels], axis=1)


def tq1_0(levels: Bytes, it: Whole) -> Bytes:
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
    return np.concatenate([*parts, half(it[D])], axis=1)


def tq2_0(levels: Bytes, it: Whole) -> Bytes:
    """Four ternary digits a byte."""
    return np.concatenate([_quarters(levels + np.uint8(1)), half(it[D])], axis=1)
