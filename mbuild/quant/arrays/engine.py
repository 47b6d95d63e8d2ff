"""The quantizers in numpy: the fallback where numba is missing, and its second opinion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant import specs
from mbuild.quant.arrays import point_packing
from mbuild.quant.arrays.packing import PACK, Bytes, nibbles
from mbuild.quant.quantize import Outcome, widen
from mbuild.quant.search import fits, grids, ops
from mbuild.quant.search.fitting import place
from mbuild.quant.search.points import WHOLE_ROWS
from mbuild.quant.search.simple import INVERSE, LOW, SHIFT, SIMPLE, TOP, VALUE, Measure
from mbuild.quant.search.simple import ROWS as SIMPLE_ROWS
from mbuild.quant.specs import Levels, Spec

Reals = NDArray[np.float32]

WIDTH = None
"""What the searches get as width: numpy has no use for it."""


def search(type_: GGMLType, x: Reals, q: Reals | None, sigma2: Reals | None) -> Bytes:
    """Blocks ``x`` (blocks, weights) of a searched type as bytes (blocks, size).

    ``q`` are importances like ``x``; ``sigma2`` (blocks,) is the mean square of the
    block's row for those types that combine importances with it.
    """
    spec = (specs.PLAIN if q is None else specs.WEIGHTED)[type_]
    if spec.levels is Levels.POINTS:
        return points(type_, spec, x, q)
    rows, wholes, levels = specs.scratch_rows(spec)
    count = len(x)
    st = np.zeros((rows, count), np.float32)
    it = np.zeros((wholes, count), np.int32)
    ls = np.zeros((levels, count), np.float32)
    ws = np.zeros((32, count), np.float32)
    with np.errstate(all="ignore"):
        xs = np.ascontiguousarray(x.T)
        qs = xs if q is None else np.ascontiguousarray(q.T)
        mean: Any = 0.0 if q is None else _mean_square(spec, xs, sigma2)
        for g in range(spec.subs):
            part = slice(g * spec.n, (g + 1) * spec.n)
            spec.fit(WIDTH, xs[part], qs[part], ws, ls, st, g, mean)
        spec.settle(WIDTH, st, it, ws)
        chosen = _levels(spec, x.reshape(count, spec.subs, spec.n), st, ls)
    return PACK[type_](chosen.reshape(count, -1).astype(np.uint8), it)


def points(type_: GGMLType, spec: Spec, x: Reals, q: Reals | None) -> Bytes:
    """As :func:`search`, of the types on grids."""
    count = len(x)
    st = np.zeros((spec.subs, count), np.float32)
    it = np.zeros((fits.WHOLE_HEAD + spec.subs, count), np.int32)
    ls = np.zeros((specs.point_rows(type_), count), np.float32)
    ints = np.zeros((WHOLE_ROWS, count), np.int32)
    table = grids.table(type_)
    with np.errstate(all="ignore"):
        xs = np.ascontiguousarray(x.T)
        qs = xs if q is None else np.ascontiguousarray(q.T)
        mean = _mean_square(spec, xs, None)
        for g in range(spec.subs):
            part = slice(g * spec.n, (g + 1) * spec.n)
            spec.fit(WIDTH, table, xs[part], qs[part], ls, ints, st, g, mean)
        spec.settle(WIDTH, table, st, it, ls)
    return point_packing.PACK[type_](ls, it, table.numbers)


def _mean_square(spec: Spec, xs: Reals, sigma2: Reals | None) -> Any:
    if not spec.mean:
        return sigma2
    total = np.zeros(xs.shape[1], np.float32)
    for x in xs:
        total = total + x * x
    return total * np.float32(spec.mean[0]) * np.float32(spec.mean[1])


def _levels(spec: Spec, x: Reals, st: Reals, ls: Reals) -> Any:
    """The levels of ``x`` (blocks, sub-blocks, n)."""

    def row(kind: int) -> Reals:
        return st[kind * spec.subs : (kind + 1) * spec.subs].T[:, :, None]

    step, base, inverse, offset = map(row, (fits.STEP, fits.BASE, fits.INVERSE, fits.OFFSET))
    nmax = spec.nmax
    if spec.levels is Levels.TABLE:
        return fits.IQ4_INDEX[place(WIDTH, x * inverse + x * inverse)]
    if spec.levels is Levels.AFFINE:
        kept = ops.clamp(ops.nearest((x - offset) * inverse), 0, nmax)
        final = ops.clamp(ops.nearest((x + base) / step), 0, nmax)
    else:
        kept = ops.clamp(ops.nearest(x * inverse), -nmax, nmax - 1) + ops.truncate(offset)
        final = ops.clamp(ops.nearest(x / step), -nmax, nmax - 1) + nmax
    if spec.levels is Levels.DESCENT:
        kept = ls.T.reshape(x.shape).astype(np.int32)
    return np.where(step == 0, kept, final)


def simple(type_: GGMLType, x: Reals) -> Bytes:
    """Blocks ``x`` (blocks, weights) of a type without a search as bytes (blocks, size)."""
    row = SIMPLE[type_]
    st = np.zeros((SIMPLE_ROWS, len(x)), np.float32)
    it = np.zeros((fits.WHOLE_HEAD, len(x)), np.int32)
    if row.measure is Measure.RANGE:
        st[TOP] = x[np.arange(len(x)), x.argmax(axis=1)]
        st[VALUE] = x[np.arange(len(x)), x.argmin(axis=1)]
    else:
        magnitudes = np.abs(x)
        st[TOP] = magnitudes.max(axis=1)
        st[VALUE] = x[np.arange(len(x)), magnitudes.argmax(axis=1)]
    with np.errstate(all="ignore"):
        row.scale(WIDTH, st, it)
        scaled = (x - st[LOW][:, None]) * st[INVERSE][:, None]
        if row.nmax:
            levels = ops.clamp(ops.truncate(scaled + st[SHIFT][:, None]), 0, row.nmax)
        else:
            levels = ops.away(scaled)
    return PACK[type_](levels.astype(np.uint8), it)


def mxfp4(x: Reals) -> Bytes:
    """Blocks ``x`` (blocks, 32) as MXFP4 bytes (blocks, 17)."""
    magnitude = np.abs(x).max(axis=1)
    with np.errstate(all="ignore"):
        exponent = np.where(magnitude > 0, mxfp4_exponent(magnitude), 0).astype(np.int32)
        scale = np.where(exponent < 2, 0x00200000 << exponent.clip(0, 1), (exponent - 1) << 23)
        d = scale.astype(np.int32).view(np.float32)[:, None]
        best = np.zeros(x.shape, np.uint8)
        least = np.abs(np.float32(0) * d - x)
        for index, value in enumerate(fits.MXFP4_VALUES):
            error = np.abs(np.float32(value) * d - x)
            best = np.where(error < least, np.uint8(index), best)
            least = np.minimum(error, least)
    return np.concatenate([exponent.astype(np.uint8)[:, None], nibbles(best, 32)], axis=1)


def mxfp4_exponent(magnitude: Reals) -> NDArray[np.int32]:
    """floor(log2f(magnitude)) + 125 cut to eight bits.

    log2f rounds to float32, up to the next integer for values just below a power of two.
    """
    rounded = np.log2(magnitude.astype(np.float64)).astype(np.float32)
    return (np.floor(rounded).astype(np.int32) + 125) & 0xFF


def cast_f16(x: Reals) -> Bytes:
    """float32 (any shape) as float16 bytes, to nearest even; what is too large is infinite."""
    with np.errstate(over="ignore"):
        return x.astype("<f2").view(np.uint8)


def cast_bf16(x: Reals) -> Bytes:
    """float32 (any shape, no NaN) as bfloat16 bytes, to nearest even."""
    pattern = x.view(np.uint32)
    rounded = (pattern + (0x7FFF + ((pattern >> 16) & 1)).astype(np.uint32)) >> 16
    return rounded.astype("<u2").view(np.uint8)


def cast_f32(x: Reals) -> Bytes:
    """float32 (any shape) as its bytes."""
    return np.ascontiguousarray(x, "<f4").view(np.uint8)


OTHERS: dict[GGMLType, Callable[[Reals], Bytes]] = {
    GGMLType.MXFP4: mxfp4,
    GGMLType.F16: cast_f16,
    GGMLType.BF16: cast_bf16,
    GGMLType.F32: cast_f32,
}
"""Types that have a function of their own."""


class NumpyEngine:
    """Quantizes blocks in numpy; any thread may call it."""

    def supports(self, type_: GGMLType, weighted: bool) -> bool:
        """Whether this type can be made."""
        if weighted and type_ in specs.WEIGHTED:
            return True
        return type_ in specs.PLAIN or type_ in SIMPLE or type_ in OTHERS

    def prepare(self, type_: GGMLType, weighted: bool) -> None:
        """Nothing needs preparing."""

    def blocks(
        self, type_: GGMLType, source: Bytes, kind: GGMLType, out: Bytes, weights: Any = None
    ) -> Outcome:
        """As :meth:`mbuild.quant.compiled.engine.CompiledEngine.blocks`; looks at no scale."""
        x = widen(source, kind)
        if not np.isfinite(x).all():
            return Outcome.NOT_FINITE
        x = x.reshape(-1, BLOCKS[type_].weights)
        if weights is not None and type_ in specs.WEIGHTED:
            made = search(type_, x, weights[0].reshape(x.shape), weights[1])
        elif type_ in specs.PLAIN:
            made = search(type_, x, None, None)
        elif type_ in SIMPLE:
            made = simple(type_, x)
        else:
            made = OTHERS[type_](x)
        out[:] = made.reshape(-1)
        return Outcome.SUSPECT
