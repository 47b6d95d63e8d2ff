"""The quantizers in numpy: the fallback where numba is missing, and its second opinion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.arrays.values import widen
from mbuild.quant.engine import BlocksOutcome, Weights
from mbuild.quant.layouts.packing import Bytes
from mbuild.quant.search import grids
from mbuild.quant.search.columns import WEIGHT, Columns
from mbuild.quant.search.methods import Each, Measure, OnGrid, Search, Simple
from mbuild.quant.search.simple import TOP, VALUE
from mbuild.quant.table import TYPES, Kernel, Rows

Reals = NDArray[np.float32]

WIDTH = None
"""What the searches get as width: numpy has no use for it."""


def _columns(rows: Rows, x: Any, weights: int = 32) -> Columns:
    """Columns for blocks ``x`` (blocks, weights), all zero but for their values."""

    def zeros(count: int, kind: Any = np.float32) -> Any:
        return np.zeros((count, len(x)), kind)

    values = np.ascontiguousarray(x.T)
    return Columns(
        values, values, zeros(weights), zeros(rows.scratch), zeros(rows.found),
        zeros(rows.whole, np.int32), zeros(rows.spots, np.int32), None,
    )  # fmt: skip


def _fitted(method: Search | OnGrid, c: Columns, mean: Any) -> None:
    """Search all sub-blocks of the columns of whole blocks, and settle the blocks."""
    for g in range(method.subs):
        part = slice(g * method.n, (g + 1) * method.n)
        sub = c._replace(values=c.values[part], importances=c.importances[part])
        method.fit(WIDTH, sub, g, mean)
    method.settle(WIDTH, c)


def search(kernel: Kernel, method: Search, x: Reals, weights: Weights | None) -> Bytes:
    """Blocks ``x`` (blocks, weights) of a searched type as bytes (blocks, size)."""
    c = _columns(kernel.rows, x)
    mean: Any = 0.0
    with np.errstate(all="ignore"):
        if weights is not None:
            c = c._replace(importances=_turned(weights, x))
            mean = _mean_square(method, c.values) if method.mean else weights.means
        _fitted(method, c, mean)
        chosen = method.levels.choose(method, x.reshape(len(x), method.subs, method.n), c)
    return _pack(kernel)(chosen.reshape(len(x), -1).astype(np.uint8), c.whole)


def on_grid(kernel: Kernel, method: OnGrid, x: Reals, weights: Weights | None) -> Bytes:
    """As :func:`search`, of the types on grids."""
    c = _columns(kernel.rows, x)
    c = c._replace(weights=c.scratch[WEIGHT:], grid=grids.table(method.grid))
    if weights is not None:
        c = c._replace(importances=_turned(weights, x))
    with np.errstate(all="ignore"):
        _fitted(method, c, _mean_square(method, c.values))
    return _pack(kernel)(c)


def _turned(weights: Weights, x: Reals) -> Any:
    return np.ascontiguousarray(weights.importances.reshape(x.shape).T)


def _pack(kernel: Kernel) -> Callable[..., Bytes]:
    layout = TYPES[kernel.type_].layout
    assert layout is not None
    return layout.pack


def _mean_square(method: Search | OnGrid, xs: Reals) -> Any:
    total = np.zeros(xs.shape[1], np.float32)
    for x in xs:
        total = total + x * x
    return total * np.float32(method.mean[0]) * np.float32(method.mean[1])


def simple(kernel: Kernel, method: Simple, x: Reals, weights: Weights | None) -> Bytes:
    """Blocks ``x`` (blocks, weights) of a type without a search as bytes (blocks, size)."""
    c = _columns(kernel.rows, x)
    st = c.found
    if method.measure is Measure.RANGE:
        st[TOP] = x[np.arange(len(x)), x.argmax(axis=1)]
        st[VALUE] = x[np.arange(len(x)), x.argmin(axis=1)]
    else:
        magnitudes = np.abs(x)
        st[TOP] = magnitudes.max(axis=1)
        st[VALUE] = x[np.arange(len(x)), magnitudes.argmax(axis=1)]
    with np.errstate(all="ignore"):
        method.scale(WIDTH, st, c.whole)
        levels = method.choose(st, x)
    packed: Bytes = method.pack(levels.astype(np.uint8), c.whole)
    return packed


def each(kernel: Kernel, method: Each, x: Reals, weights: Weights | None) -> Bytes:
    """Blocks ``x`` (blocks, weights) whose values are written each for itself, as their bytes."""
    packed: Bytes = method.pack(x)
    return packed


MAKERS: dict[type, Callable[..., Bytes]] = {
    Search: search,
    OnGrid: on_grid,
    Simple: simple,
    Each: each,
}


class NumpyEngine:
    """Quantizes blocks in numpy; any thread may call it."""

    name = "numpy"

    def prepare(self, type_: GGMLType, weighted: bool) -> None:
        """Nothing needs preparing."""

    def blocks(
        self,
        type_: GGMLType,
        source: Bytes,
        kind: GGMLType,
        out: Bytes,
        weights: Weights | None = None,
    ) -> BlocksOutcome:
        """As :meth:`mbuild.quant.engine.Engine.blocks`; looks at no scale."""
        x = widen(source, kind)
        if not np.isfinite(x).all():
            return BlocksOutcome.NOT_FINITE
        x = x.reshape(-1, BLOCKS[type_].weights)
        if TYPES[type_].weighted is None:
            weights = None
        made = Kernel(type_, len(x), weights is not None)
        out[:] = MAKERS[type(made.method)](made, made.method, x, weights).reshape(-1)
        return BlocksOutcome.SUSPECT
