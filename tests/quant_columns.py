"""Columns of a few blocks, as the numpy engine's searches get them."""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.quant.search import columns
from mbuild.quant.search.columns import Columns, Sub

W = None
"""numpy's width of lanes: it has no use for one."""


def column(*rows: Any) -> Any:
    """Columns of one lane, or of as many as a row has numbers."""
    return np.array([np.atleast_1d(row) for row in rows], np.float32)


def of_zeros(lanes: int = 1, found: int = 1, whole: int = 20, scratch: int = 1, **more: Any) -> Any:
    """Columns of zeros, but for those that are given."""
    rows = {"values": 32, "importances": 32, "weights": 32, "scratch": scratch, "found": found}
    held: dict[str, Any] = {name: np.zeros((n, lanes), np.float32) for name, n in rows.items()}
    held["whole"] = np.zeros((whole, lanes), np.int32)
    held["spots"] = np.zeros((columns.SPOT_ROWS, lanes), np.int32)
    return Columns(**{**held, "grid": None, **more})


def sub(values: Any, weights: Any, nmax: int, kind: Any = np.float32) -> Sub:
    """A sub-block of columns of values and weights, its levels all zero."""
    return Sub(values, weights, np.zeros(values.shape, kind), len(values), nmax)


def half(value: float) -> int:
    """The pattern of a number's float16."""
    return int(np.float16(value).view(np.uint16))
