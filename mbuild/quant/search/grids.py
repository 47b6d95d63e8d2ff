"""The grids of the low-bit types: points, neighbours, and the nearest of these.

IQ1, IQ2 and IQ3 store values in groups of eight or four, each group a point of a grid. A
combination of levels is written as a *code*, the level of value i in bits 2i and 2i + 1
(in bits 4i ... 4i + 2 for groups of four). The points are ggml's, taken from the ``gguf``
package, which decodes with them; which points count as a combination's neighbours is as
in ``iq2xs_init_impl`` and ``iq3xs_init_impl`` of ``ggml-quants.c``.

A combination's *spot* is its levels as digits, the first the lowest, in a number system of
as many digits as there are levels.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbuild.core.values import NamedTuple
from mbuild.quant.search.columns import COST, ROOT, SCALES, SPOT, STEPS, VALUE, Columns

CHUNK = 16
"""Neighbours that IQ1 looks at together; a list is filled up with its first one."""
HALF = 8
"""Neighbours that the other types look at together, at two scales at once."""
MOVED = 1 << 16
"""Added to the code of a group whose levels were not on the grid; bits above it mean nothing."""


class GridShape(NamedTuple):
    """What the groups of a grid look like: a grid of eight values or one of four."""

    size: int
    levels: int
    bits: int
    """Bits of a code that a value takes."""

    @property
    def spots(self) -> int:
        """The number of combinations of levels."""
        return int(self.levels**self.size)


EIGHT, FOUR = GridShape(8, 3, 2), GridShape(4, 8, 4)


class GridTable(NamedTuple):
    """One grid, as the searches read it.

    For types other than IQ1 there are two lists for each spot: in place ``spot`` only those
    neighbours that can be the nearest one, in place ``spots + spot`` all.
    """

    lists: NDArray[np.int32]
    """The first chunk of a combination's neighbours times 64, plus how many chunks these are:
    none for a point of the grid, where the chunk holds its code."""
    codes: NDArray[np.uint8]
    """The neighbours' codes, nearest first, then in the grid's order: 16-bit integers."""
    numbers: NDArray[np.uint16]
    """(codes,) the number of the point that has this code."""


class Grid(NamedTuple):
    """Which points a type's groups lie on, and how they are listed.

    ``name`` is that of the type whose points these are; the neighbours of a combination have
    its ``rings`` least distances, and are looked at ``chunk`` at a time.
    """

    name: str
    shape: GridShape
    rings: int
    chunk: int = HALF


def _points(name: str) -> Any:
    """The grid's levels, (points, values of a group)."""
    from gguf import quants

    known = getattr(quants, name)
    known.init_grid()
    values = known.grid.reshape(-1, known.grid_shape[1])
    return np.searchsorted(np.unique(values), values)


def _neighbours(apart: Any, points: Any, rings: int) -> list[NDArray[np.int64]]:
    """For each combination the numbers of its neighbours, nearest first."""
    distance = ((apart[:, None, :] - points[None, :, :]) ** 2).sum(axis=2)
    order = np.argsort(distance, axis=1, kind="stable")
    distance = np.take_along_axis(distance, order, 1)
    ring = np.cumsum(distance[:, 1:] > distance[:, :-1], axis=1)
    counts = 1 + (ring < rings).sum(axis=1)
    return [row[:count] for row, count in zip(order, counts, strict=True)]


def _able(away: Any) -> Any:
    """Which of the neighbours can be the nearest, given their levels less the combination's.

    A combination is the values' nearest levels. So a neighbour whose every level is as near
    as another's, or further on the same side, costs as much as that one or more, rounding
    being monotonic; and where it costs as much, that one stands before it.
    """
    a, b = away[:, None, :], away[None, :, :]
    nearer = ((a == 0) | ((a * b > 0) & (np.abs(a) <= np.abs(b)))).all(axis=2)
    np.fill_diagonal(nearer, False)
    return ~nearer.any(axis=0)


def _useless(near: Any, spot: Any, form: GridShape) -> int:
    """A code to fill up a list of those able with, that can not be the nearest.

    Of three levels it is the fourth, which costs infinity (:mod:`mbuild.quant.kernels.lane_runs`).
    Else it is the first neighbour, one value of it moved as far away as there is room.
    """
    if form.levels == 3:
        return 0xFFFF
    first, top = near[0], form.levels - 1
    away = first - spot
    ends = np.where((away > 0) | ((away == 0) & (2 * spot <= top)), top, 0)
    i = int(np.argmax(np.abs(ends - first)))
    moved = first.copy()
    moved[i] = ends[i]
    return int((moved.astype(np.int64) << (form.bits * np.arange(form.size))).sum())


def _fill(codes: Any, chunk: int, spare: int) -> Any:
    return np.append(codes, np.repeat(spare, -len(codes) % chunk))


