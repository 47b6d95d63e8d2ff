"""The searched types' kernels, compiled by numba: tiles of as many blocks as lanes.

A kernel takes a tile's values lane by lane, runs the search of every sub-block and
the settling of the scales (:mod:`mbuild.quant.search.fits`) on all lanes at once, and then
writes the blocks one after the other. There is one kernel per row of
:mod:`mbuild.quant.specs`, all from the one text below.
"""

# numba and llvmlite are typed in part or not at all.
# mypy: disable-error-code="import-untyped,import-not-found,no-untyped-call,no-untyped-def"
# mypy: disable-error-code="call-overload,misc,no-any-return,attr-defined,untyped-decorator"

from __future__ import annotations

from functools import cache
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from numba.extending import register_jitable

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant import specs
from mbuild.quant.kernels import emit
from mbuild.quant.kernels.lane_arrays import as_rows, flat_reals, octets, reals, wholes
from mbuild.quant.kernels.lane_bytes import count, load_bf16, load_f32, load_u16, prefetch, turn
from mbuild.quant.search import fits, fitting
from mbuild.quant.search.ops import any_lane, bits, fill, load, store, whole
from mbuild.quant.specs import ROW, SCALES, Levels

OPTIONS = {"error_model": "numpy", "boundscheck": False, "_nrt": False}
"""numba's, for all code of kernels: nothing raises, nothing needs numba's run-time library."""

_LEVELS = {
    Levels.AFFINE: emit.affine_levels,
    Levels.SYMMETRIC: emit.symmetric_levels,
    Levels.DESCENT: emit.descent_levels,
    Levels.TABLE: emit.table_levels,
}
_PACK = {
    GGMLType.Q2_K: emit.q2_k,
    GGMLType.Q3_K: emit.q3_k,
    GGMLType.Q4_K: emit.q4_k,
    GGMLType.Q5_K: emit.q5_k,
    GGMLType.Q6_K: emit.q6_k,
    GGMLType.Q4_0: emit.iq4_nl,
    GGMLType.Q4_1: emit.q4_1,
    GGMLType.Q5_0: emit.q5_0,
    GGMLType.Q5_1: emit.q5_1,
    GGMLType.IQ4_NL: emit.iq4_nl,
    GGMLType.IQ4_XS: emit.iq4_xs,
}


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


def fetch(e: Any, source: Any, kind: Any, first: Any, x: Any) -> Any:
    """Fill ``x`` with float32 from values ``first`` ... of the source bytes.

    ``kind`` is the number of the source's tensor type (0 F32, 1 F16, 30 BF16), ``first``
    a multiple of ``ROW``. Returns whether all are finite.
    """
    top = whole(e, 0x7F800000)
    bad = top != top
    start = first // ROW
    rows = as_rows(x, ROW)
    if kind == 0:
        for i in range(rows.shape[0]):
            value = load_f32(e, source, start + i)
            bad = bad | ((bits(value) & 0x7F800000) == top)
            store(e, rows, i, value)
    elif kind == 1:
        for i in range(rows.shape[0]):
            value = fitting.half_value(e, load_u16(e, source, start + i))
            bad = bad | ((bits(value) & 0x7F800000) == top)
            store(e, rows, i, value)
    else:
        for i in range(rows.shape[0]):
            value = load_bf16(e, source, start + i)
            bad = bad | ((bits(value) & 0x7F800000) == top)
            store(e, rows, i, value)
    return not any_lane(bad)


def ahead(source: Any, kind: Any, first: Any, count: Any) -> None:
    """Ask the memory for ``count`` values of the source from ``first`` on.

    A search takes so long that the processor's own prefetching forgets where it was.
    """
    item = 4 if kind == 0 else 2
    for at in range(first * item, (first + count) * item, 64):
        prefetch(source, at)


def beyond(half: Any) -> Any:
    """Not 0 in the lanes whose float16 pattern is infinite or not a number."""
    return ((half & 0x7FFF) + 0x0400) & 0x8000


def infinite(w: Any, it: Any, scales: Any) -> Any:
    """Not 0 in the lanes of blocks one of whose ``scales`` float16 scales is not finite."""
    found = whole(w, 0)
    for row in range(scales):
        found = found | beyond(load(w, it, fits.D + row))
    return found


def done(w: Any, suspect: Any) -> Any:
    """What a kernel that came to its end returns: -2 if something is suspect, else -1."""
    return -2 if any_lane(suspect != whole(w, 0)) else -1


@cache
def allow(what: Any) -> None:
    """Tell numba, once, that a function, or a module's functions, may become part of kernels."""
    if not isinstance(what, ModuleType):
        register_jitable(forceinline=True, **OPTIONS)(what)
        return
    for function in vars(what).values():
        if isinstance(function, FunctionType) and function.__module__ == what.__name__:
            allow(function)


