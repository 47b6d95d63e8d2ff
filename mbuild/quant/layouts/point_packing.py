"""What numpy's layouts of the types on grids are made of: codes, signs and scales to bytes.

The twin of :mod:`mbuild.quant.layouts.point_emit`. ``c`` are the columns that a search left
(:mod:`mbuild.quant.search.points`). Layouts: ``ggml-common.h``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.quant.search.columns import CODE, SIGN, WHOLE_HEAD, Columns


def points(c: Columns, count: int) -> Any:
    """The groups' point numbers, (blocks, count)."""
    codes = np.ascontiguousarray(c.scratch[CODE : CODE + count].T).astype(np.int64)
    return c.grid.numbers[np.maximum(codes, 0)]


def signs(c: Columns) -> Any:
    """The numbers of eight signs each, (blocks, 32)."""
    return np.ascontiguousarray(c.scratch[SIGN : SIGN + 32].T).astype(np.uint32)


def scales(c: Columns, count: int) -> Any:
    """The sub-blocks' scales, (blocks, count)."""
    return np.ascontiguousarray(c.whole[WHOLE_HEAD : WHOLE_HEAD + count].T)


def words(c: Columns) -> Any:
    """Four times seven signs and a scale in 32 bits, (blocks, 8)."""
    parts = signs(c).reshape(-1, 8, 4) << np.arange(0, 28, 7, dtype=np.uint32)
    return parts.sum(axis=2, dtype=np.uint32) | (scales(c, 8).astype(np.uint32) << 28)
