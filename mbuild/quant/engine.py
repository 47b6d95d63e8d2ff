"""What an engine is: whoever makes blocks of rows of values.

There are two, with the same bytes: :mod:`mbuild.quant.compiled.engine`, and where that cannot be
used :mod:`mbuild.quant.arrays.engine`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mbuild.core.values import NamedTuple
from mbuild.gguf.types import GGMLType

Bytes = NDArray[np.uint8]
Reals = NDArray[np.float32]


class BlocksOutcome(IntEnum):
    """What an engine found while it made blocks."""

    NOT_FINITE = 0
    """A value is infinite or not a number; what was made is worth nothing."""
    GOOD = 1
    SUSPECT = 2
    """A block's scale is infinite or not a number, or nobody looked."""


class Weights(NamedTuple):
    """How much values count, float32: every value's importance, every block's row's mean square."""

    importances: Reals
    means: Reals


class Engine(Protocol):
    """Makes blocks; any thread may call it."""

    @property
    def name(self) -> str:
        """What it runs: ``compiled`` kernels, or ``numpy``."""

    def prepare(self, type_: GGMLType, weighted: bool) -> None:
        """Make ready for blocks of a type that is supported.

        Raises :class:`Unavailable` where this machine does not let it.
        """

    def blocks(
        self,
        type_: GGMLType,
        source: Bytes,
        kind: GGMLType,
        out: Bytes,
        weights: Weights | None = None,
    ) -> BlocksOutcome:
        """Quantize ``source`` (bytes of values of type ``kind``) into ``out`` (bytes of blocks).

        Both are flat and contiguous.
        """


class Unavailable(Exception):
    """An engine cannot be used here: why, and what to do about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason, remedy)
        self.reason = reason
        self.remedy = remedy
