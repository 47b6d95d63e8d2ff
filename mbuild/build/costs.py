"""What running a step takes: bytes, memory, time; loaded where somebody asks before a build."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mbuild.gguf.types import GGMLType

BASE_MEMORY = 224 << 20
"""What Python, modules, machine code and blocks for the disk take, in bytes, measured."""


BLOCKS_BESIDE = 8 << 20
"""What the blocks for the disk of one more file take."""


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
    peak in bytes where it is worth a word, ``beside`` what it adds to that of a step with
    which it runs together. ``tensors`` are those of a quantization.
    ``every_core`` tells that the work spreads over all cores, so that other such work
    beside it makes both slower; ``in_passing`` that it takes no time of its own.
    ``eight_bits`` are the bytes that Q8_0 would take instead, where the result is much larger
    than the quantized weights that it is made from.
    """

    writes: int | None = 0
    memory: int = 0
    tensors: tuple[PlannedTensor, ...] = ()
    every_core: bool = False
    in_passing: bool = False
    eight_bits: int | None = None
    beside: int = 0


def memory_together(costs: Sequence[Cost]) -> int:
    """The most memory of steps that run together, in bytes."""
    most = max(costs, key=lambda cost: cost.memory)
    return most.memory + sum(cost.beside for cost in costs) - most.beside


def memory_for(weights: int, largest: int, threads: int) -> int:
    """The most memory of a step that streams weights on so many threads, in bytes.

    ``weights`` are the bytes of all of them, before and after; ``largest`` those of the
    largest piece that is worked on as a whole. Pieces are some MiB, whatever the model and
    its largest tensor, but for a tensor that cannot be cut: so it is 1 GiB and 64 MiB a thread
    at most.
    """
    from mbuild.gguf.memory import kept_idle
    from mbuild.work.ahead import budget

    return BASE_MEMORY + min(weights, kept_idle(threads) + budget(threads, largest))
