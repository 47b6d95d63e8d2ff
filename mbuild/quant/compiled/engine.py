"""The compiled engine: picks kernels, pads the last tile, says where a bad value lies.

A kernel is compiled by numba (:mod:`mbuild.quant.compiled.compiler`) into an object file,
which is kept (:mod:`mbuild.quant.compiled.cache`), loaded by LLVM
(:mod:`mbuild.quant.compiled.loader`) and called through ctypes. Where it is kept already, numba
is not imported.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant import specs
from mbuild.quant.compiled import cache, isolation, loader
from mbuild.quant.kernels import target
from mbuild.quant.quantize import Outcome
from mbuild.quant.specs import Kernel

Bytes = NDArray[np.uint8]


def machine_code(kernel: Kernel) -> Callable[..., int]:
    """The kernel's C function, from the cache or compiled now."""
    code = cache.read(kernel.name)
    if code is None:
        isolation.import_numba()
        from mbuild.quant.compiled import compiler

        code = compiler.object_code(kernel)
        cache.write(kernel.name, code)
    return loader.load(code, kernel.name)


class CompiledEngine:
    """Quantizes blocks with compiled kernels in ``lanes`` lanes; any thread may call it.

    Raises ImportError where numba is not installed, which compiles what is not kept.
    """

    def __init__(self, lanes: int | None = None) -> None:
        target.compilers()
        self.lanes = lanes or target.native_lanes()
        self._entries: dict[tuple[GGMLType, bool], tuple[Kernel, Callable[..., int]]] = {}
        self._compiling = threading.Lock()

    def supports(self, type_: GGMLType, weighted: bool) -> bool:
        """Whether there is a kernel for this type."""
        return specs.kernel(type_, weighted, self.lanes) is not None

    def prepare(self, type_: GGMLType, weighted: bool) -> None:
        """Compile the kernel, or load it from the cache."""
        self._entry(type_, weighted and type_ in specs.WEIGHTED)

    def _entry(self, type_: GGMLType, weighted: bool) -> tuple[Kernel, Callable[..., int]]:
        """The kernel and its function, which is given a source and more, and the result's place.

        It is called through ctypes and looks at nothing: arrays have to be flat and
        contiguous and of the right kind.
        """
        found = self._entries.get((type_, weighted))
        if found is not None:
            return found
        with self._compiling:
            if (type_, weighted) not in self._entries:
                kernel = specs.kernel(type_, weighted, self.lanes)
                if kernel is None:
                    raise KeyError(type_)
                call = machine_code(kernel)
                self._entries[type_, weighted] = kernel, call
        return self._entries[type_, weighted]

    def _run(self, type_: GGMLType, source: Bytes, kind: int, out: Bytes, weights: Any) -> int:
        kernel, call = self._entry(type_, weights is not None)
        if kernel.on_grid:
            # It has a place for importances in any case, and none for the rows' means.
            weights = (np.empty(0, np.float32) if weights is None else weights[0],)
        return call(source, kind, *(weights or ()), out)

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
        tile = self._entry(type_, weights is not None)[0].tile
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