@cache
def table(grid: Grid) -> GridTable:
    """The table of a grid; made at the first call, in some tenths of a second.

    Compiled kernels have it among their constants.
    """
    form, chunk = grid.shape, grid.chunk
    points = _points(grid.name).astype(np.int16)
    places, shifts = form.levels ** np.arange(form.size), form.bits * np.arange(form.size)
    codes = (points.astype(np.int64) << shifts).sum(axis=1)
    held = np.full(form.spots, -1)
    held[(points * places).sum(axis=1)] = codes
    spots = ((np.arange(held.size)[:, None] // places) % form.levels).astype(np.int16)
    apart = np.flatnonzero(held < 0)
    near = []
    for first in range(0, len(apart), 256):
        near += _neighbours(spots[apart[first : first + 256]], points, grid.rings)
    full = [_fill(np.array([code]), chunk, code) for code in held]
    able = list(full)
    for spot, listed in zip(apart, near, strict=True):
        full[spot] = _fill(codes[listed], chunk, codes[listed[0]])
        if chunk == HALF:
            chosen = listed[_able(points[listed] - spots[spot])]
            spare = _useless(points[chosen], spots[spot], form)
            able[spot] = _fill(codes[chosen], chunk, spare)
    lists = full if chunk == CHUNK else able + full
    counts = np.array([len(row) // chunk for row in lists], np.int32)
    on_grid = np.resize(held, counts.size) >= 0
    numbers = np.zeros(int(codes.max()) + 1, np.uint16)
    numbers[codes] = np.arange(len(codes))
    return GridTable(
        (((np.cumsum(counts) - counts) << 6) + np.where(on_grid, 0, counts)).astype(np.int32),
        np.concatenate(lists).astype("<u2").view(np.uint8),
        numbers,
    )


def _nearest(grid: GridTable, chunk: int, lanes: Any, spots: Any, cost: Any) -> Any:
    """Of the lists at ``spots``, one for each of ``lanes``, the code of the least cost.

    ``cost(lane, codes)`` gives the float32 costs of neighbours; of equal ones the first
    counts, and what is no number costs infinity.
    """
    counts = (grid.lists[spots] & 63) * chunk
    starts = np.cumsum(counts) - counts
    lane = np.repeat(lanes, counts)
    first = (grid.lists[spots] >> 6).astype(np.int64) * chunk
    near = grid.codes.view("<u2")[np.arange(lane.size) + np.repeat(first - starts, counts)]
    near = near.astype(np.int64)
    total = cost(lane, near)
    total[np.isnan(total)] = np.inf
    least = np.repeat(np.minimum.reduceat(total, starts), counts)
    hits = np.flatnonzero(total == least)
    # The hits lie in the lanes' order; the first of each lane is the one after a change.
    return near[hits[np.flatnonzero(np.diff(lane[hits], prepend=-1))]]


def closest(w: Any, c: Columns, code: Any) -> None:
    """IQ1: move one group of every lane to the grid; row ``code`` of the scratch gets its code.

    Row SPOT holds the combination's spot and ``code`` its code, as reals; row
    ``COST + 3 * i + l`` what it costs that value i has level l. The neighbour of the least
    cost is chosen, costs being added one after the other, and of equal ones the first. The
    compiled engine's meaning is in :mod:`mbuild.quant.kernels.lane_lists`.
    """

    ls, grid = c.scratch, c.grid

    def cost(lane: Any, near: Any) -> Any:
        total = np.zeros(lane.size, np.float32)
        for i in range(8):
            total = total + ls[COST + 3 * i + ((near >> (2 * i)) & 3), lane]
        return total

    spots = ls[SPOT].astype(np.int64)
    lanes = np.flatnonzero(grid.lists[spots] & 63)
    if lanes.size:
        ls[code, lanes] = _nearest(grid, CHUNK, lanes, spots[lanes], cost)


def move(w: Any, c: Columns, group: Any, steps: Any, form: Any) -> None:
    """Move one group of every lane to the grid, at each of ``steps`` scales.

    Row ``STEPS * group + step`` of the spots holds the combination's spot at that step, plus
    the number of spots where its values may lie nearer to other levels; it gets the code of
    the nearest point, plus MOVED where the combination was none. Row ``SCALES + step`` of
    the scratch holds the scale, rows VALUE ... and ROOT ... the values and the roots of their
    weights. A point costs the sum of root * difference * difference, of
    equal ones the first in the list counts. The compiled engine's meaning is in
    :mod:`mbuild.quant.kernels.lane_runs`.
    """
    ls, ints, grid = c.scratch, c.spots, c.grid
    value, root = (row + form.size * group for row in (VALUE, ROOT))
    for step in range(steps):
        scale = ls[SCALES + step]

        def cost(lane: Any, near: Any, scale: Any = scale) -> Any:
            total = np.zeros(lane.size, np.float32)
            for i in range(form.size):
                level = (near >> (form.bits * i)) & (form.levels if form.levels == 3 else 7)
                odd = (2 * level + 1).astype(np.float32)
                difference = scale[lane] * odd - ls[value + i, lane]
                total = total + ls[root + i, lane] * difference * difference
            return total

        spots = ints[STEPS * group + step] % form.spots + form.spots
        codes = grid.codes.view("<u2")[(grid.lists[spots] >> 6) * HALF].astype(np.int32)
        lanes = np.flatnonzero(grid.lists[spots] & 63)
        if lanes.size:
            codes[lanes] = _nearest(grid, HALF, lanes, spots[lanes], cost) + MOVED
        ints[STEPS * group + step] = codes
