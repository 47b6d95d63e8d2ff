"""The grids of the low-bit types: points, neighbours, and the nearest of these.

IQ1, IQ2 and IQ3_XXS store values in groups of eight or four, each group a point of a
grid. A combination of levels is written as a *code*, the level of value i in bits 2i
and 2i + 1 (3i ... 3i + 2 for groups of four). The points are ggml's, taken from the
``gguf`` package, which decodes with them; which points count as a combination's
neighbours is as in ``iq2xs_init_impl`` and ``iq3xs_init_impl`` of ``ggml-quants.c``.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbuild.gguf.types import GGMLType

CHUNK = 16
"""Neighbours that are looked at together; a list is filled up with its first one."""

RINGS: dict[GGMLType, int] = {
    GGMLType.IQ1_S: 3,
    GGMLType.IQ1_M: 3,
    GGMLType.IQ2_XXS: 2,
    GGMLType.IQ2_XS: 2,
    GGMLType.IQ2_S: 1,
    GGMLType.IQ3_XXS: 2,
}
"""How many of the least distances the neighbours of a combination have."""


class Table(NamedTuple):
    """One grid, as the searches read it.

    A combination's *spot* is its levels as digits, the first the lowest, in a number
    system of as many digits as there are levels.
    """

    starts: NDArray[np.int32]
    """(spots,) the first chunk of a combination's neighbours."""
    chunks: NDArray[np.int32]
    """(spots,) how many chunks these are; none for a point of the grid."""
    codes: NDArray[np.uint8]
    """The neighbours' codes, nearest first, then in the grid's order: 16-bit integers."""
    numbers: NDArray[np.uint16]
    """(codes,) the number of the point that has this code."""


def _points(type_: GGMLType) -> Any:
    """The grid's levels, (points, values of a group)."""
    from gguf import quants

    known = getattr(quants, type_.name)
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


@cache
def table(type_: GGMLType) -> Table:
    """The grid of a type; made at the first call, in some tenths of a second."""
    if type_ is GGMLType.IQ1_M:
        return table(GGMLType.IQ1_S)
    points = _points(type_).astype(np.int16)
    size = points.shape[1]
    levels, bits = (3, 2) if size == 8 else (8, 3)
    places, shifts = levels ** np.arange(size), bits * np.arange(size)
    codes = (points.astype(np.int64) << shifts).sum(axis=1)
    held = np.zeros(levels**size, bool)
    held[(points * places).sum(axis=1)] = True
    apart = ((np.arange(held.size)[:, None] // places) % levels).astype(np.int16)[~held]
    lists = []
    for first in range(0, len(apart), 256):
        lists += _neighbours(apart[first : first + 256], points, RINGS[type_])
    filled = [codes[np.append(row, np.repeat(row[0], -len(row) % CHUNK))] for row in lists]
    chunks = np.zeros(held.size, np.int32)
    chunks[~held] = [len(row) // CHUNK for row in filled]
    numbers = np.zeros(int(codes.max()) + 1, np.uint16)
    numbers[codes] = np.arange(len(codes))
    return Table(
        (np.cumsum(chunks) - chunks).astype(np.int32),
        chunks,
        np.concatenate(filled).astype("<u2").view(np.uint8),
        numbers,
    )


def closest(w: Any, grid: Any, ls: Any, spot: Any, code: Any, costs: Any, size: Any) -> None:
    """Move one group of every lane to the grid: row ``code`` of ``ls`` gets the point's code.

    Row ``spot`` holds the combination's spot and ``code`` its code, as reals; row
    ``costs + levels * i + l`` what it costs that value i of ``size`` has level l. The
    neighbour of the least cost is chosen, costs being added one after the other, and
    of equal ones the first. The compiled engine's meaning is in
    :mod:`mbuild.quant.lane_lists`.
    """
    levels, bits = (3, 2) if size == 8 else (8, 3)
    spots = ls[spot].astype(np.int64)
    counts = grid.chunks[spots] * CHUNK
    lanes = np.flatnonzero(counts)
    if not lanes.size:
        return
    counts = counts[lanes]
    starts = np.cumsum(counts) - counts
    lane = np.repeat(lanes, counts)
    first = grid.starts[spots[lanes]].astype(np.int64) * CHUNK
    near = grid.codes.view("<u2")[np.arange(lane.size) + np.repeat(first - starts, counts)]
    near = near.astype(np.int64)
    total = np.zeros(lane.size, np.float32)
    for i in range(size):
        level = (near >> (bits * i)) & ((1 << bits) - 1)
        total = total + ls[costs + levels * i + level, lane]
    total[np.isnan(total)] = np.inf
    least = np.repeat(np.minimum.reduceat(total, starts), counts)
    hits = np.flatnonzero(total == least)
    # The hits lie in the lanes' order; the first of each lane is the one after a change.
    chosen = hits[np.flatnonzero(np.diff(lane[hits], prepend=-1))]
    ls[code, lanes] = near[chosen]
