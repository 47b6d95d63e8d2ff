"""numba's meaning of :func:`mbuild.quant.search.grids.closest`: lanes hold a list's neighbours.

Elsewhere the lanes of a vector belong to different blocks. The neighbours of a group
are too many, and too different in number from block to block, for that: here the
blocks are taken one after the other, and the lanes are one group's neighbours, each of
which adds up its costs in the reference's order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from mbuild.quant.kernels.lane_arrays import reals
from mbuild.quant.kernels.lane_picks import cycle, pick4
from mbuild.quant.kernels.lanes import Real, WidthType, register
from mbuild.quant.kernels.vectors import I32
from mbuild.quant.layouts.instructions import count, first_lane, load_u16
from mbuild.quant.search import grids
from mbuild.quant.search.columns import COST, SPOT, Columns
from mbuild.quant.search.grids import CHUNK
from mbuild.quant.search.ops import fill, load, select, store, whole


@intrinsic
def _chunk_width(typingctx: Any) -> Any:
    """The width of a chunk of neighbours."""

    def build(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return context.get_dummy_value()

    return WidthType(grids.CHUNK)(), build


def least(value: Any) -> float:
    """The least of the lanes of a real vector without NaN."""
    raise NotImplementedError("only compiled kernels reduce a vector")


def _least(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    value, lanes = args[0], sig.args[0].lanes
    while lanes > 1:
        lanes //= 2
        halves = []
        for start in (0, lanes):
            index = ir.Constant(ir.VectorType(I32, lanes), list(range(start, start + lanes)))
            undefined = ir.Constant(value.type, ir.Undefined)
            halves.append(builder.shuffle_vector(value, undefined, index))
        value = builder.select(builder.fcmp_ordered("<", *halves), *halves)
    return builder.extract_element(value, I32(0))


register(least, (Real,), lambda v: types.float32, _least)


def closest(w: Any, c: Columns, code: Any) -> None:
    """As :func:`mbuild.quant.search.grids.closest`."""
    ls, grid = c.scratch, c.grid
    e: Any = _chunk_width()  # type: ignore[call-arg]
    tables = reals(e, 8)
    level = cycle(e, 0, 1, 4)
    for lane in range(count(w)):
        at = int(ls[SPOT, lane])
        start, chunks = grid.lists[at] >> 6, grid.lists[at] & 63
        if chunks == 0:
            continue
        for i in range(8):
            row = COST + 3 * i
            low = select(level == whole(e, 0), fill(e, ls[row, lane]), fill(e, ls[row + 1, lane]))
            store(e, tables, i, select(level == whole(e, 2), fill(e, ls[row + 2, lane]), low))
        best = fill(e, np.inf)
        where = fill(e, 0.0)
        for chunk in range(chunks):
            near = load_u16(e, grid.codes, start + chunk)
            total = pick4(load(e, tables, 0), near)
            for i in range(1, 8):
                total = total + pick4(load(e, tables, i), near >> (2 * i))
            nearer = total < best
            best = select(nearer, total, best)
            where = select(nearer, fill(e, chunk), where)
        # Of equal costs the first in the list: the least chunk, in that the least lane.
        equal = best == fill(e, least(best))
        chunk = np.float32(0)
        if chunks > 1:
            chunk = least(select(equal, where, fill(e, chunks)))
            equal = equal & (where == fill(e, chunk))
        place = 2 * ((start + int(chunk)) * CHUNK + first_lane(equal))
        ls[code, lane] = grid.codes[place] + 256 * int(grid.codes[place + 1])


def allow(options: Any) -> None:
    """Tell numba that this is what the search text means by :func:`grids.closest`."""
    overload(grids.closest, jit_options=options, strict=False)(lambda *_: closest)
