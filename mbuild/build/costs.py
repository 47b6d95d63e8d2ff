"""What running a step takes: bytes, memory, time; loaded where somebody asks before a build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mbuild.gguf.types import GGMLType

BASE_MEMORY = 160 << 20
"""What Python and the modules of a conversion take, in bytes, measured."""

IN_FLIGHT = 3
"""Tensors of the largest size that are in memory at once: read, transformed, written."""


class PlannedTensor(NamedTuple):
    """What a quantization will do with one tensor; ``size`` is its new size in bytes."""

    name: str
    before: GGMLType
    after: GGMLType
    size: int

    def to_json(self) -> dict[str, Any]:
        """As ``mbuild plan --format json`` prints it."""
        return {**self._asdict(), "before": self.before.name, "after": self.after.name}


class Cost(NamedTuple):
    """What running a step takes.

    ``writes`` are bytes of new blobs, None where nobody can know yet; ``memory`` is the
    peak in bytes where it is worth a word. ``tensors`` are those of a quantization.
    ``every_core`` tells that the work spreads over all cores, so that other such work
    beside it makes both slower; ``in_passing`` that it takes no time of its own.
    """

    writes: int | None = 0
    memory: int = 0
    tensors: tuple[PlannedTensor, ...] = ()
    every_core: bool = False
    in_passing: bool = False


def memory_for(largest: int) -> int:
    """The memory of a step that streams tensors of which the largest has that many bytes."""
    return BASE_MEMORY + IN_FLIGHT * largest
