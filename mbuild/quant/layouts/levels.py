"""How levels are chosen once a block's scales are found: in numpy of all blocks, compiled of one.

A numpy function takes a searched method, values ``x`` (blocks, sub-blocks, n) and the columns, and
returns levels of that shape. A compiled one takes a width, a room, the block's shape and its lane
``b``, and leaves the levels in the room.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.quant.layouts.instructions import store_bytes
from mbuild.quant.layouts.rooms import Room, SearchedShape
from mbuild.quant.search.columns import Columns
from mbuild.quant.search.fits import BASE, INVERSE, IQ4_INDEX, OFFSET, STEP
from mbuild.quant.search.fitting import place
from mbuild.quant.search.methods import Levels, Search
from mbuild.quant.search.ops import clamp, fill, load, lookup, nearest, select, truncate, whole

PLACES = IQ4_INDEX.astype(np.float32)
"""The index of the nearest non-linear level for each half step, as a table of reals."""


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


def choose_descent(method: Search, x: Any, c: Columns) -> Any:
    """As of a symmetric search, but where STEP is 0 the search's levels themselves."""
    kept = c.scratch.T.reshape(x.shape).astype(np.int32)
    return np.where(of_each(method, c, STEP) == 0, kept, final_symmetric(method, x, c))


def choose_table(method: Search, x: Any, c: Columns) -> Any:
    """The non-linear level nearest to x * INVERSE."""
    inverse = of_each(method, c, INVERSE)
    return IQ4_INDEX[place(None, x * inverse + x * inverse)]


def choose_signs(method: Search, x: Any, c: Columns) -> Any:
    """1 from zero on, of either sign, else 0."""
    return x >= 0


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


def descent_levels(e: Any, room: Room, shape: SearchedShape, b: Any) -> None:
    """Levels around zero, or those that the search left in the scratch."""
    subs, n, nmax = shape
    st = room.columns.found
    for g in range(subs):
        step = st[STEP * subs + g, b]
        if step == 0.0:
            for i in range(n):
                room.levels[g * n + i] = int(room.columns.scratch[g * n + i, b])
        else:
            for i in range(n // 16):
                value = load(e, room.rows, (b * subs + g) * (n // 16) + i) / fill(e, step)
                level = clamp(nearest(value), -nmax, nmax - 1) + nmax
                store_bytes(e, room.levels, g * n + i * 16, level)


def table_levels(e: Any, room: Room, shape: SearchedShape, b: Any) -> None:
    """The nearest of the non-linear levels."""
    subs, n, _ = shape
    st = room.columns.found
    for g in range(subs):
        inverse = fill(e, st[INVERSE * subs + g, b])
        for i in range(n // 16):
            value = load(e, room.rows, (b * subs + g) * (n // 16) + i) * inverse
            level = lookup(e, PLACES, place(e, value + value))
            store_bytes(e, room.levels, g * n + i * 16, truncate(level))


def sign_levels(e: Any, room: Room, shape: SearchedShape, b: Any) -> None:
    """1 from zero on, else 0."""
    rows = shape.subs * shape.n // 16
    for i in range(rows):
        below = load(e, room.rows, b * rows + i) < fill(e, 0.0)
        store_bytes(e, room.levels, i * 16, select(below, whole(e, 0), whole(e, 1)))


AFFINE = Levels(choose_affine, affine_levels)
SYMMETRIC = Levels(choose_symmetric, symmetric_levels)
DESCENT = Levels(choose_descent, descent_levels)
TABLE = Levels(choose_table, table_levels)
SIGNS = Levels(choose_signs, sign_levels)
