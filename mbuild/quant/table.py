"""The table of types: one row names all that makes a type's blocks, for both engines.

A new type is a row here. Its arithmetic is written once (:mod:`mbuild.quant.search`), its layout
twice, in numpy and compiled (:mod:`mbuild.quant.layouts`). What is to be known of a kernel to call
it stands here too; nothing here loads numba.
"""

from __future__ import annotations

from typing import NamedTuple

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.layouts import (
    casts,
    checks,
    direct,
    emit,
    levels,
    packing,
    point_emit,
    point_packing,
)
from mbuild.quant.layouts.checks import at
from mbuild.quant.search import fits, points, settling, simple, ternary
from mbuild.quant.search.columns import ROWS_M, ROWS_S, SPOT_ROWS, WHOLE_HEAD
from mbuild.quant.search.grids import CHUNK, EIGHT, FOUR, Grid
from mbuild.quant.search.methods import (
    SQUARES_OF_ROW,
    Each,
    Measure,
    Method,
    MethodLayout,
    OnGrid,
    Parts,
    Search,
    Simple,
)

G = GGMLType


_A, _S, _D, _T = levels.AFFINE, levels.SYMMETRIC, levels.DESCENT, levels.TABLE
_ROW = SQUARES_OF_ROW
_ONE, _TWO = (1.0, 1 / 256), (2.0, 1 / 256)
_IQ1 = Grid("IQ1_S", EIGHT, 3, CHUNK)
_IQ2_S, _IQ3_XXS = Grid("IQ2_S", EIGHT, 1), Grid("IQ3_XXS", FOUR, 2)
_IQ3_S = Grid("IQ3_S", FOUR, 3)