@cache
def plain(type_: GGMLType) -> Any:
    """kernel(w, e, source, kind, out): quantize without importances; returns the bad tile.

    ``source`` and ``out`` are bytes, flat and contiguous, the source (of the type with
    the number ``kind``) a whole number of tiles; ``w`` is the
    :class:`mbuild.quant.kernels.lanes.Width` of a tile in blocks, ``e`` that of ``ROW``. The
    result is -1, or -2 where a block's scale does not fit float16, or the first tile that
    holds a NaN or an infinity, where work ended.
    """
    for text in (fitting, fits, emit, ahead, beyond, columns, done, fetch, infinite, squares):
        allow(text)
    spec = specs.PLAIN[type_]
    fit, settle, subs, n, nmax = spec.fit, spec.settle, spec.subs, spec.n, spec.nmax
    choose, pack, size = _LEVELS[spec.levels], _PACK[type_], BLOCKS[type_].size
    real_rows, whole_rows, levels_rows = specs.scratch_rows(spec)
    block, scales = subs * n, len(SCALES.get(type_, ()))

    def kernel(w, e, source, kind, out):
        lanes = count(w)
        st = reals(w, real_rows)
        it = wholes(w, whole_rows)
        cols = reals(w, n)
        ws = reals(w, 32)
        ls = reals(w, levels_rows)
        levels = octets(block)
        x = flat_reals(w, block)
        rows = as_rows(x, ROW)
        suspect = whole(w, 0)
        for tile in range(out.size // (lanes * size)):
            if not fetch(e, source, kind, tile * lanes * block, x):
                return tile
            for g in range(subs):
                ahead(source, kind, (tile + 1) * lanes * block + g * lanes * n, lanes * n)
                columns(x, g * n, block, n, cols)
                fit(w, cols, cols, ws, ls, st, g, fill(w, 0.0))
            settle(w, st, it, ws)
            suspect = suspect | infinite(w, it, scales)
            for b in range(lanes):
                start = b * block // ROW
                choose(e, rows, start, subs, n, nmax, st, ls, b, levels)
                pack(levels, it, b, out, (tile * lanes + b) * size)
        return done(w, suspect)

    return kernel


@cache
def weighted(type_: GGMLType) -> Any:
    """kernel(w, e, source, kind, q, sigma2, out): as :func:`plain`, with importances.

    ``q`` (float32) are the importances of every value of the source; ``sigma2`` (blocks,) the mean
    squares of the rows, which only the types with a mean over the row read.
    """
    for text in (fitting, fits, emit, ahead, beyond, columns, done, fetch, infinite, squares):
        allow(text)
    spec = specs.WEIGHTED[type_]
    fit, settle, subs, n, nmax = spec.fit, spec.settle, spec.subs, spec.n, spec.nmax
    choose, pack, size = _LEVELS[spec.levels], _PACK[type_], BLOCKS[type_].size
    real_rows, whole_rows, levels_rows = specs.scratch_rows(spec)
    block, scales = subs * n, len(SCALES.get(type_, ()))
    of_row = not spec.mean
    once, twice = (np.float32(m) for m in spec.mean or (0, 0))

    def kernel(w, e, source, kind, q, sigma2, out):
        lanes = count(w)
        st = reals(w, real_rows)
        it = wholes(w, whole_rows)
        cols = reals(w, n)
        qs = reals(w, n)
        ws = reals(w, 32)
        ls = reals(w, levels_rows)
        levels = octets(block)
        x = flat_reals(w, block)
        rows = as_rows(x, ROW)
        means = as_rows(sigma2, lanes)
        suspect = whole(w, 0)
        for tile in range(out.size // (lanes * size)):
            if not fetch(e, source, kind, tile * lanes * block, x):
                return tile
            total = load(w, means, tile)
            if not of_row:
                total = squares(w, x, subs, n, cols) * fill(w, once) * fill(w, twice)
            for g in range(subs):
                ahead(source, kind, (tile + 1) * lanes * block + g * lanes * n, lanes * n)
                columns(x, g * n, block, n, cols)
                columns(q, tile * lanes * block + g * n, block, n, qs)
                fit(w, cols, qs, ws, ls, st, g, total)
            settle(w, st, it, ws)
            suspect = suspect | infinite(w, it, scales)
            for b in range(lanes):
                start = b * block // ROW
                choose(e, rows, start, subs, n, nmax, st, ls, b, levels)
                pack(levels, it, b, out, (tile * lanes + b) * size)
        return done(w, suspect)

    return kernel
