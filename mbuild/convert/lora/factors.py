"""The two factors of an adapter's weight, and what a family's rules for the weight do to them.

What the rules do to the rows of a weight W they do to the rows of B, where W changes by B A.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from mbuild.convert.lora.settings import LoraConfig
from mbuild.convert.read.dtypes import to_f32
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType
from mbuild.convert.rows.rules import Stacker
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.convert.lora.base import Base


_PROBE = 1_000_003
"""A number of columns that no weight has: a rule that keeps it last has only moved rows."""


class Pair(NamedTuple):
    """The two factors of one weight; for an embedding B A is (width, vocabulary)."""

    a: Lazy
    b: Lazy
    embedding: bool

    @property
    def rank(self) -> int:
        """The inner dimension."""
        return self.b.shape[-1]


def scaled(config: LoraConfig, weight: str, pair: Pair) -> Pair:
    """Put into B what alpha / rank does not say about the scale."""
    module = weight.removesuffix(".weight")
    factor = config.scale(module, pair.rank) * pair.rank / config.written_alpha()
    if math.isclose(factor, 1.0, rel_tol=1e-9):
        return pair
    return Pair(pair.a, _multiplied(pair.b, factor), pair.embedding)


def _multiplied(lazy: Lazy, factor: float) -> Lazy:
    def load() -> Any:
        import numpy as np

        return to_f32(lazy.load(), lazy.dtype) * np.float32(factor)

    return Lazy(DType.F32, lazy.shape, load, lazy.origin)


def by_rules(base: Base, name: str, lazy: Lazy) -> list[tuple[str, Lazy]]:
    """A tensor by the family's rules."""
    for rule in base.row.rules:
        if rule.pattern.search(name):
            items = rule.action(base.hp, name, lazy)
            return [(label, item) for label, item in items if isinstance(item, Lazy)]
    return [(name, lazy)]


def pairs_by_rules(
    base: Base, name: str, pair: Pair, stacks: tuple[Stacker, Stacker]
) -> list[tuple[str, Lazy, Lazy]]:
    """A pair by the family's rules: names, A and B."""
    if pair.embedding:
        return [(name, pair.a, pair.b)]
    if any(rule.pattern.search(name) for rule in base.row.rules):
        return _ruled(base, name, pair)
    a, b = stacks[0].take(name, pair.a), stacks[1].take(name, pair.b)
    if a is None or b is None:
        return [(name, pair.a, pair.b)]
    return [(label, left, right) for (label, left), (_, right) in zip(a, b, strict=True)]


def _ruled(base: Base, name: str, pair: Pair) -> list[tuple[str, Lazy, Lazy]]:
    """A pair whose weight a rule changes: B's rows follow the weight's, A stays.

    Whether the rule only moves rows shows in what it makes of a matrix of the
    same rows and a peculiar number of columns. A weight that is transposed is
    one that GGUF has the way PEFT thinks of it.
    """
    b = pair.b
    probe = Lazy(b.dtype, (b.shape[0], _PROBE), b.load, b.origin)
    try:
        shapes = [item.shape for _, item in by_rules(base, name, probe)]
    except FormatError:
        shapes = []
    if shapes == [(_PROBE, b.shape[0])]:
        return [(name, pair.a, b)]
    if not shapes or any(len(shape) != 2 or shape[1] != _PROBE for shape in shapes):
        moved = _along_both_axes(base, name, pair)
        if moved is not None:
            return moved
        raise UnsupportedError(
            f"the adapter changes {name!r}, which {base.hp.arch} models store in a different form",
            hint="merge the adapter into its base model and build that",
        )
    return [(label, pair.a, item) for label, item in by_rules(base, name, b)]


def _along_both_axes(base: Base, name: str, pair: Pair) -> list[tuple[str, Lazy, Lazy]] | None:
    """A pair whose weight a rule moves by rows and by columns; None if it does anything else.

    What becomes of each row and column shows in what the rule makes of their numbers.
    """
    import numpy as np

    shape = (pair.b.shape[0], pair.a.shape[1])
    try:
        numbered = [
            by_rules(base, name, Lazy(DType.F32, shape, partial(_numbers, shape, axis), "x"))
            for axis in (0, 1)
        ]
        found = []
        for (label, down), (_, across) in zip(*numbered, strict=True):
            row, column = down.load(), across.load()
            whole = row.ndim == 2 and (row == row[:, :1]).all() and (column == column[:1]).all()
            if not whole or down.dtype is not DType.F32:
                return None
            rows, columns = row[:, 0].astype(np.int64), column[0].astype(np.int64)
            b = pair.b.move((len(rows), pair.rank), partial(_taken, rows, 0))
            a = pair.a.move((pair.a.shape[0], len(columns)), partial(_taken, columns, 1))
            found.append((label, a, b))
    except (FormatError, ValueError):
        return None
    return found


def _numbers(shape: tuple[int, int], axis: int) -> Any:
    """A matrix whose values are the numbers of their rows or columns."""
    import numpy as np

    numbers = np.arange(shape[axis], dtype=np.float32)
    return np.broadcast_to(numbers[:, None] if axis == 0 else numbers, shape)


def _taken(index: Any, axis: int, values: Any) -> Any:
    return values.take(index, axis)
