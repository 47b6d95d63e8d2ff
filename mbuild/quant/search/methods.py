"""The ways in which blocks are made, as values: the kinds of part that a type's row names.

Functions of both engines stand side by side here, so that a type can name all its parts:
``pack`` is the numpy engine's, ``emit``, ``write`` and ``put`` are compiled. They stand in the
types' own files; what they share is in :mod:`mbuild.quant.layouts`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from mbuild.core.values import NamedTuple
from mbuild.quant.search.columns import ROWS
from mbuild.quant.search.grids import Grid

SQUARES_OF_ROW: tuple[float, ...] = ()
"""The mean square that importances are combined with is that of the whole row."""


class Levels(NamedTuple):
    """How a value's level follows from a block's findings, once for each engine.

    ``choose`` takes a method, values (blocks, sub-blocks, n) and columns, and returns the levels in
    numpy; ``put`` is compiled: it writes one block's levels into the room.
    :mod:`mbuild.quant.layouts.levels` has those of more than one kind of type.
    """

    choose: Callable[..., Any]
    put: Callable[..., None]


class MethodLayout(NamedTuple):
    """How the bytes of a searched block are made: ``pack`` in numpy, ``emit`` compiled.

    :mod:`mbuild.quant.layouts.packing` and :mod:`mbuild.quant.layouts.emit` say what the functions
    take; of types on grids ``point_packing`` and ``point_emit`` do.
    """

    pack: Callable[..., Any]
    emit: Callable[..., None]


class Search(NamedTuple):
    """Blocks whose scales are searched for.

    A block is ``subs`` sub-blocks of ``n`` values. ``mean`` says how the sum of a block's squares
    becomes the mean square that importances are combined with: (sum * mean[0]) * mean[1]; where it
    is empty, the mean is over the whole row.
    """

    subs: int
    n: int
    nmax: int
    levels: Levels
    fit: Callable[..., None]
    settle: Callable[..., None]
    mean: tuple[float, ...] = (1.0, 1.0)


class OnGrid(NamedTuple):
    """Blocks whose groups of values are moved to points of a grid; the rest as in a search.

    ``rows`` is how many rows of scratch columns it needs.
    """

    subs: int
    n: int
    grid: Grid
    fit: Callable[..., None]
    settle: Callable[..., None]
    mean: tuple[float, ...]
    rows: int = ROWS


class Measure(Enum):
    """What a scale function wants to know of a block's values: TOP, and perhaps VALUE."""

    MAGNITUDE = 0
    """The largest magnitude."""
    EXTREME = 1
    """The largest magnitude, and the first value that has it."""
    RANGE = 2
    """The greatest value, and the first least one."""


class Simple(NamedTuple):
    """Blocks whose scale follows from their extremes: :mod:`mbuild.quant.search.simple`.

    ``choose`` takes the columns ``st`` and values (blocks, weights) and returns the levels in numpy
    (:mod:`mbuild.quant.layouts.levels`). ``pack`` is as in a layout; compiled, ``write`` makes a
    block's bytes straight from its values.
    """

    scale: Callable[..., None]
    choose: Callable[[Any, Any], Any]
    pack: Callable[..., Any]
    write: Callable[..., None]
    measure: Measure = Measure.MAGNITUDE


class Each(NamedTuple):
    """Vectors of 32 values that are written one after the other, each for itself.

    ``pack`` makes the bytes of float32 (blocks, weights) in numpy; ``put`` is compiled: it writes
    one vector and returns where what it wrote is not finite.
    """

    pack: Callable[..., Any]
    put: Callable[..., Any]


Method = Search | OnGrid | Simple | Each


class Parts(NamedTuple):
    """All that makes blocks of one type: its row.

    ``plain`` is the method without importances, None where they are needed; ``weighted`` the one
    with them, None where they change nothing. ``bad`` says of blocks (blocks, bytes of a block)
    which ones ``ggml_validate_row_data`` refuses; ``scales`` is how many float16 scales, in rows
    D and DMIN, a kernel looks at for that. ``layout`` is that of the methods that search.
    ``decode`` gives what blocks (blocks, bytes of a block) stand for, float32 (blocks, weights);
    None where the ``gguf`` package knows it.
    """

    plain: Method | None
    bad: Callable[[Any], Any]
    scales: int = 0
    layout: MethodLayout | None = None
    weighted: Method | None = None
    decode: Callable[[Any], Any] | None = None

    def method(self, weighted: bool) -> Method | None:
        """How blocks are made, with importances or without."""
        return (weighted and self.weighted) or self.plain
