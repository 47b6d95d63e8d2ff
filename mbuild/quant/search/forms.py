"""How the types on grids search, all but IQ1: the constants of :mod:`mbuild.quant.search.points`.

They are those of ``quantize_row_iq2_xxs_impl`` and its siblings in ``ggml-quants.c``.
"""

from __future__ import annotations

from typing import NamedTuple

from mbuild.quant.search.grids import MOVED

EACH, ANY, ALL = 0, 1, 2
"""Which groups move once more at the scale found: those that were not on the grid, all if one
was not, or all."""


class Form(NamedTuple):
    """How a sub-block of ``n`` values is searched.

    Groups of ``size`` values have ``levels`` levels of ``bits`` bits; inverse scales
    (top + width * step) / largest value are tried for ``steps`` steps to either side.
    Magnitudes below ``tiny`` count as zero; ``even`` types keep seven signs of eight.
    Codes start as ``start``, an empty sub-block gets the codes ``empty``.
    """

    n: int
    size: int
    levels: int
    bits: int
    spots: int
    top: int
    steps: int
    width: float
    tiny: float
    even: bool
    again: int
    start: int = 0
    empty: int = 0


IQ2_XXS = Form(32, 8, 3, 2, 6561, 5, 6, 0.1, 1e-15, True, ALL)
IQ2_XS = Form(16, 8, 3, 2, 6561, 5, 9, 0.1, 1e-15, True, EACH)
IQ2_S = Form(16, 8, 3, 2, 6561, 5, 9, 0.1, 1e-8, False, EACH)
IQ3_XXS = Form(32, 4, 8, 4, 4096, 15, 15, 0.2, 1e-8, True, EACH)
IQ3_S = Form(32, 4, 8, 4, 4096, 15, 9, 0.2, 1e-45, False, ANY, MOVED, -1)
"""Without a better scale its groups count as moved; an empty sub-block has no points."""
