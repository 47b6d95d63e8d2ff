"""What numpy's layouts are made of: levels and whole scales to the bytes of blocks.

Levels are uint8 arrays (blocks, weights of a block), whole columns int32 arrays
(rows, blocks) as settle functions fill them. Each type's ``pack`` returns uint8 (blocks, bytes of
a block). Layouts: ``ggml-common.h``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mbuild.quant.search.columns import D

Bytes = NDArray[np.uint8]
Whole = NDArray[np.int32]
Reals = NDArray[np.float32]


def half(row: NDArray[np.int32]) -> Bytes:
    """float16 patterns (blocks,) as bytes (blocks, 2)."""
    return row.astype("<u2").view(np.uint8).reshape(-1, 2)


def rows_of(it: Whole, start: int, count: int) -> Bytes:
    """``count`` rows of whole columns as bytes (blocks, count)."""
    return np.ascontiguousarray(it[start : start + count].T).astype(np.uint8)


def nibbles(levels: Bytes, group: int) -> Bytes:
    """Value i and value i + group/2 of each group share a byte, the first in the low half."""
    pairs = levels.reshape(len(levels), -1, 2, group // 2)
    packed = (pairs[:, :, 0] & 0x0F) | (pairs[:, :, 1] << 4)
    return packed.astype(np.uint8).reshape(len(levels), -1)


def quarters(levels: Bytes) -> Bytes:
    """Two bits each of values i, i + 32, i + 64, i + 96 of every 128 in a byte."""
    parts = (levels & 3).reshape(len(levels), 2, 4, 32)
    packed = parts[:, :, 0] | parts[:, :, 1] << 2 | parts[:, :, 2] << 4 | parts[:, :, 3] << 6
    return packed.astype(np.uint8).reshape(len(levels), -1)


def scale_and_nibbles(levels: Bytes, it: Whole) -> Bytes:
    """One float16, 16 bytes of levels; Q4_0's layout as well."""
    return np.concatenate([half(it[D]), nibbles(levels, 32)], axis=1)