TYPES: dict[GGMLType, Parts] = {
    G.F32: Parts(Each(casts.cast_f32, direct.put_f32), checks.nothing),
    G.F16: Parts(Each(casts.cast_f16, direct.put_f16), checks.f16),
    G.BF16: Parts(Each(casts.cast_bf16, direct.put_bf16), checks.bf16),
    G.MXFP4: Parts(Each(casts.mxfp4, direct.put_mxfp4), checks.mxfp4),
    G.Q8_0: Parts(
        Simple(simple.scale_q8_0, packing.q8_0, direct.q8_0),
        *at(0),
    ),
    G.Q4_0: Parts(
        Simple(simple.scale_q4_0, packing.iq4_nl, direct.q4_0, Measure.EXTREME, 15),
        *at(0),
        MethodLayout(packing.iq4_nl, emit.iq4_nl),
        Search(1, 32, 8, _S, fits.q4_0_weighted, settling.settle_single, _ROW),
    ),
    G.Q4_1: Parts(
        Simple(simple.scale_q4_1, packing.q4_1, direct.q4_1, Measure.RANGE, 15),
        *at(0, 2),
        MethodLayout(packing.q4_1, emit.q4_1),
        Search(1, 32, 15, _A, fits.q4_1_weighted, settling.settle_single, _ROW),
    ),
    G.Q5_0: Parts(
        Simple(simple.scale_q5_0, packing.q5_0, direct.q5_0, Measure.EXTREME, 31),
        *at(0),
        MethodLayout(packing.q5_0, emit.q5_0),
        Search(1, 32, 16, _S, fits.q5_0_weighted, settling.settle_single, _ROW),
    ),
    G.Q5_1: Parts(
        Simple(simple.scale_q5_1, packing.q5_1, direct.q5_1, Measure.RANGE, 31),
        *at(0, 2),
        MethodLayout(packing.q5_1, emit.q5_1),
        Search(1, 32, 31, _A, fits.q5_1_weighted, settling.settle_single, _ROW),
    ),
    G.Q1_0: Parts(
        Search(4, 32, 1, levels.SIGNS, fits.q1_0, settling.settle_q1_0),
        *at(0),
        MethodLayout(packing.q1_0, emit.q1_0),
    ),
    G.TQ1_0: Parts(
        Simple(simple.scale_ternary, packing.tq1_0, direct.tq1_0),
        *at(52),
    ),
    G.TQ2_0: Parts(
        Simple(simple.scale_ternary, packing.tq2_0, direct.tq2_0),
        *at(64),
    ),
    G.Q2_K: Parts(
        Search(16, 16, 3, _A, fits.q2_k, settling.settle_q2_k),
        *at(80, 82),
        MethodLayout(packing.q2_k, emit.q2_k),
        Search(16, 16, 3, _A, fits.q2_k_weighted, settling.settle_q2_k_weighted, _ONE),
    ),
    G.Q3_K: Parts(
        Search(16, 16, 4, _D, fits.q3_k, settling.settle_q3_k),
        *at(108),
        MethodLayout(packing.q3_k, emit.q3_k),
        Search(16, 16, 4, _D, fits.q3_k_weighted, settling.settle_q3_k_weighted, _TWO),
    ),
    G.Q4_K: Parts(
        Search(8, 32, 15, _A, fits.q4_k, settling.settle_k),
        *at(0, 2),
        MethodLayout(packing.q4_k, emit.q4_k),
        Search(8, 32, 15, _A, fits.q4_k_weighted, settling.settle_q4_k_weighted, _TWO),
    ),
    G.Q5_K: Parts(
        Search(8, 32, 31, _A, fits.q5_k, settling.settle_k),
        *at(0, 2),
        MethodLayout(packing.q5_k, emit.q5_k),
        Search(8, 32, 31, _A, fits.q5_k_weighted, settling.settle_q5_k_weighted, _TWO),
    ),
    G.Q6_K: Parts(
        Search(16, 16, 32, _S, fits.q6_k, settling.settle_q6_k),
        *at(208),
        MethodLayout(packing.q6_k, emit.q6_k),
        Search(16, 16, 32, _S, fits.q6_k_weighted, settling.settle_q6_k),
    ),
    G.IQ4_NL: Parts(
        Search(1, 32, 15, _T, fits.iq4, settling.settle_iq4_nl),
        *at(0),
        MethodLayout(packing.iq4_nl, emit.iq4_nl),
        Search(1, 32, 15, _T, fits.iq4_weighted, settling.settle_iq4_nl, (1.0, 2 / 32)),
    ),
    G.IQ4_XS: Parts(
        Search(8, 32, 15, _T, fits.iq4, settling.settle_iq4_xs),
        *at(0),
        MethodLayout(packing.iq4_xs, emit.iq4_xs),
        Search(8, 32, 15, _T, fits.iq4_weighted, settling.settle_iq4_xs, (1.0, 2 / 256)),
    ),
    G.IQ1_S: Parts(
        None,
        *at(0),
        MethodLayout(point_packing.iq1_s, point_emit.iq1_s),
        OnGrid(8, 32, _IQ1, ternary.iq1_s, ternary.settle_iq1_s, _TWO, ROWS_S),
    ),
    G.IQ1_M: Parts(
        OnGrid(16, 16, _IQ1, ternary.iq1_m, ternary.settle_iq1_m, _TWO, ROWS_M),
        checks.iq1_m,
        1,
        MethodLayout(point_packing.iq1_m, point_emit.iq1_m),
        OnGrid(16, 16, _IQ1, ternary.iq1_m_weighted, ternary.settle_iq1_m, _TWO, ROWS_M),
    ),
    G.IQ2_XXS: Parts(
        None,
        *at(0),
        MethodLayout(point_packing.iq2_xxs, point_emit.iq2_xxs),
        OnGrid(8, 32, Grid("IQ2_XXS", EIGHT, 2), points.iq2_xxs, points.settle_iq2_xxs, _ONE),
    ),
    G.IQ2_XS: Parts(
        None,
        *at(0),
        MethodLayout(point_packing.iq2_xs, point_emit.iq2_xs),
        OnGrid(16, 16, Grid("IQ2_XS", EIGHT, 2), points.iq2_xs, points.settle_iq2_xs, _ONE),
    ),
    G.IQ2_S: Parts(
        OnGrid(16, 16, _IQ2_S, points.iq2_s, points.settle_iq2_s, _TWO),
        *at(0),
        MethodLayout(point_packing.iq2_s, point_emit.iq2_s),
        OnGrid(16, 16, _IQ2_S, points.iq2_s_weighted, points.settle_iq2_s, _TWO),
    ),
    G.IQ3_XXS: Parts(
        OnGrid(8, 32, _IQ3_XXS, points.iq3_xxs, points.settle_iq3_xxs, _TWO),
        *at(0),
        MethodLayout(point_packing.iq3_xxs, point_emit.iq3_xxs),
        OnGrid(8, 32, _IQ3_XXS, points.iq3_xxs_weighted, points.settle_iq3_xxs, _TWO),
    ),
    G.IQ3_S: Parts(
        OnGrid(8, 32, _IQ3_S, points.iq3_s, points.settle_iq3_s, _TWO),
        *at(0),
        MethodLayout(point_packing.iq3_s, point_emit.iq3_s),
        OnGrid(8, 32, _IQ3_S, points.iq3_s_weighted, points.settle_iq3_s, _TWO),
    ),
}
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
            found, whole = fits.REAL_ROWS * method.subs, WHOLE_HEAD + 2 * method.subs
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
