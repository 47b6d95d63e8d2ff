"""numba's meaning of :func:`mbuild.quant.grids.closest`: lanes hold a list's neighbours.

Elsewhere the lanes of a vector belong to different blocks. The neighbours of a group
are too many, and too different in number from block to block, for that: here the
blocks are taken one after the other, and the lanes are one group's neighbours, each of
which adds up its costs in the reference's order.
"""

# numba and llvmlite are typed in part or not at all.
# mypy: disable-error-code="import-untyped,import-not-found,no-untyped-call,no-untyped-def"
# mypy: disable-error-code="call-overload,misc,no-any-return,attr-defined,untyped-decorator"
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from mbuild.quant import grids
from mbuild.quant.grids import CHUNK
from mbuild.quant.lane_bytes import count, first_lane, load_u16
from mbuild.quant.lanes import I32, Real, WidthType, register
from mbuild.quant.ops import fill, select, whole


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


def _pick_3(e: Any, near: Any, i: Any, ls: Any, row: Any, lane: Any) -> Any:
    """The costs of value ``i`` in neighbours of three levels."""
    none = whole(e, 0)
    cost = select((near & (1 << 2 * i)) != none, fill(e, ls[row + 1, lane]), fill(e, ls[row, lane]))
    return select((near & (2 << 2 * i)) != none, fill(e, ls[row + 2, lane]), cost)


def closest(w: Any, grid: Any, ls: Any, spot: Any, code: Any, costs: Any) -> None:
    """As :func:`mbuild.quant.grids.closest`."""
    e: Any = _chunk_width()  # type: ignore[call-arg]
    for lane in range(count(w)):
        at = int(ls[spot, lane])
        chunks = grid.chunks[at]
        if chunks == 0:
            continue
        start = grid.starts[at]
        best = fill(e, np.inf)
        where = fill(e, 0.0)
        for chunk in range(chunks):
            near = load_u16(e, grid.codes, start + chunk)
            total = fill(e, 0.0)
            for i in range(8):
                total = total + _pick_3(e, near, i, ls, costs + 3 * i, lane)
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


def allow(options: dict[str, Any]) -> None:
    """Tell numba that this is what the search text means by :func:`grids.closest`."""
    for function, meaning in ((_pick_3, _pick_3), (grids.closest, closest)):
        overload(function, jit_options=options, strict=False)(lambda *_, chosen=meaning: chosen)
