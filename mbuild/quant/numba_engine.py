"""The compiled engine: picks kernels, pads the last tile, says where a bad value lies.

Importing this module imports numba; :mod:`mbuild.quant.quantize` does so when a
quantization runs.
"""

# numba and llvmlite are typed in part or not at all.
# mypy: disable-error-code="import-untyped,import-not-found,no-untyped-call,no-untyped-def"
# mypy: disable-error-code="call-overload,misc,no-any-return,attr-defined,untyped-decorator"

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from llvmlite import binding
from numpy.typing import NDArray

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant import kernels, simple_kernels, specs
from mbuild.quant.lanes import Width

Bytes = NDArray[np.uint8]


@cache
def native_lanes() -> int:
    """The width of the searches on this CPU: 32 lanes with AVX-512, else 16."""
    return 32 if binding.get_host_cpu_features().get("avx512f", False) else 16


class NumbaEngine:
    """Quantizes blocks with compiled kernels in ``lanes`` lanes; any thread may call it."""

    def __init__(self, lanes: int | None = None) -> None:
        self.lanes = lanes or native_lanes()
        self._rows = Width(kernels.ROW)

    def supports(self, type_: GGMLType, weighted: bool) -> bool:
        """Whether there is a kernel for this type."""
        searched = type_ in specs.PLAIN or (weighted and type_ in specs.WEIGHTED)
        return searched or simple_kernels.supports(type_)

    def prepare(self, type_: GGMLType, weighted: bool) -> None:
        """Compile the kernel, or load it from the cache."""
        nothing = np.empty(0, np.uint8)
        reals = np.empty(0, np.float32)
        self._run(type_, nothing, 0, nothing, (reals, reals) if weighted else None)

    def _run(self, type_: GGMLType, source: Bytes, kind: int, out: Bytes, weights: Any) -> int:
        # One signature for buffers that may be written and for those that may not.
        source = source.view()
        source.flags.writeable = False
        kind = int(kind)
        if weights is not None and type_ in specs.WEIGHTED:
            kernel, width = kernels.weighted(type_), Width(self.lanes)
            return int(kernel(width, self._rows, source, kind, *weights, out))
        if type_ in specs.PLAIN:
            kernel, width = kernels.plain(type_), Width(self.lanes)
        else:
            kernel, width = simple_kernels.choose(type_), Width(simple_kernels.LANES)
        return int(kernel(width, self._rows, source, kind, out))

    def _tile(self, type_: GGMLType, weighted: bool) -> int:
        """Blocks of a tile."""
        searched = type_ in (specs.WEIGHTED if weighted else specs.PLAIN)
        return self.lanes if searched else simple_kernels.tile_of(type_)

    def blocks(
        self, type_: GGMLType, source: Bytes, kind: GGMLType, out: Bytes, weights: Any = None
    ) -> bool:
        """Quantize ``source`` (bytes of values of type ``kind``) into ``out`` (bytes of blocks).

        ``weights`` is None, or (importances of every value, mean squares of every
        block's row), float32. Returns whether all values are finite.
        """
        size, count = BLOCKS[type_].size, BLOCKS[type_].weights
        item = BLOCKS[kind].size
        tile = self._tile(type_, weights is not None)
        blocks = len(out) // size
        whole = blocks - blocks % tile
        values = whole * count
        parts = None if weights is None else (weights[0][:values], weights[1][:whole])
        first = source[: values * item]
        if whole and self._run(type_, first, kind, out[: whole * size], parts) >= 0:
            return False
        if whole == blocks:
            return True
        padded = np.zeros(tile * count * item, np.uint8)
        padded[: len(source) - values * item] = source[values * item :]
        last = np.empty(tile * size, np.uint8)
        if weights is not None:
            parts = (
                np.resize(weights[0][values:], tile * count),
                np.resize(weights[1][whole:], tile),
            )
        good = self._run(type_, padded, kind, last, parts) < 0
        out[whole * size :] = last[: (blocks - whole) * size]
        return good
