"""Which blocks ``ggml_validate_row_data`` refuses: those whose scale is no finite number.

A check is given blocks as uint8 (blocks, bytes of a block) and returns which ones are bad, bool
(blocks,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Blocks = NDArray[Any]


def _beyond(high: Any) -> Any:
    """Whether the upper byte of a float16 is that of an infinity or a NaN."""
    return (high & 0x7C) == 0x7C


def at(*offsets: int) -> tuple[Callable[[Blocks], Any], int]:
    """The check of blocks with a float16 scale at each of these bytes, and how many these are."""

    def bad(blocks: Blocks) -> Any:
        return np.logical_or.reduce([_beyond(blocks[:, offset + 1]) for offset in offsets])

    return bad, len(offsets)


def iq1_m(blocks: Blocks) -> Any:
    """IQ1_M spreads its float16 over the highest four bits of four words: the last two count."""
    return _beyond((blocks[:, 55] & 0xF0) | (blocks[:, 53] >> 4))


def mxfp4(blocks: Blocks) -> Any:
    """An exponent of 255 stands for no number."""
    return blocks[:, 0] == 0xFF


def f16(blocks: Blocks) -> Any:
    """The values themselves."""
    return _beyond(blocks[:, 1])


def bf16(blocks: Blocks) -> Any:
    """The values themselves."""
    return ((blocks[:, 1] & 0x7F) == 0x7F) & (blocks[:, 0] >= 0x80)


def nothing(blocks: Blocks) -> Any:
    """No block is refused."""
    return np.zeros(len(blocks), np.bool_)
