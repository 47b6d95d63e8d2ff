"""The table of types whose blocks are searched, and what the kernels of all types are.

One row per type and whether importances are given: sub-blocks, functions, levels; both
engines run these rows. Types that take no search (Q4_0 ... Q8_0 without importances,
the ternary types, MXFP4, casts) have functions of their own in each engine. What is to
be known of a kernel to call it stands here too, so that nobody loads numba for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from mbuild.gguf.types import GGMLType
from mbuild.quant.search import fits, points, simple, ternary


class Levels(Enum):
    """How a value's level follows from a block's findings."""

    AFFINE = 0
    """round((x + BASE) / STEP); where STEP is 0 round((x - OFFSET) * INVERSE)."""
    SYMMETRIC = 1
    """round(x / STEP) + nmax; where STEP is 0 round(x * INVERSE) + OFFSET."""
    DESCENT = 2
    """As SYMMETRIC, but where STEP is 0 the search's levels themselves."""
    TABLE = 3
    """The non-linear level nearest to x * INVERSE."""
    POINTS = 4
    """Codes of groups and their signs, which the search leaves in its scratch columns."""


@dataclass(frozen=True, slots=True)
class Spec:
    """How blocks of one type are searched and settled.

    A block is ``subs`` sub-blocks of ``n`` values. ``mean`` says how the sum of a
    block's squares becomes the mean square that importances are combined with:
    (sum * mean[0]) * mean[1]; where it is empty, the mean is over the whole row.
    Functions of types of POINTS are as :mod:`mbuild.quant.search.points` describes them.
    """

    subs: int
    n: int
    nmax: int
    levels: Levels
    fit: Callable[..., None]
    settle: Callable[..., None]
    mean: tuple[float, ...] = (1.0, 1.0)


_A, _S, _D, _T, _P = (
    Levels.AFFINE,
    Levels.SYMMETRIC,
    Levels.DESCENT,
    Levels.TABLE,
    Levels.POINTS,
)
_ROW: tuple[float, ...] = ()
_ONE, _TWO, _NL = (1.0, 1 / 256), (2.0, 1 / 256), (1.0, 2 / 32)

PLAIN: dict[GGMLType, Spec] = {
    GGMLType.Q2_K: Spec(16, 16, 3, _A, fits.q2_k, fits.settle_q2_k),
    GGMLType.Q3_K: Spec(16, 16, 4, _D, fits.q3_k, fits.settle_q3_k),
    GGMLType.Q4_K: Spec(8, 32, 15, _A, fits.q4_k, fits.settle_k),
    GGMLType.Q5_K: Spec(8, 32, 31, _A, fits.q5_k, fits.settle_k),
    GGMLType.Q6_K: Spec(16, 16, 32, _S, fits.q6_k, fits.settle_q6_k),
    GGMLType.IQ4_NL: Spec(1, 32, 15, _T, fits.iq4, fits.settle_iq4_nl),
    GGMLType.IQ4_XS: Spec(8, 32, 15, _T, fits.iq4, fits.settle_iq4_xs),
    GGMLType.IQ3_S: Spec(8, 32, 7, _P, points.iq3_s, points.settle_iq3_s, _TWO),
    GGMLType.IQ1_M: Spec(16, 16, 2, _P, ternary.iq1_m, ternary.settle_iq1_m, _TWO),
    GGMLType.IQ2_S: Spec(16, 16, 2, _P, points.iq2_s, points.settle_iq2_s, _TWO),
    GGMLType.IQ3_XXS: Spec(8, 32, 7, _P, points.iq3_xxs, points.settle_iq3_xxs, _TWO),
}
"""Without importances."""

