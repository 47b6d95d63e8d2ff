"""How levels are chosen once a block's scales are found: in numpy of all blocks, compiled of one.

A numpy function takes a searched method, values ``x`` (blocks, sub-blocks, n) and the columns, and
returns levels of that shape. A compiled one takes a width, a room, the block's shape and its lane
``b``, and leaves the levels in the room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mbuild.quant.layouts.instructions import store_bytes
from mbuild.quant.layouts.rooms import Room, SearchedShape
from mbuild.quant.search import simple
from mbuild.quant.search.columns import Columns
from mbuild.quant.search.findings import BASE, INVERSE, OFFSET, STEP
from mbuild.quant.search.methods import Levels, Search
from mbuild.quant.search.ops import away, clamp, fill, load, nearest, truncate


def of_each(method: Search, c: Columns, kind: int) -> Any:
    """What was found of every sub-block, float32 (blocks, sub-blocks, 1)."""
    return c.found[kind * method.subs : (kind + 1) * method.subs].T[:, :, None]


def choose_affine(method: Search, x: Any, c: Columns) -> Any:
    """round((x + BASE) / STEP); where STEP is 0 round((x - OFFSET) * INVERSE)."""
    step, offset = of_each(method, c, STEP), of_each(method, c, OFFSET)
    kept = nearest((x - offset) * of_each(method, c, INVERSE))
    final = nearest((x + of_each(method, c, BASE)) / step)
    return np.where(step == 0, clamp(kept, 0, method.nmax), clamp(final, 0, method.nmax))


def final_symmetric(method: Search, x: Any, c: Columns) -> Any:
    """round(x / STEP) + nmax; of no meaning where STEP is 0."""
    nmax = method.nmax
    return clamp(nearest(x / of_each(method, c, STEP)), -nmax, nmax - 1) + nmax


def choose_symmetric(method: Search, x: Any, c: Columns) -> Any:
    """round(x / STEP) + nmax; where STEP is 0 round(x * INVERSE) + OFFSET."""
    kept = nearest(x * of_each(method, c, INVERSE))
    kept = clamp(kept, -method.nmax, method.nmax - 1) + truncate(of_each(method, c, OFFSET))
    return np.where(of_each(method, c, STEP) == 0, kept, final_symmetric(method, x, c))


def affine_levels(e: Any, room: Room, shape: SearchedShape, b: Any) -> None:
    """Levels above a minimum."""
    subs, n, nmax = shape
    st = room.columns.found
    for g in range(subs):
        step = st[STEP * subs + g, b]
        for i in range(n // 16):
            value = load(e, room.rows, (b * subs + g) * (n // 16) + i)
            if step == 0.0:
                value = value - fill(e, st[OFFSET * subs + g, b])
                value = value * fill(e, st[INVERSE * subs + g, b])
            else:
                value = (value + fill(e, st[BASE * subs + g, b])) / fill(e, step)
            store_bytes(e, room.levels, g * n + i * 16, clamp(nearest(value), 0, nmax))


def symmetric_levels(e: Any, room: Room, shape: SearchedShape, b: Any) -> None:
    """Levels around zero."""
    subs, n, nmax = shape
    st = room.columns.found
    for g in range(subs):
        step = st[STEP * subs + g, b]
        for i in range(n // 16):
            value = load(e, room.rows, (b * subs + g) * (n // 16) + i)
            shift = fill(e, nmax)
            if step == 0.0:
                value = value * fill(e, st[INVERSE * subs + g, b])
                shift = fill(e, st[OFFSET * subs + g, b])
            else:
                value = value / fill(e, step)
            level = clamp(nearest(value), -nmax, nmax - 1) + truncate(shift)
            store_bytes(e, room.levels, g * n + i * 16, level)


def to_nearest(st: Any, x: Any) -> Any:
    """Of types whose scale follows from extremes: round_half_away(x * INVERSE)."""
    return away(x * st[simple.INVERSE][:, None])


def up_to(nmax: int) -> Callable[[Any, Any], Any]:
    """Of those that truncate: trunc((x - LOW) * INVERSE + SHIFT), limited to 0 ... ``nmax``."""

    def choose(st: Any, x: Any) -> Any:
        scaled = (x - st[simple.LOW][:, None]) * st[simple.INVERSE][:, None]
        return clamp(truncate(scaled + st[simple.SHIFT][:, None]), 0, nmax)

    return choose


AFFINE = Levels(choose_affine, affine_levels)
SYMMETRIC = Levels(choose_symmetric, symmetric_levels)
