"""What a kernel is called with and works in, by name."""

from __future__ import annotations

from typing import Any

from mbuild.core.values import NamedTuple
from mbuild.quant.search.columns import Columns


class KernelCall(NamedTuple):
    """A kernel's arguments, all flat: bytes of values, and the bytes of blocks that they become.

    ``kind`` is the number of the source's tensor type. ``importances`` are those of every value,
    ``means`` the mean squares of every block's row: float32, empty where they are not given.
    """

    source: Any
    kind: Any
    importances: Any
    means: Any
    out: Any


class Room(NamedTuple):
    """A tile's scratch memory."""

    values: Any
    """The tile's values, float32, block after block, flat."""
    rows: Any
    """The same memory as rows of ``ROW`` values."""
    levels: Any
    """One block's levels, bytes."""
    columns: Columns


class SearchedShape(NamedTuple):
    """A searched block: ``subs`` sub-blocks of ``n`` values, levels up to ``nmax``."""

    subs: int
    n: int
    nmax: int


class DirectBlock(NamedTuple):
    """A block that is written without a search.

    ``values`` are bytes that hold float32, of which the block begins with vector number ``first``;
    its scales are in lane ``lane``, and it is written to the bytes ``out`` from ``at`` on.
    """

    values: Any
    first: Any
    lane: Any
    out: Any
    at: Any
