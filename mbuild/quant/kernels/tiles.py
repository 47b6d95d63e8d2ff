"""The kernels' one loop, compiled by numba: tiles of blocks, each made by its type's method.

A kernel is called with bytes of values and bytes for blocks (:class:`KernelCall`) and has scratch
memory for one tile (:class:`Room`). Of the types with a search a tile is as many blocks as there
are lanes: the search of every sub-block and the settling of the scales run on all lanes at
once, then the blocks are written one after the other. All kernels are made from the texts below.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from numba.extending import register_jitable

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant import types
from mbuild.quant.kernels import lane_bytes, lane_lists, lane_runs, measures
from mbuild.quant.kernels.lane_arrays import as_bytes, as_rows, flat_reals, octets, reals, wholes
from mbuild.quant.layouts import direct, emit, levels, point_emit
from mbuild.quant.layouts.direct import beyond
from mbuild.quant.layouts.instructions import count, load_bf16, load_f32, load_u16, prefetch, turn
from mbuild.quant.layouts.rooms import DirectBlock, KernelCall, Room, SearchedShape
from mbuild.quant.search import findings, fitting, grids, halves, points, simple, ternary
from mbuild.quant.search.columns import WEIGHT, Columns, D
from mbuild.quant.search.methods import Each, OnGrid, Search, Simple
from mbuild.quant.search.ops import any_lane, bits, fill, load, store, whole
from mbuild.quant.search.simple import LANES
from mbuild.quant.table import GOOD, ROW, SUSPECT, TYPES, Kernel

OPTIONS = {
    "error_model": "numpy",
    "boundscheck": False,
    "_nrt": False,
    "no_cfunc_wrapper": True,
}
"""numba's, for all code of kernels: nothing raises, nothing needs numba's run-time library, and
nothing is called from outside, for which numba would make a function more of each."""

F32, F16 = int(GGMLType.F32), int(GGMLType.F16)
FINITE = 0x7F800000
"""The exponent that float32 patterns of infinities and NaN have."""


def columns(x: Any, first: Any, stride: Any, n: Any, cols: Any) -> None:
    """``cols[i, lane] = x[first + lane * stride + i]``."""
    for lane in range(0, cols.shape[1], 8):
        for i in range(0, n, 8):
            turn(x, first + lane * stride + i, stride, cols, i, lane)


def squares(w: Any, x: Any, subs: Any, n: Any, cols: Any) -> Any:
    """The sums of the squares of a tile's blocks; ``cols`` is scratch."""
    total = fill(w, 0.0)
    for g in range(subs):
        columns(x, g * n, subs * n, n, cols)
        total = fitting.sum_of_squares(w, cols, n, total)
    return total


def fetch(e: Any, call: KernelCall, first: Any, rows: Any) -> Any:
    """Fill ``rows`` of ``ROW`` with float32 from values ``first`` ... of the source bytes.

    ``first`` is a multiple of ``ROW``. Returns whether all are finite.
    """
    top = whole(e, FINITE)
    bad = top != top
    start = first // ROW
    if call.kind == F32:
        for i in range(rows.shape[0]):
            value = load_f32(e, call.source, start + i)
            bad = bad | ((bits(value) & FINITE) == top)
            store(e, rows, i, value)
    elif call.kind == F16:
        for i in range(rows.shape[0]):
            value = halves.half_value(e, load_u16(e, call.source, start + i))
            bad = bad | ((bits(value) & FINITE) == top)
            store(e, rows, i, value)
    else:
        for i in range(rows.shape[0]):
            value = load_bf16(e, call.source, start + i)
            bad = bad | ((bits(value) & FINITE) == top)
            store(e, rows, i, value)
    return not any_lane(bad)


def ahead(call: KernelCall, first: Any, count: Any) -> None:
    """Ask the memory for ``count`` values of the source from ``first`` on.

    A search takes so long that the processor's own prefetching forgets where it was.
    """
    item = 4 if call.kind == F32 else 2
    for at in range(first * item, (first + count) * item, 64):
        prefetch(call.source, at)


