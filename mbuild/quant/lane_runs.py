"""numba's meaning of :func:`mbuild.quant.grids.move`: lanes hold a list's neighbours, twice.

Elsewhere the lanes of a vector belong to different blocks. The neighbours of a group are too
many, and too different in number from block to block, for that: here the blocks are taken one
after the other, and the two halves of a vector are 8 of one group's neighbours, at two scales.

A search tries many scales, and over a *run* of them a group's levels stay the same. There
the list of neighbours is one, and it is enough to look at the ends, mostly. A neighbour with
levels' values q costs sum(r * (s * q - x)**2) at scale s, so what one costs more than another is
s * (s * a + b): the second factor is linear, and positive between two scales at which it is.
So whoever is the nearest at both ends is so in between. That holds for real numbers; the sums
of float32 differ from them by less than 15 units of the last place (2**-24) of
``sum(r * (s * q + x)**2)``, for the greatest s and q. Over a run scales differ by less than 1.6, so
that a lead of 60 such units at the ends leaves the order of the sums in between as it is.
MARGIN asks for five times that. Where the lead is smaller, or another point is the nearest at
the other end, the run is cut in two.
"""

# numba and llvmlite are typed in part or not at all.
# mypy: disable-error-code="import-untyped,import-not-found,no-untyped-call,no-untyped-def"
# mypy: disable-error-code="call-overload,misc,no-any-return,attr-defined,untyped-decorator"
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from mbuild.quant import grids
from mbuild.quant.grids import FOUR, HALF, MOVED, STEPS
from mbuild.quant.lane_arrays import flat_wholes, reals
from mbuild.quant.lane_bytes import count, lane_of, turn
from mbuild.quant.lane_picks import (
    cycle,
    halves,
    least_of_half,
    load_both,
    lowest,
    packed,
    pick4,
    pick8,
    put,
    take,
    turn_back,
    unpacked,
    upper,
)
from mbuild.quant.lanes import Width
from mbuild.quant.ops import fill, load, real, select, store, whole

MARGIN = 2e-5
"""The lead of the nearest neighbour that decides a run, in units of sum(r * (s * q + x)**2)."""
LEAST = 1e-30
"""Below it units of the last place are those of denormal numbers, and no lead is trusted."""
E = Width(16)
LINE = Width(STEPS)
ROOM = 8 * (STEPS + 8)
"""Spots of eight lanes, and room to read beyond the last one."""
NEAR, CLEAR = 0, 32
"""Places in a run's notes: of each step that was looked at the code, and whether its lead is
enough."""


def _unit(grid: Any, ls: Any, k: Any, lane: Any, scale: Any, form: Any, rows: Any) -> Any:
    """sum(r * (s * q + x)**2) of group ``k``, for q beyond the greatest."""
    total = np.float32(0)
    reach = scale * np.float32(2 * form.levels)
    for i in range(form.size):
        x = ls[rows[0] + form.size * k + i, lane]
        far = reach + abs(x)
        total += ls[rows[1] + form.size * k + i, lane] * far * far
    return total


def _costs(ls: Any, ts: Any, k: Any, lane: Any, low: Any, high: Any, form: Any, rows: Any) -> None:
    """What each level of each value costs at the two scales, value i's in row i of ``ts``."""
    if form.levels == FOUR.levels:
        odd = real(cycle(E, 1, 2, 8))
    else:
        # The fourth entry is that of the code that fills lists up.
        level = cycle(E, 0, 1, 4)
        odd = select(level == whole(E, 3), fill(E, np.inf), real(level + level + 1))
    value = halves(E, low, high) * odd
    for i in range(form.size):
        difference = value - fill(E, ls[rows[0] + form.size * k + i, lane])
        root = fill(E, ls[rows[1] + form.size * k + i, lane])
        store(E, ts, i, root * difference * difference)


def _total(ts: Any, near: Any, form: Any) -> Any:
    """The costs of 8 neighbours at two scales, added up in the values' order."""
    if form.levels == FOUR.levels:
        near = near | upper(E, 0x8888)
        total = pick8(load(E, ts, 0), near)
        for i in range(1, 4):
            total = total + pick8(load(E, ts, i), near >> (4 * i))
        return total
    total = pick4(load(E, ts, 0), near)
    for i in range(1, 8):
        total = total + pick4(load(E, ts, i), near >> (2 * i))
    return total


def _look(grid: Any, ts: Any, start: Any, chunks: Any, lead: Any, form: Any) -> Any:
    """(place in the list of the nearest at the first scale, at the second, leads of both).

    Of the leads bit 0 and bit 1 say whether they are larger than ``lead``. Of equal costs the
    first in the list is the nearest.
    """
    best = fill(E, np.inf)
    second = best
    where = fill(E, 0.0)
    for chunk in range(chunks):
        total = _total(ts, load_both(E, grid.codes, start + chunk), form)
        nearer = total < best
        second = select(nearer, best, select(total < second, total, second))
        where = select(nearer, fill(E, chunk), where)
        best = select(nearer, total, best)
    least = least_of_half(best)
    equal = best == least
    limit = least + fill(E, lead)
    near = packed(best <= limit)
    beside = packed(second <= limit)
    if chunks > 1:
        rank = where * fill(E, 8.0) + real(cycle(E, 0, 1, 8))
        rank = least_of_half(select(equal, rank, fill(E, np.inf)))
        low, high = np.int64(lane_of(rank, 0)), np.int64(lane_of(rank, 8))
    else:
        found = packed(equal)
        low, high = lowest(found), lowest(found >> 8)
    near_low, near_high = near & 255, near >> 8
    clear = 0
    if near_low != 0 and (near_low & (near_low - 1)) == 0 and (beside & 255) == 0:
        clear = 1
    if near_high != 0 and (near_high & (near_high - 1)) == 0 and (beside >> 8) == 0:
        clear |= 2
    return low, high, clear


