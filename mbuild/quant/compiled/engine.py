"""The compiled engine: picks kernels, pads the last tile, says where a bad value lies.

A kernel is an object file, put into memory and called through ctypes
(:mod:`mbuild.quant.compiled.loader`). It came with mbuild (:mod:`mbuild.quant.compiled.packed`),
or it is compiled by numba (:mod:`mbuild.quant.compiled.compiler`) and kept
(:mod:`mbuild.quant.compiled.cache`). Where it is there already, numba is not imported.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from mbuild.core.values import NamedTuple
from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.compiled import cache, loader, needs, packed
from mbuild.quant.engine import BlocksOutcome, Bytes, Reals, Weights
from mbuild.quant.kernels import target
from mbuild.quant.table import GOOD, SUSPECT, Kernel, kernel, takes_importances

_OUTCOMES = {GOOD: BlocksOutcome.GOOD, SUSPECT: BlocksOutcome.SUSPECT}
"""What a kernel returns; everything else is the number of a tile."""


def machine_code(kernel: Kernel) -> Callable[..., int]:
    """The kernel's C function, as it came, from the cache or compiled now.

    Raises :class:`Unavailable`.
    """
    code = packed.read(kernel.name)
    if code is None:
        needs.find_numba(packed.lack(kernel.name))
        code = cache.read(kernel.name) or _compiled(kernel)
    with needs.machine_code():
        return loader.load(code, kernel.name)


def _compiled(kernel: Kernel) -> bytes:
    """The kernel's object file, made now and kept; raises :class:`Unavailable`."""
    needs.need_numba()
    from mbuild.quant.compiled import compiler

    library = compiler.library(kernel)
    with needs.machine_code():
        code = bytes(library.emit_native_object())
    cache.write(kernel.name, code)
    return code


_NONE = (None, None)
"""What a kernel is given for importances and means that there are not."""


def _part(weights: Weights | None, values: int, blocks: int) -> tuple[Reals | None, Reals | None]:
    """The importances of the first values, the means of the first blocks."""
    if weights is None:
        return _NONE
    return weights.importances[:values], weights.means[:blocks]


class _Entry(NamedTuple):
    """A kernel that can be called.

    It is called through ctypes and looks at nothing: arrays have to be flat and contiguous and
    of the right kind.
    """

    kernel: Kernel
    call: Callable[..., int]


class CompiledEngine:
    """Quantizes blocks with compiled kernels in ``lanes`` lanes; any thread may call it.

    Raises :class:`Unavailable` where no kernels came with mbuild and numba is not installed.
    """

    name = "compiled"

    def __init__(self, lanes: int | None = None) -> None:
        if not target.is_known():
            needs.need_llvmlite()
        if not packed.level():
            needs.find_numba(packed.lack())
        self.lanes = lanes or packed.lanes() or target.native_lanes()
        self._entries: dict[tuple[GGMLType, bool], _Entry] = {}
        self._compiling = threading.Lock()

    def prepare(self, type_: GGMLType, weighted: bool) -> None:
        """Compile the kernel, or load it from the cache; raises :class:`Unavailable`."""
        self._entry(type_, weighted and takes_importances(type_))

    def _entry(self, type_: GGMLType, weighted: bool) -> _Entry:
        found = self._entries.get((type_, weighted))
        if found is not None:
            return found
        with self._compiling:
            if (type_, weighted) not in self._entries:
                made = kernel(type_, weighted, self.lanes)
                self._entries[type_, weighted] = _Entry(made, machine_code(made))
        return self._entries[type_, weighted]

    def blocks(
        self,
        type_: GGMLType,
        source: Bytes,
        kind: GGMLType,
        out: Bytes,
        weights: Weights | None = None,
    ) -> BlocksOutcome:
        """As :meth:`mbuild.quant.engine.Engine.blocks`."""
        if weights is None or not takes_importances(type_):
            weights = None
        entry = self._entry(type_, weights is not None)
        size, count = BLOCKS[type_].size, BLOCKS[type_].weights
        item, tile = BLOCKS[kind].size, entry.kernel.tile
        blocks = len(out) // size
        whole = blocks - blocks % tile
        values = whole * count
        number, found = int(kind), GOOD
        if whole:
            first = source[: values * item]
            found = entry.call(first, number, *_part(weights, values, whole), out[: whole * size])
        if whole == blocks or found >= 0:
            return _OUTCOMES.get(found, BlocksOutcome.NOT_FINITE)
        padded = np.zeros(tile * count * item, np.uint8)
        padded[: len(source) - values * item] = source[values * item :]
        last = np.empty(tile * size, np.uint8)
        given = None
        if weights is not None:
            given = Weights(
                np.resize(weights.importances[values:], tile * count),
                np.resize(weights.means[whole:], tile),
            )
        rest = entry.call(padded, number, *(given or _NONE), last)
        out[whole * size :] = last[: (blocks - whole) * size]
        return _OUTCOMES.get(rest if rest >= 0 else min(found, rest), BlocksOutcome.NOT_FINITE)