WEIGHTED: dict[GGMLType, Spec] = {
    GGMLType.Q4_0: Spec(1, 32, 8, _S, fits.q4_0_weighted, fits.settle_single, _ROW),
    GGMLType.Q4_1: Spec(1, 32, 15, _A, fits.q4_1_weighted, fits.settle_single, _ROW),
    GGMLType.Q5_0: Spec(1, 32, 16, _S, fits.q5_0_weighted, fits.settle_single, _ROW),
    GGMLType.Q5_1: Spec(1, 32, 31, _A, fits.q5_1_weighted, fits.settle_single, _ROW),
    GGMLType.Q2_K: Spec(16, 16, 3, _A, fits.q2_k_weighted, fits.settle_q2_k_weighted, _ONE),
    GGMLType.Q3_K: Spec(16, 16, 4, _D, fits.q3_k_weighted, fits.settle_q3_k_weighted, _TWO),
    GGMLType.Q4_K: Spec(8, 32, 15, _A, fits.q4_k_weighted, fits.settle_q4_k_weighted, _TWO),
    GGMLType.Q5_K: Spec(8, 32, 31, _A, fits.q5_k_weighted, fits.settle_q5_k_weighted, _TWO),
    GGMLType.Q6_K: Spec(16, 16, 32, _S, fits.q6_k_weighted, fits.settle_q6_k),
    GGMLType.IQ4_NL: Spec(1, 32, 15, _T, fits.iq4_weighted, fits.settle_iq4_nl, _NL),
    GGMLType.IQ4_XS: Spec(8, 32, 15, _T, fits.iq4_weighted, fits.settle_iq4_xs, (1.0, 2 / 256)),
    GGMLType.IQ3_S: Spec(8, 32, 7, _P, points.iq3_s_weighted, points.settle_iq3_s, _TWO),
    GGMLType.IQ1_S: Spec(8, 32, 2, _P, ternary.iq1_s, ternary.settle_iq1_s, _TWO),
    GGMLType.IQ1_M: Spec(16, 16, 2, _P, ternary.iq1_m_weighted, ternary.settle_iq1_m, _TWO),
    GGMLType.IQ2_XXS: Spec(8, 32, 2, _P, points.iq2_xxs, points.settle_iq2_xxs, _ONE),
    GGMLType.IQ2_XS: Spec(16, 16, 2, _P, points.iq2_xs, points.settle_iq2_xs, _ONE),
    GGMLType.IQ2_S: Spec(16, 16, 2, _P, points.iq2_s_weighted, points.settle_iq2_s, _TWO),
    GGMLType.IQ3_XXS: Spec(8, 32, 7, _P, points.iq3_xxs_weighted, points.settle_iq3_xxs, _TWO),
}
"""With importances."""


def scratch_rows(spec: Spec) -> tuple[int, int, int]:
    """Rows of the columns that a search needs: findings, whole ones, scratch."""
    return fits.REAL_ROWS * spec.subs, fits.WHOLE_HEAD + 2 * spec.subs, spec.subs * spec.n


def point_rows(type_: GGMLType) -> int:
    """Rows of the scratch columns that a type of POINTS needs."""
    own = {GGMLType.IQ1_S: ternary.ROWS_S, GGMLType.IQ1_M: ternary.ROWS_M}
    return own.get(type_, points.ROWS)


ROW = 16
"""Values that the final choice of levels takes at once; every sub-block is a multiple."""

SCALES: dict[GGMLType, tuple[int, ...]] = {
    GGMLType.Q4_0: (0,),
    GGMLType.Q4_1: (0, 2),
    GGMLType.Q5_0: (0,),
    GGMLType.Q5_1: (0, 2),
    GGMLType.Q8_0: (0,),
    GGMLType.Q2_K: (80, 82),
    GGMLType.Q3_K: (108,),
    GGMLType.Q4_K: (0, 2),
    GGMLType.Q5_K: (0, 2),
    GGMLType.Q6_K: (208,),
    GGMLType.IQ4_NL: (0,),
    GGMLType.IQ4_XS: (0,),
    GGMLType.IQ1_S: (0,),
    GGMLType.IQ2_XXS: (0,),
    GGMLType.IQ2_XS: (0,),
    GGMLType.IQ2_S: (0,),
    GGMLType.IQ3_XXS: (0,),
    GGMLType.IQ3_S: (0,),
    GGMLType.TQ1_0: (52,),
    GGMLType.TQ2_0: (64,),
}
"""Where a block's float16 scales are, to be checked as ``ggml_validate_row_data`` does."""

CASTS = (GGMLType.F16, GGMLType.BF16, GGMLType.F32)
"""Types without blocks."""


class Kernel(NamedTuple):
    """Which compiled function makes blocks of a type; what is to be known to call it."""

    type_: GGMLType
    lanes: int
    spec: Spec | None = None
    """The search, of the types that have one."""
    weighted: bool = False
    """Whether importances are given."""

    @property
    def on_grid(self) -> bool:
        """Whether its points lie on a grid: it has a place for importances in any case."""
        return self.spec is not None and self.spec.levels is Levels.POINTS

    @property
    def tile(self) -> int:
        """Blocks that it makes at once: it is called with whole tiles."""
        return self.lanes * simple.LANES if self.type_ in CASTS else self.lanes

    @property
    def name(self) -> str:
        """Unlike that of every other kernel, and a name in C."""
        kind = "weighted" if self.weighted else "plain"
        return f"{kind}_{self.type_.name}_{self.lanes}"


def kernel(type_: GGMLType, weighted: bool, lanes: int) -> Kernel | None:
    """The kernel of a type, in ``lanes`` lanes if the type is searched; None if there is none.

    Types that do not take importances have the same one with and without them.
    """
    if weighted and type_ in WEIGHTED:
        return Kernel(type_, lanes, WEIGHTED[type_], True)
    if type_ in PLAIN:
        return Kernel(type_, lanes, PLAIN[type_])
    if type_ in simple.SIMPLE or type_ in CASTS or type_ is GGMLType.MXFP4:
        return Kernel(type_, simple.LANES)
    return None