def _code(grid: Any, start: Any, place: Any) -> Any:
    at = 2 * (start * HALF + place)
    return np.int32(grid.codes[at]) + (np.int32(grid.codes[at + 1]) << 8)


def _between(first: Any, last: Any) -> Any:
    """The bits of steps ``first`` ... ``last`` - 1."""
    return (np.int64(1) << last) - (np.int64(1) << first)


def _run(
    grid: Any,
    ls: Any,
    ts: Any,
    notes: Any,
    spot: Any,
    made: Any,
    a: Any,
    b: Any,
    k: Any,
    lane: Any,
    lead: Any,
    form: Any,
    scales: Any,
    rows: Any,
) -> Any:
    """``made`` with the codes of the steps ``a`` ... ``b``, over which the spot is one."""
    start, chunks = grid.starts[spot], grid.chunks[spot]
    if chunks == 0:
        return select(unpacked(LINE, _between(a, b + 1)), whole(LINE, _code(grid, start, 0)), made)
    known = np.int64(0)
    at, first, second = a, a, b
    while True:
        _costs(ls, ts, k, lane, ls[scales + first, lane], ls[scales + second, lane], form, rows)
        low, high, clear = _look(grid, ts, start, chunks, lead, form)
        notes[NEAR + first] = _code(grid, start, low) + MOVED
        notes[NEAR + second] = _code(grid, start, high) + MOVED
        notes[CLEAR + first] = clear & 1
        notes[CLEAR + second] = clear >> 1
        known |= (np.int64(1) << first) | (np.int64(1) << second)
        following = b
        while at < b:
            following = at + 1 + lowest(known >> (at + 1))
            same = notes[NEAR + at] == notes[NEAR + following]
            if following > at + 1 and not (
                same and notes[CLEAR + at] + notes[CLEAR + following] == 2
            ):
                break
            made = select(
                unpacked(LINE, _between(at, following)), whole(LINE, notes[NEAR + at]), made
            )
            at = following
        if at >= b:
            break
        first = (at + following) >> 1
        second = first + 1 if first + 1 < following else first
    return select(unpacked(LINE, _between(b, b + 1)), whole(LINE, notes[NEAR + b]), made)


def _line(
    grid: Any,
    ls: Any,
    ts: Any,
    notes: Any,
    line: Any,
    at: Any,
    k: Any,
    lane: Any,
    steps: Any,
    form: Any,
    scales: Any,
    rows: Any,
) -> None:
    """Spots ``line[at:]`` of one group of one lane, over the steps, become codes."""
    spots = take(LINE, line, at)
    last = steps - 1
    ends = packed(spots != take(LINE, line, at + 1))
    ends = (ends & _between(0, last)) | (np.int64(1) << last)
    lead = _unit(grid, ls, k, lane, ls[scales, lane], form, rows) * np.float32(MARGIN)
    if not (lead > np.float32(LEAST) and ls[scales + last, lane] > np.float32(LEAST)):
        lead = np.float32(np.inf)
    made = spots
    a = np.int64(0)
    while ends != 0:
        b = lowest(ends)
        ends &= ends - 1
        spot = line[at + a]
        made = _run(grid, ls, ts, notes, spot, made, a, b, k, lane, lead, form, scales, rows)
        a = b + 1
    put(LINE, line, at, made)


def move(
    w: Any, grid: Any, ls: Any, ints: Any, group: Any, steps: Any, form: Any, scales: Any, rows: Any
) -> None:
    """As :func:`mbuild.quant.grids.move`."""
    line = flat_wholes(ROOM)
    notes = flat_wholes(64)
    ts = reals(E, 8)
    for first in range(0, count(w), 8):
        for step in range(0, steps, 8):
            turn_back(ints, STEPS * group + step, first, line, step, STEPS)
        for lane in range(8):
            at = STEPS * lane
            _line(
                grid, ls, ts, notes, line, at, group, first + lane, steps, form, scales, rows
            )
        for step in range(0, steps, 8):
            turn(line, step, STEPS, ints, STEPS * group + step, first)


_TEXT = (_unit, _costs, _total, _look, _code, _between, _run, _line)


def allow(options: dict[str, Any]) -> None:
    """Tell numba that this is what the search text means by :func:`grids.move`."""
    for function in _TEXT:
        overload(function, jit_options=options, strict=False)(lambda *_, chosen=function: chosen)
    overload(grids.move, jit_options=options, strict=False)(lambda *_: move)
