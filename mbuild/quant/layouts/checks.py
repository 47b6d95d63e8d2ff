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


def beyond(high: Any) -> Any:
    """Whether the upper byte of a float16 is that of an infinity or a NaN."""
    return (high & 0x7C) == 0x7C


def at(*offsets: int) -> tuple[Callable[[Blocks], Any], int]:
    """The check of blocks with a float16 scale at each of these bytes, and how many these are."""

    def bad(blocks: Blocks) -> Any:
        return np.logical_or.reduce([beyond(blocks[:, offset + 1]) for offset in offsets])

    return bad, len(offsets)


def nothing(blocks: Blocks) -> Any:
    """No block is refused."""
    return np.zeros(len(blocks), np.bool_)
