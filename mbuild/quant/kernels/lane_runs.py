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

from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from mbuild.quant.kernels.lane_arrays import flat_longs, flat_wholes, reals
from mbuild.quant.kernels.lane_picks import (
    cycle,
    halves,
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
    unpacked,
    upper,
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
E = Width(16)
LINE = Width(STEPS)
ROOM = STEPS + 8
"""Steps of a lane and, all lanes together, room to read beyond the last one."""
STEP = STEPS - 1
LAST, CUT, LANE, SPOT = 5, 10, 15, 20
"""Where the parts of an item of the queue begin: the first step, the last one, the one to look
at next, the lane, the spot."""


class Runs(NamedTuple):
    """What one group of every lane is moved with, and what is kept meanwhile.

    ``steps`` scales are tried for the group of this number.
    """

    columns: Columns
    tables: Any
    """What each level of each value costs at two scales, value i's in row i."""
    line: Any
    """Spots, and then codes, STEPS of each lane, flat."""
    leads: Any
    """The lead of a nearest point that decides a run, one row."""
    queue: Any
    """Runs that are to be cut."""
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
        near = near | upper(E, 0x8888)
        total = pick8(load(E, ts, 0), near)
        for i in range(1, 4):
            total = total + pick8(load(E, ts, i), near >> (4 * i))
        return total
    total = pick4(load(E, ts, 0), near)
    for i in range(1, 8):
        total = total + pick4(load(E, ts, i), near >> (2 * i))
    return total


def _look(r: Runs, start: Any, chunks: Any, lead: Any) -> Any:
    """(code of the nearest point at the first scale, at the second, share).

    To the codes MOVED is added, and CLEAR to both or to none. Of equal costs the first in the
    list is the nearest. The share of the way from the first scale to the second is where one
    of the two points may become nearer than the other, if they are two.
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
    mark = MOVED + CLEAR if near == 2 else MOVED
    excess_low = lane_of(best, high & 7) - lane_of(least, 0)
    excess_high = lane_of(best, (low & 7) + 8) - lane_of(least, 8)
    share = excess_low / (excess_low + excess_high)
    return _code(grid, start, low) + mark, _code(grid, start, high) + mark, share


def _code(grid: Any, start: Any, place: Any) -> Any:
    return load_half(grid.codes, 2 * (start * HALF + place))


def _listed(grid: Any, spot: Any) -> Any:
    """(first chunk of a combination's neighbours, how many chunks)."""
    listed = np.int64(grid.lists[spot])
    return listed >> 6, listed & 63


def _from(step: Any) -> Any:
    """The steps from this one on; what they get, later runs overwrite beyond this one's end."""
    return unpacked(LINE, -(np.int64(1) << step))


def _runs(r: Runs, lane: Any, n: Any) -> Any:
    """Give each step of a lane the code of its run; queue those runs that are to be cut.

    They are queued from place ``n`` on; returns the next place.
    """
    ls, grid, line, queue = r.columns.scratch, r.columns.grid, r.line, r.queue
    at = STEPS * lane
    last = r.steps - 1
    made = take(LINE, line, at)
    ends = packed(made != take(LINE, line, at + 1))
    ends = (ends & ((np.int64(1) << last) - 1)) | (np.int64(1) << last)
    first: Any = np.int64(0)
    while ends != 0:
        b = lowest(ends)
        ends &= ends - 1
        spot = np.int64(line[at + first])
        start, chunks = _listed(grid, spot)
        if chunks == 0:
            made = select(_from(first), whole(LINE, _code(grid, start, 0)), made)
        else:
            _costs(r, lane, ls[SCALES + first, lane], ls[SCALES + b, lane])
            low, high, share = _look(r, start, chunks, r.leads[0, lane])
            made = select(_from(first), whole(LINE, low), made)
            made = select(_from(b), whole(LINE, high), made)
            middle = _middle(first, b, share)
            queue[n] = first | (b << LAST) | (middle << CUT) | (lane << LANE) | (spot << SPOT)
            n += _unlike(low, high, b - first)
        first = b + 1
    put(LINE, line, at, made)
    return n


def _middle(first: Any, last: Any, share: Any) -> Any:
    """The step after ``first`` at this share of the way to ``last``, or half-way."""
    if not (share >= np.float32(0) and share <= np.float32(1)):
        share = np.float32(0.5)
    return max(first + np.int64(share * np.float32(last - first)), first + 1)


def _unlike(one: Any, other: Any, apart: Any) -> Any:
    """1 if the codes between two steps do not follow from those at the two, else 0."""
    return 1 if (apart > 1) & ((one != other) | ((one & CLEAR) == 0)) else 0


def _cut(r: Runs, n: Any) -> None:
    """Look at the middle of the ``n`` runs in the queue, and of the parts that need it too."""
    ls, grid, line, queue = r.columns.scratch, r.columns.grid, r.line, r.queue
    i = 0
    while i < n:
        item = np.int64(queue[i])
        i += 1
        first, last = item & STEP, (item >> LAST) & STEP
        lane, spot = (item >> LANE) & STEP, item >> SPOT
        a = min((item >> CUT) & STEP, last - 1)
        b = min(a + 1, last - 1)
        _costs(r, lane, ls[SCALES + a, lane], ls[SCALES + b, lane])
        start, chunks = _listed(grid, spot)
        low, high, _ = _look(r, start, chunks, r.leads[0, lane])
        at = STEPS * lane
        made = take(LINE, line, at)
        chosen = unpacked(LINE, (np.int64(1) << last) - (np.int64(1) << b))
        made = select(chosen, whole(LINE, high), made)
        if a != b:
            made = select(unpacked(LINE, np.int64(1) << a), whole(LINE, low), made)
        one, other = line[at + first], line[at + last]
        put(LINE, line, at, made)
        base = item & ~np.int64((1 << LANE) - 1)
        queue[n] = base | first | (a << LAST) | (((first + a) >> 1) << CUT)
        n += _unlike(one, low, a - first)
        queue[n] = base | b | (last << LAST) | (((b + last) >> 1) << CUT)
        n += _unlike(high, other, last - b)


def move(w: Any, c: Columns, group: Any, steps: Any, form: Any) -> None:
    """As :func:`mbuild.quant.search.grids.move`."""
    line = flat_wholes(w, ROOM)
    queue = flat_longs(w, ROOM)
    r = Runs(c, reals(E, 8), line, reals(w, 1), queue, group, steps, form)
    _leads(w, r)
    n = np.int64(0)
    for first in range(0, count(w), 8):
        for step in range(0, steps, 8):
            turn_back(c.spots, STEPS * group + step, first, line, STEPS * first + step, STEPS)
    for lane in range(count(w)):
        n = _runs(r, lane, n)
    _cut(r, n)
    for first in range(0, count(w), 8):
        for step in range(0, steps, 8):
            turn(line, STEPS * first + step, STEPS, c.spots, STEPS * group + step, first)


_TEXT = (_leads, _costs, _total, _look, _code, _listed, _from, _runs, _unlike, _middle, _cut)


def allow(options: Any) -> None:
    """Tell numba that this is what the search text means by :func:`grids.move`."""
    for function in _TEXT:
        overload(function, jit_options=options, strict=False)(lambda *_, chosen=function: chosen)
    overload(grids.move, jit_options=options, strict=False)(lambda *_: move)
