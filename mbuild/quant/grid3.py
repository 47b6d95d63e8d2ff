"""IQ3_S: values in groups of four, each group a point of a grid of 512.

A group's four magnitudes get the levels 0 ... 7 (standing for 1, 3 ... 15); of the
4,096 combinations only the grid's are stored, so that the search moves a group to
the nearest point of the grid. Written once for both engines, as
:mod:`mbuild.quant.fits` is; after quantize_row_iq3_s_impl of ``ggml-quants.c``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mbuild.quant.fits import WHOLE_HEAD, D
from mbuild.quant.ops import (
    absolute,
    any_lane,
    clamp,
    fill,
    load,
    lookup,
    nearest,
    root,
    select,
    store,
    truncate,
    whole,
)
from mbuild.quant.search import half_bits, importance_weights

POINTS = bytes.fromhex(
    "a7572308a50a05921723892210002204a3492211a40a00090822054a100580220188120409020001"
    "14004508a2004008400a000200040002150045080011000017ab0552005002044b11020902050041"
    "01a411040920010492098211020004012814000a4411000002090205000200000000910050000000"
    "0a05022002000401ab558a052a058029058924120402000092000a81028800122502140a04014000"
    "820009240200002410020480010800018500020000200200200240010801000004aa042a94020802"
    "2a100a0001000144010401140001000002118a018a20000808420402000411000205200410400008"
    "00400000020000000a000520000000001104910402010001840a0421082200000a21020801800401"
    "100a0522000000000500108001000002a00002000000040000080010000001000021000108020000"
    "04110400910440102a04020400000004010208410008000084018000100220081200010440000000"
    "00044000000a000000000000040000001400040000000000002a000a000001000100810000001000"
    "00040010042004010110020001000000000020000800040009000010000001002000000001000000"
    "000a0000000000009100054001100400040210002800000012410201000200000400002400080000"
    "2208010000010000000004000400000004000002000000000100000000000000"
)
"""The grid: bit u is set where u = l0 + 8 l1 + 64 l2 + 512 l3 is a point of it."""

WIDE = 40
"""Room for the neighbours of a combination; no more than 38 are looked at."""

SUBS = 8
SCALE, EMPTY = 0, 1
"""Rows of the real columns: scale found, and 1 where a sub-block is all zero."""
AUX, MAGNITUDE, ROOT, BEST = 0, 32, 64, 96
"""Rows of the scratch columns; BEST holds 256 rows, the levels' values of all sub-blocks."""
ROWS = BEST + 256


def _tables() -> tuple[Any, Any, Any]:
    """(point number of every combination, neighbours' values, their numbers).

    A combination's neighbours are the points at its three least distances, the nearest
    first, in the order of the grid; a point of the grid is its own only neighbour.
    """
    held = np.unpackbits(np.frombuffer(POINTS, np.uint8), bitorder="little").astype(bool)
    number = np.where(held, np.cumsum(held) - 1, 0).astype(np.uint16)
    levels = (np.arange(4096)[:, None] >> (3 * np.arange(4))) & 7
    points = levels[held]
    apart = levels[~held]
    distance = sum((apart[:, None, i] - points[None, :, i]) ** 2 for i in range(4))
    keys = np.sort((distance * 512 + np.arange(512)).astype(np.int32), axis=1)[:, :WIDE]
    further = np.cumsum(keys[:, 1:] >> 9 > keys[:, :-1] >> 9, axis=1)
    counts = np.ones(4096, np.uint8)
    counts[~held] = 1 + (further < 3).sum(axis=1)
    near = np.zeros((4096, WIDE, 4), np.uint8)
    near[held] = 2 * points[:, None, :] + 1
    near[~held] = 2 * points[keys & 511] + 1
    return number, near.reshape(-1), counts


NUMBER: Any = None
NEAR: Any = None
COUNTS: Any = None
"""The tables, once :func:`build` has made them."""


def build() -> None:
    """Make the tables; before the first search of this type is compiled or run."""
    global NUMBER, NEAR, COUNTS
    if COUNTS is None:
        NUMBER, NEAR, COUNTS = _tables()


def _place(w: Any, ls: Any, k: Any, inverse: Any, scale: Any, to: Any) -> Any:
    """Group ``k``'s levels at this scale, moved to the grid, into rows ``to`` of ``ls``.

    Returns the lanes in which they were not on the grid.
    """
    one, half = fill(w, 1.0), fill(w, 0.5)
    spot = whole(w, 0)
    for i in range(4):
        x = load(w, ls, MAGNITUDE + 4 * k + i)
        spot = spot | (clamp(nearest(half * (inverse * x - one)), 0, 7) << (3 * i))
    counts = truncate(lookup(w, COUNTS, spot))
    start = (spot << 7) + (spot << 5)
    least = fill(w, 0.0)
    chosen = start
    for j in range(WIDE):
        listed = counts > whole(w, j)
        if j > 0 and not any_lane(listed):
            break
        distance = fill(w, 0.0)
        for i in range(4):
            value = lookup(w, NEAR, start + (4 * j + i))
            difference = scale * value - load(w, ls, MAGNITUDE + 4 * k + i)
            distance = distance + load(w, ls, ROOT + 4 * k + i) * difference * difference
        nearer = listed & (distance < least)
        if j == 0:
            nearer = listed
        least = select(nearer, distance, least)
        chosen = select(nearer, start + 4 * j, chosen)
    for i in range(4):
        store(w, ls, to + 4 * k + i, lookup(w, NEAR, chosen + i))
    return counts > whole(w, 1)


