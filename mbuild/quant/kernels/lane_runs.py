"""numba's meaning of :func:`mbuild.quant.search.grids.move`: lanes hold a list's neighbours, twice.

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
that a lead of 80 such units at the ends leaves the order of the sums in between as it is.
MARGIN asks for four times that. Where the lead is smaller, or another point is the nearest at
the other end, the run is cut in two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from mbuild.core.values import NamedTuple
from mbuild.quant.kernels.lane_arrays import (
    as_rows,
    flat_longs,
    flat_reals,
    flat_wholes,
    reals,
)
from mbuild.quant.kernels.lane_picks import (
    cycle,
    halves,
    indexes8,
    least_of_half,
    load_both,
    load_half,
    lowest,
    ones,
    packed,
    pick4,
    pick8,
    put,
    take,
    turn_back,
)
from mbuild.quant.layouts.instructions import Width, count, lane_of, turn
from mbuild.quant.search import grids
from mbuild.quant.search.columns import ROOT, SCALES, STEPS, VALUE, Columns
from mbuild.quant.search.forms import Form
from mbuild.quant.search.grids import FOUR, HALF, MOVED
from mbuild.quant.search.ops import absolute, fill, load, real, select, store, whole

MARGIN = 2e-5
"""The lead of the nearest neighbour that decides a run, in units of sum(r * (s * q + x)**2)."""
LEAST = 1e-30
"""Below it units of the last place are those of denormal numbers, and no lead is trusted."""
CLEAR = MOVED << 1
"""Added to a code that is in the lead."""
BOTH = 16
E = Width(BOTH)
LINE = Width(STEPS)
ROOM = STEPS + 8
"""Steps of a lane and, all lanes together, room to read beyond the last one."""
COSTS = 12 * BOTH
"""Room for what a lane's runs cost: one that is to be cut has three steps or more."""
STEP = STEPS - 1
LAST, CUT, LANE, SPOT, PLACES = 5, 10, 15, 20, 36
"""Where the parts of an item of the queue begin: the first step, the last one, the one to look
at next, the lane, the spot, and the lanes of the costs in which the two nearest points are."""
SPOTS = 1 << (PLACES - SPOT)


class Runs(NamedTuple):
    """What one group of every lane is moved with, and what is kept meanwhile.

    ``steps`` scales are tried for the group of this number.
    """

    columns: Columns
    tables: Any
    """What each level of each value costs at two scales, value i's in row i."""
    line: Any
    """Spots, STEPS of each lane, flat."""
    made: Any
    """Codes, in the same places."""
    leads: Any
    """The lead of a nearest point that decides a run, one row."""
    queue: Any
    """Runs that are to be cut."""
    costs: Any
    """What the nearest points of the runs in the queue cost."""
    group: Any
    steps: Any
    form: Form


def _leads(w: Any, r: Runs) -> None:
    """The leads that are enough, for levels' values beyond the greatest."""
    ls, form = r.columns.scratch, r.form
    total = fill(w, 0.0)
    first, last = load(w, ls, SCALES), load(w, ls, SCALES + r.steps - 1)
    for i in range(form.size):
        value = load(w, ls, VALUE + form.size * r.group + i)
        far = first * fill(w, 2 * form.levels) + absolute(value)
        total = total + load(w, ls, ROOT + form.size * r.group + i) * far * far
    lead = total * fill(w, MARGIN)
    trusted = (lead > fill(w, LEAST)) & (last > fill(w, LEAST))
    store(w, r.leads, 0, select(trusted, lead, fill(w, np.inf)))


def _costs(r: Runs, lane: Any, low: Any, high: Any) -> None:
    """What each level of each value costs at the two scales, into the tables."""
    ls, form = r.columns.scratch, r.form
    if form.levels == FOUR.levels:
        odd = real(cycle(E, 1, 2, 8))
    else:
        # The fourth entry is that of the code that fills lists up.
        level = cycle(E, 0, 1, 4)
        odd = select(level == whole(E, 3), fill(E, np.inf), real(level + level + 1))
    value = halves(E, low, high) * odd
    for i in range(form.size):
        difference = value - fill(E, ls[VALUE + form.size * r.group + i, lane])
        root = fill(E, ls[ROOT + form.size * r.group + i, lane])
        store(E, r.tables, i, root * difference * difference)


