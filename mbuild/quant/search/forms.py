"""How the types on grids search, all but IQ1: a form for :mod:`mbuild.quant.search.points`.

The types' own constants are those of ``quantize_row_iq2_xxs_impl`` and its siblings in
``ggml-quants.c``.
"""

from __future__ import annotations

from mbuild.core.values import NamedTuple

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