def _sums(w: Any, ws: Any, ls: Any, at: Any) -> Any:
    """(sum of weight*x*value, sum of weight*value*value) of the values in rows ``at``."""
    sum_qx, sum_q2 = fill(w, 0.0), fill(w, 0.0)
    for i in range(32):
        weight, value = load(w, ws, i), load(w, ls, at + i)
        sum_qx = sum_qx + weight * load(w, ls, MAGNITUDE + i) * value
        sum_q2 = sum_q2 + weight * value * value
    return sum_qx, sum_q2


def _search(w: Any, xs: Any, ws: Any, ls: Any, st: Any, g: Any) -> None:
    """Scale and grid points of one sub-block, its weights given."""
    zero = fill(w, 0.0)
    largest = zero
    best_rows = BEST + 32 * g
    for i in range(32):
        x = absolute(load(w, xs, i))
        largest = select(largest > x, largest, x)
        store(w, ls, MAGNITUDE + i, x)
        store(w, ls, ROOT + i, root(load(w, ws, i)))
        store(w, ls, best_rows + i, fill(w, 1.0))
    scale = largest / fill(w, 15.0)
    best = zero
    moved = zero == zero
    for step in range(19):
        target = np.float32(15) + np.float32(step - 9) * np.float32(0.2)
        inverse = fill(w, target) / largest
        trial = fill(w, 1.0) / inverse
        off = zero != zero
        for k in range(8):
            off = off | _place(w, ls, k, inverse, trial, AUX)
        sum_qx, sum_q2 = _sums(w, ws, ls, AUX)
        better = (sum_q2 > zero) & (sum_qx * sum_qx > best * sum_q2)
        scale = select(better, sum_qx / sum_q2, scale)
        best = select(better, scale * sum_qx, best)
        moved = (better & off) | (moved & _not(w, better))
        for i in range(32):
            kept = load(w, ls, best_rows + i)
            store(w, ls, best_rows + i, select(better, load(w, ls, AUX + i), kept))
    again = moved & (scale > zero)
    for k in range(8):
        _place(w, ls, k, fill(w, 1.0) / scale, scale, AUX)
    for i in range(32):
        kept = load(w, ls, best_rows + i)
        store(w, ls, best_rows + i, select(again, load(w, ls, AUX + i), kept))
    sum_qx, sum_q2 = _sums(w, ws, ls, best_rows)
    scale = select(again & (sum_q2 > zero), sum_qx / sum_q2, scale)
    empty = largest == zero
    store(w, st, SCALE * SUBS + g, select(empty, zero, scale))
    store(w, st, EMPTY * SUBS + g, select(empty, fill(w, 1.0), zero))


def _not(w: Any, mask: Any) -> Any:
    one, zero = fill(w, 1.0), fill(w, 0.0)
    return select(mask, one, zero) == zero


def fit(w: Any, xs: Any, qs: Any, ws: Any, ls: Any, st: Any, g: Any, sigma2: Any) -> None:
    """Weights x*x."""
    for i in range(32):
        x = load(w, xs, i)
        store(w, ws, i, x * x)
    _search(w, xs, ws, ls, st, g)


def fit_weighted(w: Any, xs: Any, qs: Any, ws: Any, ls: Any, st: Any, g: Any, sigma2: Any) -> None:
    """With an importance matrix."""
    importance_weights(w, xs, qs, ws, 32, sigma2)
    _search(w, xs, ws, ls, st, g)


def settle(w: Any, st: Any, it: Any, ws: Any) -> None:
    """Odd multiples of a step against the largest scale, in four bits."""
    zero, one, half = fill(w, 0.0), fill(w, 1.0), fill(w, 0.5)
    top = zero
    for g in range(SUBS):
        scale = load(w, st, SCALE * SUBS + g)
        top = select(top > scale, top, scale)
    some = top != zero
    d = top / fill(w, 31.0)
    inverse = one / d
    store(w, it, D, half_bits(w, select(some, d * fill(w, 1.033), zero)))
    for g in range(SUBS):
        level = clamp(nearest(half * (inverse * load(w, st, SCALE * SUBS + g) - one)), 0, 15)
        store(w, it, WHOLE_HEAD + g, select(some, level, whole(w, 0)))