def _total(r: Runs, near: Any) -> Any:
    """The costs of 8 neighbours at two scales, added up in the values' order."""
    ts = r.tables
    if r.form.levels == FOUR.levels:
        near = indexes8(near)
        total = pick8(load(E, ts, 0), near)
        for i in range(1, 4):
            total = total + pick8(load(E, ts, i), near >> (4 * i))
        return total
    total = pick4(load(E, ts, 0), near)
    for i in range(1, 8):
        total = total + pick4(load(E, ts, i), near >> (2 * i))
    return total


def _look(r: Runs, start: Any, chunks: Any, lead: Any) -> Any:
    """(nearest point at the first scale, at the second, mark, costs).

    The points are places in the list; of equal costs the first is the nearest. The mark is to be
    added to their codes: MOVED, and CLEAR where the lead is enough. A lane of the costs is what
    the nearest costs of all neighbours that it looked at.
    """
    grid = r.columns.grid
    infinite, zero = fill(E, np.inf), fill(E, 0.0)
    total = _total(r, load_both(E, grid.codes, start))
    best = select(total < infinite, total, infinite)
    second = infinite
    where = zero
    for chunk in range(1, chunks):
        total = _total(r, load_both(E, grid.codes, start + chunk))
        nearer = total < best
        second = select(nearer, best, select(total < second, total, second))
        where = select(nearer, fill(E, chunk), where)
        best = select(nearer, total, best)
    least = least_of_half(best)
    equal = best == least
    limit = least + fill(E, lead)
    # At each of the scales one neighbour at least is not beyond the limit.
    near = ones(packed(best <= limit))
    if chunks > 1:
        near += packed(second <= limit)
        rank = where * fill(E, 8.0) + real(cycle(E, 0, 1, 8))
        rank = least_of_half(select(equal, rank, infinite))
        low: Any = np.int64(lane_of(rank, 0))
        high: Any = np.int64(lane_of(rank, 8))
    else:
        found = packed(equal)
        low, high = lowest(found), lowest(found >> 8)
    return low, high, MOVED + CLEAR if near == 2 else MOVED, best


def _code(grid: Any, start: Any, place: Any) -> Any:
    return load_half(grid.codes, 2 * (start * HALF + place))


def _listed(grid: Any, spot: Any) -> Any:
    """(first chunk of a combination's neighbours, how many chunks)."""
    listed = np.int64(grid.lists[spot])
    return listed >> 6, listed & 63


def _runs(r: Runs, lane: Any, n: Any) -> Any:
    """Give each step of a lane the code of its run; queue those runs that are to be cut.

    They are queued from place ``n`` on; returns the next place.
    """
    ls, grid, line, made = r.columns.scratch, r.columns.grid, r.line, r.made
    at = STEPS * lane
    last = r.steps - 1
    ends = packed(take(LINE, line, at) != take(LINE, line, at + 1))
    ends = (ends & ((np.int64(1) << last) - 1)) | (np.int64(1) << last)
    first: Any = np.int64(0)
    while ends != 0:
        b = lowest(ends)
        ends &= ends - 1
        spot = np.int64(line[at + first])
        start, chunks = _listed(grid, spot)
        # All steps to the line's end and beyond get it: the runs that follow overwrite them.
        if chunks == 0:
            put(LINE, made, at + first, whole(LINE, _code(grid, start, 0)))
        else:
            _costs(r, lane, ls[SCALES + first, lane], ls[SCALES + b, lane])
            low, high, mark, costs = _look(r, start, chunks, r.leads[0, lane])
            one, other = _code(grid, start, low) + mark, _code(grid, start, high) + mark
            put(LINE, made, at + first, whole(LINE, one))
            made[at + b] = other
            places = (low & 7) | ((high & 7) << 3)
            item = first | (b << LAST) | (places << PLACES) | (lane << LANE) | (spot << SPOT)
            r.queue[n] = item
            store(E, r.costs, n, costs)
            n += _unlike(one, other, b - first)
        first = b + 1
    return n


