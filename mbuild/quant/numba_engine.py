"""The compiled engine: picks kernels, pads the last tile, says where a bad value lies.

Importing this module imports numba; :mod:`mbuild.quant.quantize` does so when a
quantization runs.
"""

# numba and llvmlite are typed in part or not at all.
# mypy: disable-error-code="import-untyped,import-not-found,no-untyped-call,no-untyped-def"
# mypy: disable-error-code="call-overload,misc,no-any-return,attr-defined,untyped-decorator"

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import typeof
from numba.core import types
from numba.core.registry import cpu_target
from numpy.typing import NDArray

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant import grids, kernels, point_kernels, simple_kernels, specs
from mbuild.quant.lanes import Width, WidthType
from mbuild.quant.quantize import Outcome

Bytes = NDArray[np.uint8]

_BYTES = types.Array(types.uint8, 1, "C")
_SOURCE = types.Array(types.uint8, 1, "C", readonly=True)
_REALS = types.Array(types.float32, 1, "C", readonly=True)


@cache
def native_lanes() -> int:
    """The width of the searches on this CPU: 32 lanes with AVX-512, else 16."""
    # What numba compiles for, which NUMBA_CPU_FEATURES may have narrowed.
    features = cpu_target.target_context.codegen().magic_tuple()[2]
    return 32 if "+avx512f" in features.split(",") else 16


class NumbaEngine:
    """Quantizes blocks with compiled kernels in ``lanes`` lanes; any thread may call it."""

    def __init__(self, lanes: int | None = None) -> None:
        self.lanes = lanes or native_lanes()
        self._rows = Width(kernels.ROW)
        self._entries: dict[tuple[GGMLType, bool], tuple[Width, Callable[..., int]]] = {}
        self._compiling = threading.Lock()

    def supports(self, type_: GGMLType, weighted: bool) -> bool:
        """Whether there is a kernel for this type."""
        searched = type_ in specs.PLAIN or (weighted and type_ in specs.WEIGHTED)
        return searched or simple_kernels.supports(type_)

    def prepare(self, type_: GGMLType, weighted: bool) -> None:
        """Compile the kernel, or load it from the cache."""
        self._entry(type_, weighted and type_ in specs.WEIGHTED)

    def _entry(self, type_: GGMLType, weighted: bool) -> tuple[Width, Callable[..., int]]:
        """The compiled kernel and the width it takes.

        It is called without numba's dispatcher, which would look at every argument: arrays
        have to be flat and contiguous and of the right kind.
        """
        found = self._entries.get((type_, weighted))
        if found is not None:
            return found
        with self._compiling:
            width = Width(self.lanes)
            spec = (specs.WEIGHTED if weighted else specs.PLAIN).get(type_)
            if spec is not None and spec.levels is specs.Levels.POINTS:
                found = width, self._grid_entry(type_, weighted)
                return self._entries.setdefault((type_, weighted), found)
            if weighted:
                kernel = kernels.weighted(type_)
            elif type_ in specs.PLAIN:
                kernel = kernels.plain(type_)
            else:
                kernel, width = simple_kernels.choose(type_), Width(simple_kernels.LANES)
            reals = (_REALS, _REALS) if weighted else ()
            widths = WidthType(width.lanes), WidthType(kernels.ROW)
            entry = kernel.compile((*widths, _SOURCE, types.intp, *reals, _BYTES))
            self._entries[type_, weighted] = width, entry
        return self._entries[type_, weighted]

    def _grid_entry(self, type_: GGMLType, weighted: bool) -> Callable[..., int]:
        """As :meth:`_entry`, of a type on a grid: its kernel is given the grid's table."""
        kernel, table = point_kernels.kernel(type_, weighted), grids.table(type_)
        widths = WidthType(self.lanes), WidthType(kernels.ROW)
        compiled = kernel.compile((*widths, typeof(table), _SOURCE, types.intp, _REALS, _BYTES))

        def entry(width: Width, rows: Width, source: Bytes, kind: int, *rest: Any) -> int:
            importances = rest[0] if weighted else np.empty(0, np.float32)
            return int(compiled(width, rows, table, source, kind, importances, rest[-1]))

        return entry

    def _run(self, type_: GGMLType, source: Bytes, kind: int, out: Bytes, weights: Any) -> int:
        width, entry = self._entry(type_, weights is not None)
        return entry(width, self._rows, source, kind, *(weights or ()), out)

    def _tile(self, type_: GGMLType, weighted: bool) -> int:
        """Blocks of a tile."""
        searched = type_ in (specs.WEIGHTED if weighted else specs.PLAIN)
        return self.lanes if searched else simple_kernels.tile_of(type_)

    def blocks(
        self, type_: GGMLType, source: Bytes, kind: GGMLType, out: Bytes, weights: Any = None
    ) -> Outcome:
        """Quantize ``source`` (bytes of values of type ``kind``) into ``out`` (bytes of blocks).

        Both are flat and contiguous. ``weights`` is None, or (importances of every value,
        mean squares of every block's row), float32.
        """
        if type_ not in specs.WEIGHTED:
            weights = None
        size, count = BLOCKS[type_].size, BLOCKS[type_].weights
        item = BLOCKS[kind].size
        tile = self._tile(type_, weights is not None)
        blocks = len(out) // size
        whole = blocks - blocks % tile
        values = whole * count
        parts = None if weights is None else (weights[0][:values], weights[1][:whole])
        number, found = int(kind), -1
        if whole:
            first = source[: values * item]
            found = self._run(type_, first, number, out[: whole * size], parts)
        if whole == blocks or found >= 0:
            return _OUTCOMES.get(found, Outcome.NOT_FINITE)
        padded = np.zeros(tile * count * item, np.uint8)
        padded[: len(source) - values * item] = source[values * item :]
        last = np.empty(tile * size, np.uint8)
        if weights is not None:
            parts = (
                np.resize(weights[0][values:], tile * count),
                np.resize(weights[1][whole:], tile),
            )
        rest = self._run(type_, padded, number, last, parts)
        out[whole * size :] = last[: (blocks - whole) * size]
        return _OUTCOMES.get(rest if rest >= 0 else min(found, rest), Outcome.NOT_FINITE)


_OUTCOMES = {-1: Outcome.GOOD, -2: Outcome.SUSPECT}
"""What a kernel returns; everything else is the number of a tile."""
