"""Whole numbers of 2 to 8 bits, packed from the lowest bit of the first byte on, as float32."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

WORD = 32
"""Bits of the words that codes are packed into."""


_SPREAD = {4: ((4, 0x0F0F),), 2: ((12, 0x000F000F), (6, 0x03030303))}
"""Shifts and masks that move the codes of a byte to bytes of their own."""


def codes_of(words: Array, bits: int) -> Array:
    """The codes of each row of ``words`` (rows, n), any integers, as uint8 (rows, codes).

    ``bits`` is 2, 3, 4, 5, 6 or 8; a row holds a multiple of eight codes.
    """
    rows = words.shape[0]
    raw = np.ascontiguousarray(words).view(np.uint8).reshape(rows, -1)
    if bits == 8:
        return raw
    if bits in _SPREAD:
        wide = raw.astype(f"<u{8 // bits}")
        for shift, mask in _SPREAD[bits]:
            wide |= wide << wide.dtype.type(shift)
            wide &= wide.dtype.type(mask)
        return wide.view(np.uint8)
    groups = raw.reshape(-1, bits).astype(np.uint64)
    whole = np.zeros(len(groups), np.uint64)
    for place in range(bits):
        whole |= groups[:, place] << np.uint64(8 * place)
    shifts = np.arange(0, 8 * bits, bits, dtype=np.uint64)
    codes = whole[:, None] >> shifts & np.uint64((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(rows, -1)


def unpacked(words: Array, bits: int) -> Array:
    """The codes as :func:`codes_of` gives them, as float32."""
    return codes_of(words, bits).astype(np.float32)


def unpacked_down(words: Array, bits: int) -> Array:
    """The codes of words (n, columns) that are packed along the first axis, (codes, columns)."""
    shifts = np.arange(0, WORD, bits, dtype=np.uint32)
    mask = np.uint32((1 << bits) - 1)
    codes = (words.view(np.uint32)[:, None, :] >> shifts[:, None]) & mask
    return codes.reshape(-1, words.shape[1]).astype(np.float32)
