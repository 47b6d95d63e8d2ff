"""The kernels of the types on grids, compiled by numba: as :mod:`mbuild.quant.kernels.tiles`.

They differ in what a search gets (the grid's table, whole scratch columns) and in that
blocks are written from the groups' codes, not from a level for each value.
"""

# numba and llvmlite are typed in part or not at all.
# mypy: disable-error-code="import-untyped,import-not-found,no-untyped-call,no-untyped-def"
# mypy: disable-error-code="call-overload,misc,no-any-return,attr-defined,untyped-decorator"

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant import specs
from mbuild.quant.kernels import emit, lane_lists, lane_runs, point_emit
from mbuild.quant.kernels.lane_arrays import flat_reals, reals, wholes
from mbuild.quant.kernels.lane_bytes import count
from mbuild.quant.kernels.tiles import (
    OPTIONS,
    allow,
    beyond,
    columns,
    done,
    fetch,
    infinite,
    squares,
)
from mbuild.quant.search import fitting, grids, points, ternary
from mbuild.quant.search.fits import WHOLE_HEAD
from mbuild.quant.search.ops import fill, whole

PACK: dict[GGMLType, Any] = {
    GGMLType.IQ1_S: point_emit.iq1_s,
    GGMLType.IQ1_M: point_emit.iq1_m,
    GGMLType.IQ2_XXS: point_emit.iq2_xxs,
    GGMLType.IQ2_XS: point_emit.iq2_xs,
    GGMLType.IQ2_S: point_emit.iq2_s,
    GGMLType.IQ3_XXS: point_emit.iq3_xxs,
    GGMLType.IQ3_S: point_emit.iq3_s,
}


_HELPERS = (beyond, columns, done, fetch, infinite, squares)


@cache
def _allow_all() -> None:
    for text in (fitting, points, ternary, emit, point_emit, *_HELPERS):
        allow(text)
    lane_lists.allow({"forceinline": True, **OPTIONS})
    lane_runs.allow({"forceinline": True, **OPTIONS})


@cache
def kernel(type_: GGMLType, importances: bool) -> Any:
    """kernel(w, e, source, kind, q, out), as :func:`mbuild.quant.kernels.tiles.weighted`.

    Without ``importances`` the ``q`` are not looked at. The grid's table is among the
    kernel's constants.
    """
    _allow_all()
    spec = (specs.WEIGHTED if importances else specs.PLAIN)[type_]
    fit, settle, subs, n = spec.fit, spec.settle, spec.subs, spec.n
    pack, size = PACK[type_], BLOCKS[type_].size
    rows, whole_rows = specs.point_rows(type_), WHOLE_HEAD + spec.subs
    whole_scratch = points.WHOLE_ROWS
    once, twice = (np.float32(m) for m in spec.mean)
    block = subs * n
    table = grids.table(type_)

    def run(w, e, source, kind, q, out):
        lanes = count(w)
        st = reals(w, subs)
        it = wholes(w, whole_rows)
        cols = reals(w, n)
        qs = reals(w, n)
        ls = reals(w, rows)
        ints = wholes(w, whole_scratch)
        x = flat_reals(w, block)
        suspect = whole(w, 0)
        for tile in range(out.size // (lanes * size)):
            if not fetch(e, source, kind, tile * lanes * block, x):
                return tile
            mean = squares(w, x, subs, n, cols) * fill(w, once) * fill(w, twice)
            for g in range(subs):
                columns(x, g * n, block, n, cols)
                if importances:
                    columns(q, tile * lanes * block + g * n, block, n, qs)
                fit(w, table, cols, qs, ls, ints, st, g, mean)
            settle(w, table, st, it, ls)
            suspect = suspect | infinite(w, it, 1)
            for b in range(lanes):
                pack(ls, it, table.numbers, b, out, (tile * lanes + b) * size)
        return done(w, suspect)

    return run
