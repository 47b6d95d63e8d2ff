"""The table of types, and what is to be known of a kernel to call it.

The rows stand in :mod:`mbuild.quant.types`: nothing here or there loads numba.
"""

from __future__ import annotations

from mbuild.core.values import NamedTuple
from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant import types
from mbuild.quant.search import findings, simple
from mbuild.quant.search.columns import SPOT_ROWS, WHOLE_HEAD
from mbuild.quant.search.methods import Each, Method, OnGrid, Parts, Search

TYPES: dict[GGMLType, Parts] = types.rows()
"""Every type that can be made."""


def supports(type_: GGMLType, weighted: bool) -> bool:
    """Whether values can be turned into this type (with importances, if ``weighted``)."""
    return type_ in TYPES and TYPES[type_].method(weighted) is not None


def takes_importances(type_: GGMLType) -> bool:
    """Whether importances make a difference to this type."""
    return TYPES[type_].weighted is not None


def wants_means(type_: GGMLType) -> bool:
    """Whether its importances are combined with the mean square of the whole row."""
    method = TYPES[type_].weighted
    return isinstance(method, Search | OnGrid) and not method.mean


ROW = 16
"""Values that the final choice of levels takes at once; every sub-block is a multiple."""

GOOD, SUSPECT = -1, -2
"""What a kernel returns that came to its end: a block's scale is not finite, or none is so. Else it
returns the number of the tile in which a value is infinite or not a number."""


class Rows(NamedTuple):
    """Rows of the columns that a kernel needs; those that it does not use have one."""

    values: int = 1
    scratch: int = 1
    found: int = 1
    whole: int = 1
    spots: int = 1


class Kernel(NamedTuple):
    """Which compiled function makes blocks of a type; what is to be known to call it."""

    type_: GGMLType
    lanes: int
    weighted: bool = False
    """Whether importances are given."""

    @property
    def method(self) -> Method:
        """How it makes them."""
        found = TYPES[self.type_].method(self.weighted)
        assert found is not None
        return found

    @property
    def tile(self) -> int:
        """Blocks that it makes at once: it is called with whole tiles."""
        if isinstance(self.method, Each):
            return self.lanes * simple.LANES // BLOCKS[self.type_].weights
        return self.lanes

    @property
    def rows(self) -> Rows:
        """The columns' rows."""
        method = self.method
        if isinstance(method, Search):
            found, whole = findings.REAL_ROWS * method.subs, WHOLE_HEAD + 2 * method.subs
            return Rows(method.n, method.subs * method.n, found, whole)
        if isinstance(method, OnGrid):
            return Rows(method.n, method.rows, method.subs, WHOLE_HEAD + method.subs, SPOT_ROWS)
        return Rows(found=simple.ROWS, whole=WHOLE_HEAD)

    @property
    def name(self) -> str:
        """A name in C, which no other kernel has."""
        kind = "weighted" if self.weighted else "plain"
        return f"{kind}_{self.type_.name}_{self.lanes}"


def kernel(type_: GGMLType, weighted: bool, lanes: int) -> Kernel:
    """The kernel of a type that is supported, in ``lanes`` lanes if the type is searched.

    Types that importances make no difference to have the same one with and without them.
    """
    parts = TYPES[type_]
    searched = isinstance(parts.method(weighted), Search | OnGrid)
    return Kernel(type_, lanes if searched else simple.LANES, weighted and takes_importances(type_))
