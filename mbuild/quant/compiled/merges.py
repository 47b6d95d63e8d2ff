"""Adding a product of two factors to weights in BF16, with machine code that LLVM makes.

The text is :mod:`mbuild.quant.compiled.merge_text`'s; the code came with mbuild, is kept or is made
now, like that of :mod:`mbuild.quant.compiled.chunks`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from mbuild.quant.compiled import written
from mbuild.quant.engine import Unavailable

NAME = "merge"
GROUP = 32
"""A row has a multiple of so many columns: :data:`merge_text.GROUP`."""

ITEMS = (2, 4)
"""Bytes of a weight, in BF16 and F32."""

_UNIT = 2.0**-24  # by how much of itself an F32 is rounded at most
_MARGIN = 1.02  # for the bound's own rounding
_LARGEST = 3.3e38
_LOADING = threading.Lock()
_loaded: dict[int, Callable[..., int] | Unavailable] = {}

Array = np.ndarray[Any, np.dtype[Any]]


def kernel_name(item: int) -> str:
    """The name under which the machine code is kept, which changes with its text."""
    return written.name_of(f"{NAME}{8 * item}", "merge_text.py")


def _function(item: int) -> Callable[..., int] | None:
    """The machine code; None where it cannot be had."""
    with _LOADING:
        if item not in _loaded:
            try:
                _loaded[item] = _load(item)
            except Unavailable as reason:
                _loaded[item] = reason
    found = _loaded[item]
    return None if isinstance(found, Unavailable) else found


def _load(item: int) -> Callable[..., int]:
    """The machine code; raises :class:`Unavailable`."""

    def text() -> str:
        from mbuild.quant.compiled.merge_text import MergeText

        return MergeText(NAME, item).write()

    return written.load(kernel_name(item), NAME, text)


def merge(data: Array, left: Array, right: Array, scale: float, longest: float, out: Array) -> bool:
    """Rows of weights plus ``scale`` * left right, rounded once to BF16, into ``out`` (uint16).

    ``data`` is (rows, columns) of BF16 (uint16) or F32, as ``out`` contiguous, ``left`` (rows,
    rank) and ``right`` (rank, columns) in F32, ``longest`` the length of the longest column of
    ``right``. Returns False, and ``out`` holds nothing, where no machine code can be had, where
    the columns are no multiple of :data:`GROUP`, and for values that BF16 may not hold.
    """
    (rows, columns), rank = data.shape, left.shape[1]
    fits = data.itemsize in ITEMS and columns % GROUP == 0 and rows * columns * rank
    call = _function(data.itemsize) if fits else None
    if call is None:
        return False
    most = np.sqrt(np.square(left, dtype=np.float64).sum(axis=1)) * abs(scale) * longest
    fixed = (most * ((rank + 10) * _UNIT * _MARGIN) + 1e-44).astype(np.float32)
    fixed = np.nextafter(fixed, np.float32(np.inf))
    top = call(
        *(data.reshape(-1), np.ascontiguousarray(left).reshape(-1)),
        *((left * np.float32(scale)).reshape(-1), np.ascontiguousarray(right).reshape(-1)),
        *(np.array([scale], np.float64), fixed, np.array([6 * _UNIT * _MARGIN], np.float32)),
        *(np.empty(rows, np.float32), out.reshape(-1), rows, rank, columns),
    )
    largest = float(np.array([top], np.uint32).view(np.float32)[0])
    return largest + float(most.max()) < _LARGEST
