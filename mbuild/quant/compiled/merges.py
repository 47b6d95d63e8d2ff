"""Adding products of two factors to weights, with machine code that LLVM makes.

The text is :mod:`mbuild.quant.compiled.merge_text`'s; the code came with mbuild, is kept or is made
now, like that of :mod:`mbuild.quant.compiled.chunks`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mbuild.gguf.types import GGMLType
from mbuild.quant.compiled import written
from mbuild.quant.engine import Unavailable

NAME = "merge"
GROUP = 32
"""A row has a multiple of so many columns: :data:`merge_text.GROUP`."""

TILE = 128
""":data:`merge_text.TILE`."""

F32, F16, BF16 = GGMLType.F32, GGMLType.F16, GGMLType.BF16

Pair = tuple[GGMLType, GGMLType]

PAIRS: tuple[Pair, ...] = ((F32, F32), (F32, F16), (F32, BF16), (F16, F16), (BF16, BF16))
"""Types of weights, and the types that they are rounded to: those that a merge can ask for."""

_TOO_LARGE = {F32: 0x7F800000, F16: 0x477FF000, BF16: 0x7F7F8000}
"""Bits of the least F32 that each type rounds to infinity."""

_LOADING = threading.Lock()
_loaded: dict[Pair, Callable[..., int] | Unavailable] = {}

Array = np.ndarray[Any, np.dtype[Any]]
Factors = tuple[Array, Array, float]
"""A left factor (rows, rank) and a right one (rank, columns) in F32, and their scale."""


def kernel_name(pair: Pair) -> str:
    """The name under which the machine code is kept, which changes with its text."""
    stored, made = pair
    prefix = f"{NAME}-{stored.name}-{made.name}".lower()
    return written.name_of(prefix, "merge_text.py", "row_text.py")


def _function(pair: Pair) -> Callable[..., int] | None:
    """The machine code; None where it cannot be had."""
    with _LOADING:
        if pair not in _loaded:
            try:
                _loaded[pair] = _load(pair)
            except Unavailable as reason:
                _loaded[pair] = reason
    found = _loaded[pair]
    return None if isinstance(found, Unavailable) else found


def _load(pair: Pair) -> Callable[..., int]:
    """The machine code; raises :class:`Unavailable`."""

    def text() -> str:
        from mbuild.quant.compiled.merge_text import MergeText

        return MergeText(NAME, *pair).write()

    return written.load(kernel_name(pair), NAME, text)


def merge(data: Array, pair: Pair, factors: Sequence[Factors], out: Array) -> bool:
    """Rows of weights plus the products of all factors, rounded once, into ``out``.

    ``data`` and ``out`` are contiguous and have as many rows as each left factor; they hold
    elements of the two types of ``pair``, as numbers of any kind. Returns False, and ``out``
    holds nothing, where no machine code can be had, where the columns are no multiple of
    :data:`GROUP`, and where a sum is one that the type cannot hold.
    """
    (rows, _), ranks = data.shape, [right.shape[0] for _, right, _ in factors]
    columns = factors[0][1].shape[1] if factors else 0
    fits = pair in PAIRS and columns % GROUP == 0 and rows * columns and all(ranks)
    call = _function(pair) if fits and factors else None
    if call is None:
        return False
    lefts, rights, scales = zip(*factors, strict=True)
    rank = sum(ranks)
    top = call(
        data.reshape(-1),
        _joined(lefts, 1).astype(np.float64).reshape(-1),
        np.ascontiguousarray(_joined(rights, 0)).reshape(-1),
        *(np.cumsum(ranks, dtype=np.int64), np.array(scales, np.float64)),
        *(np.empty(rank * TILE), np.empty(len(factors) * GROUP)),
        *(out.reshape(-1), rows, rank, columns, len(factors)),
    )
    return top < _TOO_LARGE[pair[1]]


def _joined(parts: Sequence[Array], axis: int) -> Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)