def infinite(w: Any, it: Any, scales: Any) -> Any:
    """Not 0 in the lanes of blocks one of whose ``scales`` float16 scales is not finite."""
    found = whole(w, 0)
    for row in range(scales):
        found = found | beyond(load(w, it, D + row))
    return found


TEXTS = (
    *(halves, fitting, findings, points, ternary, simple),
    *(levels, emit, point_emit, direct, measures),
    *types.modules(),
)
"""Modules whose functions may become part of kernels."""


@cache
def allow(function: Any) -> None:
    """Tell numba, once, that a function may become part of kernels."""
    register_jitable(forceinline=True, **OPTIONS)(function)


@cache
def _allow_texts() -> None:
    """Tell numba what all kernels are made of, and what some of it means."""
    assert lane_bytes.INSTRUCTIONS  # imported, it has told numba
    own: list[Callable[..., Any]] = [columns, squares, fetch, ahead, infinite]
    for function in (*own, *(each for text in TEXTS for each in functions_of(text))):
        allow(function)
    lane_lists.allow({"forceinline": True, **OPTIONS})
    lane_runs.allow({"forceinline": True, **OPTIONS})


def functions_of(module: ModuleType) -> list[FunctionType]:
    """The functions that a module defines."""
    found = [value for value in vars(module).values() if isinstance(value, FunctionType)]
    return [function for function in found if function.__module__ == module.__name__]


def _searched(kernel: Kernel, method: Search | OnGrid) -> Callable[..., Any]:
    """make(w, e, call, room, tile) of a method that searches, with or without a grid.

    It makes a tile's blocks. Like every ``make`` it returns whether all values are finite, and
    where a scale is not.
    """
    row, size = TYPES[kernel.type_], BLOCKS[kernel.type_].size
    fit, settle, subs, n = method.fit, method.settle, method.subs, method.n
    block, scales, weighted = subs * n, row.scales, kernel.weighted
    write = _writer(kernel.type_, method)
    of_row = weighted and not method.mean
    of_block = bool(method.mean) and (weighted or isinstance(method, OnGrid))
    once, twice = (np.float32(m) for m in method.mean or (0, 0))

    def make(w: Any, e: Any, call: Any, room: Any, tile: Any) -> Any:
        c = room.columns
        first = tile * count(w) * block
        if not fetch(e, call, first, room.rows):
            return False, whole(w, 0)
        mean = fill(w, 0.0)
        if of_row:
            mean = load(w, as_rows(call.means, count(w)), tile)
        if of_block:
            mean = squares(w, room.values, subs, n, c.values) * fill(w, once) * fill(w, twice)
        for g in range(subs):
            ahead(call, first + count(w) * (block + g * n), count(w) * n)
            columns(room.values, g * n, block, n, c.values)
            if weighted:
                columns(call.importances, first + g * n, block, n, c.importances)
            fit(w, c, g, mean)
        settle(w, c)
        for b in range(count(w)):
            write(e, room, b, call.out, (tile * count(w) + b) * size)
        return True, infinite(w, c.whole, scales)

    return make


def _writer(type_: GGMLType, method: Search | OnGrid) -> Callable[..., None]:
    """write(e, room, b, out, o): the bytes of the block in lane ``b``, from ``o`` on."""
    layout = TYPES[type_].layout
    assert layout is not None
    pack = layout.emit
    if isinstance(method, OnGrid):

        def write(e: Any, room: Any, b: Any, out: Any, o: Any) -> None:
            pack(room.columns, b, out, o)

    else:
        choose, shape = method.levels.put, SearchedShape(method.subs, method.n, method.nmax)

        def write(e: Any, room: Any, b: Any, out: Any, o: Any) -> None:
            choose(e, room, shape, b)
            pack(room.levels, room.columns.whole, b, out, o)

    allow(write)
    return write