def _middles(r: Runs, n: Any) -> None:
    """Put into each of the ``n`` runs in the queue the step that is to be looked at next.

    Between its two scales it is where one of the two points becomes nearer than the other, if
    the costs change evenly; if there is only one point, half-way.
    """
    for i in range(n):
        item = np.int64(r.queue[i])
        first, last = item & STEP, (item >> LAST) & STEP
        low, high = (item >> PLACES) & 7, (item >> (PLACES + 3)) & 7
        excess_low = r.costs[i, high] - r.costs[i, low]
        excess_high = r.costs[i, low + 8] - r.costs[i, high + 8]
        share = excess_low / (excess_low + excess_high)
        if not (share >= np.float32(0) and share <= np.float32(1)):
            share = np.float32(0.5)
        middle = max(first + np.int64(share * np.float32(last - first)), first + 1)
        r.queue[i] = item | (middle << CUT)


def _unlike(one: Any, other: Any, apart: Any) -> Any:
    """1 if the codes between two steps do not follow from those at the two, else 0."""
    return 1 if (apart > 1) & ((one != other) | ((one & CLEAR) == 0)) else 0


def _cut(r: Runs, n: Any) -> None:
    """Look at the middle of the ``n`` runs in the queue, and of the parts that need it too."""
    ls, grid, line, queue = r.columns.scratch, r.columns.grid, r.made, r.queue
    i = 0
    while i < n:
        item = np.int64(queue[i])
        i += 1
        first, last = item & STEP, (item >> LAST) & STEP
        lane, spot = (item >> LANE) & STEP, (item >> SPOT) & (SPOTS - 1)
        a = min((item >> CUT) & STEP, last - 1)
        b = min(a + 1, last - 1)
        _costs(r, lane, ls[SCALES + a, lane], ls[SCALES + b, lane])
        start, chunks = _listed(grid, spot)
        low, high, mark, _ = _look(r, start, chunks, r.leads[0, lane])
        low, high = _code(grid, start, low) + mark, _code(grid, start, high) + mark
        at = STEPS * lane
        one, other = line[at + first], line[at + last]
        # The steps from ``b`` to the last one get it; those that follow get back what they had.
        rest = take(LINE, line, at + last)
        put(LINE, line, at + b, whole(LINE, high))
        put(LINE, line, at + last, rest)
        line[at + a] = low
        base = item & ~np.int64((1 << LANE) - 1)
        queue[n] = base | first | (a << LAST) | (((first + a) >> 1) << CUT)
        n += _unlike(one, low, a - first)
        queue[n] = base | b | (last << LAST) | (((b + last) >> 1) << CUT)
        n += _unlike(high, other, last - b)


def move(w: Any, c: Columns, group: Any, steps: Any, form: Any) -> None:
    """As :func:`mbuild.quant.search.grids.move`."""
    line, made = flat_wholes(w, ROOM), flat_wholes(w, ROOM)
    queue, costs = flat_longs(w, ROOM), as_rows(flat_reals(w, COSTS), BOTH)
    r = Runs(c, reals(E, 8), line, made, reals(w, 1), queue, costs, group, steps, form)
    _leads(w, r)
    n = np.int64(0)
    for first in range(0, count(w), 8):
        for step in range(0, steps, 8):
            turn_back(c.spots, STEPS * group + step, first, line, STEPS * first + step, STEPS)
    for lane in range(count(w)):
        n = _runs(r, lane, n)
    _middles(r, n)
    _cut(r, n)
    for first in range(0, count(w), 8):
        for step in range(0, steps, 8):
            turn(made, STEPS * first + step, STEPS, c.spots, STEPS * group + step, first)


_TEXT = (_leads, _costs, _total, _look, _code, _listed, _runs, _unlike, _middles, _cut)


def allow(options: Any) -> None:
    """Tell numba that this is what the search text means by :func:`grids.move`."""
    for function in _TEXT:
        overload(function, jit_options=options, strict=False)(lambda *_, chosen=function: chosen)
    overload(grids.move, jit_options=options, strict=False)(lambda *_: move)