def _simple(kernel: Kernel, method: Simple) -> Callable[..., Any]:
    """As :func:`_searched`, of a method without a search; a tile is 32 blocks."""
    scale, write, measure = method.scale, method.write, measures.MEASURES[method.measure]
    scales, (weights, size) = TYPES[kernel.type_].scales, BLOCKS[kernel.type_]
    vectors = weights // LANES

    def make(w: Any, e: Any, call: Any, room: Any, tile: Any) -> Any:
        c = room.columns
        values, first = call.source, tile * LANES * vectors
        if call.kind != F32:
            if not fetch(e, call, tile * room.values.size, room.rows):
                return False, whole(w, 0)
            values, first = as_bytes(room.values), 0
        if not measure(w, values, first, vectors, c.found):
            return False, whole(w, 0)
        scale(w, c.found, c.whole)
        for b in range(LANES):
            at = (tile * LANES + b) * size
            write(w, room, DirectBlock(values, first + b * vectors, b, call.out, at))
        return True, infinite(w, c.whole, scales)

    return make


def _each(kernel: Kernel, method: Each) -> Callable[..., Any]:
    """As :func:`_searched`, of a method that takes each vector for itself; a tile is 32 of them."""
    put, (weights, size) = method.put, BLOCKS[kernel.type_]
    step = LANES * size // weights

    def make(w: Any, e: Any, call: Any, room: Any, tile: Any) -> Any:
        suspect = whole(w, 0)
        if not fetch(e, call, tile * room.values.size, room.rows):
            return False, suspect
        rows = as_rows(room.values, LANES)
        for i in range(LANES):
            suspect = suspect | put(w, call.out, (tile * LANES + i) * step, load(w, rows, i))
        return True, suspect

    return make


MAKERS: dict[type, Callable[..., Any]] = {
    Search: _searched,
    OnGrid: _searched,
    Simple: _simple,
    Each: _each,
}


@cache
def text(kernel: Kernel) -> Callable[..., Any]:
    """run(w, e, source, kind, importances, means, out), which numba is to compile.

    ``w`` is the :class:`mbuild.quant.layouts.instructions.Width` of a tile in lanes, ``e`` that of
    ``ROW``; the others are a :class:`KernelCall`, its source a whole number of tiles. ``run``
    returns GOOD, or SUSPECT where a block's scale does not fit float16, or the first tile
    that holds a NaN or an infinity, where work ended.
    """
    _allow_texts()
    make = MAKERS[type(kernel.method)](kernel, kernel.method)
    allow(make)
    n, scratch, found, wholes_, spots = kernel.rows
    weights, grid = 32, None
    if isinstance(kernel.method, OnGrid):
        weights, grid = 1, grids.table(kernel.method.grid)
    on_grid, start = grid is not None, WEIGHT
    block = kernel.tile * BLOCKS[kernel.type_].weights // kernel.lanes
    octets_, size = BLOCKS[kernel.type_].weights, kernel.tile * BLOCKS[kernel.type_].size

    def run(w: Any, e: Any, source: Any, kind: Any, importances: Any, means: Any, out: Any) -> Any:
        values = flat_reals(w, block)
        kept = reals(w, scratch)
        own = reals(w, weights)
        if on_grid:
            own = kept[start:]
        c = Columns(
            reals(w, n), reals(w, n), own, kept, reals(w, found), wholes(w, wholes_),
            wholes(w, spots), grid,
        )  # fmt: skip
        room = Room(values, as_rows(values, ROW), octets(octets_), c)
        call = KernelCall(source, kind, importances, means, out)
        suspect = whole(w, 0)
        for tile in range(out.size // size):
            finite, beyond_ = make(w, e, call, room, tile)
            if not finite:
                return tile
            suspect = suspect | beyond_
        return SUSPECT if any_lane(suspect != whole(w, 0)) else GOOD

    return run
