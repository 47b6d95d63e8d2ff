"""What happens to a checkpoint's tensors: renaming, moving, stacking, as table entries.

A row lists :class:`Rule` values; the first whose pattern is found in a tensor's
name decides. A rule gives zero or more tensors under names that the ``gguf``
package's table knows for the architecture. All transforms are lazy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import reduce
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.joining import stack
from mbuild.convert.read.lazy import CONTRADICTS, Lazy, ShapeError
from mbuild.convert.rows.hyper import as_number
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import FrozenValue, NamedTuple, replace

if TYPE_CHECKING:
    import numpy as np

    from mbuild.convert.rows.hyper import Hyper

Named = tuple[str, Lazy]
Action = Callable[["Hyper", str, Lazy], Iterable[Named]]
Change = Callable[["Hyper", Lazy], Lazy]


class Rule(NamedTuple):
    """Tensors whose name matches ``pattern`` (searched) go through ``action``."""

    pattern: re.Pattern[str]
    action: Action


class Stack(FrozenValue):
    """Tensors of one layer that become one tensor with a new first axis.

    Attributes:
        pattern: has the group ``index`` and, where there are several, the
            groups ``layer`` and ``part``.
        parts: the kinds, in the order in which their stacks come out.
        into: the stack's name, with ``{layer}`` and ``{part}``.
        count: how many there are of each kind.
        labels: what ``index`` can be, one letter each, in order, where it is no number; these are
            all, whatever ``count`` says.
        before: what is done to each tensor before.
        change: what is done to a stack.
    """

    pattern: re.Pattern[str]
    parts: tuple[str, ...]
    into: str
    count: Callable[[Hyper], int]
    labels: Callable[[Hyper], str] | None = None
    before: Change | None = None
    change: Change | None = None

    def index(self, hp: Hyper, label: str, origin: str) -> int:
        """The place of a tensor in its stack; raises :class:`FormatError` for a label that it does
        not have."""
        if self.labels is None:
            return int(label)
        if label not in (labels := self.labels(hp)):
            raise FormatError(f"{origin}: {label!r} is none of {', '.join(labels)}")
        return labels.index(label)


class _Asked(dict[str, Any]):
    """A config that notes which of its numbers are asked for."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__(config)
        self.found: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        self.found[name] = value
        return value


def apply_rules(rule: Rule, hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """What a rule makes of a tensor.

    Raises :class:`FormatError` for a shape that contradicts config.json, with the numbers of
    config.json that the rule has asked for.
    """
    try:
        return list(rule.action(hp, name, lazy))
    except FormatError as error:
        if not isinstance(error, ShapeError):
            raise
        asked = _Asked(hp.config)
        with suppress(FormatError):
            list(rule.action(replace(hp, config=asked), name, lazy))
        numbers = ", ".join(f"{key} {str(value)[:20]}" for key, value in asked.found.items())
        raise FormatError(error.message, hint=f"{CONTRADICTS} ({numbers})") from error


def each(pattern: str, change: Change) -> Rule:
    """The same name, other values or another shape."""
    return Rule(re.compile(pattern), lambda hp, name, lazy: [(name, change(hp, lazy))])


def rename(pattern: str, old: str, new: str, change: Change | None = None) -> Rule:
    """Another name, made by replacing ``old``, and perhaps other values."""

    def action(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
        return [(name.replace(old, new), change(hp, lazy) if change else lazy)]

    return Rule(re.compile(pattern), action)


def drop(pattern: str, only_if: Callable[[Hyper, str], bool] | None = None) -> Rule:
    """No tensor; with ``only_if``, otherwise as it is."""

    def action(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
        return [] if only_if is None or only_if(hp, name) else [(name, lazy)]

    return Rule(re.compile(pattern), action)


def parts(
    pattern: str, old: str, new: Sequence[str], change: Callable[[Hyper, Lazy], Sequence[Lazy]]
) -> Rule:
    """Several tensors of one: ``old`` in the name becomes each of ``new`` in turn."""

    def action(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
        pieces = change(hp, lazy)
        return [(name.replace(old, label), piece) for label, piece in zip(new, pieces, strict=True)]

    return Rule(re.compile(pattern), action)


def plus_one(hp: Hyper, lazy: Lazy) -> Lazy:
    """One added, for norms that the model applies as 1 + weight."""

    def change(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return values + values.dtype.type(1)  # type: ignore[no-any-return]

    return lazy.compute(change)


def plus(amount: float) -> Change:
    """A number added, in float32, for norms that the model applies as that number + weight."""
    import numpy as np

    def change(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        total: np.ndarray[Any, Any] = values.astype(np.float32) + np.float32(amount)
        return total.astype(values.dtype)

    return lambda hp, lazy: lazy.compute(change)


def times(lazy: Lazy, factor: float) -> Lazy:
    """Each value times a number, in float32."""
    import numpy as np

    def change(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        product: np.ndarray[Any, Any] = values.astype(np.float32) * np.float32(factor)
        return product.astype(values.dtype)

    return lazy.compute(change)


def scaled(*names: str) -> Change:
    """Values times numbers of config.json, one after the other; ``name.N`` is one of a list."""
    return lambda hp, lazy: reduce(times, (_factor(hp, name) for name in names), lazy)


def _factor(hp: Hyper, name: str) -> float:
    first, _, index = name.partition(".")
    value = hp.value(first)
    if index:
        value = value[int(index)] if isinstance(value, list) and len(value) > int(index) else None
    return as_number(value, name)


def transposed(hp: Hyper, lazy: Lazy) -> Lazy:
    """The last two axes exchanged."""
    axes = list(range(len(lazy.shape)))
    if len(axes) < 2:
        raise FormatError(f"{lazy.origin} has the shape {list(lazy.shape)}; a matrix is needed")
    axes[-2:] = [axes[-1], axes[-2]]
    return lazy.transpose(*axes)


def halves(axis: int) -> Callable[[Hyper, Lazy], list[Lazy]]:
    """The first and the second half of an axis."""

    def change(hp: Hyper, lazy: Lazy) -> list[Lazy]:
        size = lazy.shape[axis] // 2 if len(lazy.shape) >= abs(axis) else 0
        return lazy.split(axis, (size, size))

    return change


def rotary(lazy: Lazy, heads: int) -> Lazy:
    """Rows of each head from Hugging Face's RoPE order (all first halves, then all second
    halves of the pairs) to GGML's (pairs side by side): (h, 2, d/2) becomes (h, d/2, 2).
    """
    rows, rest = lazy.shape[0] if lazy.shape else 0, lazy.shape[1:]
    if rows == 0 or rows % (2 * heads):
        raise ShapeError(
            f"{lazy.origin}: {rows} rows are not {heads} heads of an even width",
            hint=CONTRADICTS,
        )
    pairs = lazy.reshape(heads, 2, rows // heads // 2, *rest)
    return pairs.transpose(0, 2, 1, *range(3, len(pairs.shape))).reshape(*lazy.shape)


def paired(lazy: Lazy, head: int, turned: int) -> Lazy:
    """The first ``turned`` rows of each head of ``head`` rows from pairs side by side to all first
    halves, then all second halves: what multi-axis RoPE of llama.cpp wants."""
    import numpy as np

    rows = lazy.shape[0] if lazy.shape else 0
    if rows == 0 or rows % head or turned % 2 or turned > head:
        raise ShapeError(
            f"{lazy.origin}: {rows} rows are not heads of {head}, {turned} of them turned",
            hint=CONTRADICTS,
        )
    order = np.r_[0:turned:2, 1:turned:2, turned:head]

    heads = lazy.reshape(rows // head, head, *lazy.shape[1:])
    return heads.within(heads.shape, lambda values: values[:, order]).reshape(*lazy.shape)


def regrouped(groups: int, per_group: tuple[int, ...], lazy: Lazy) -> Lazy:
    """Rows from groups of (queries, key, value) to all queries, all keys, all values.

    ``per_group`` counts heads of each kind in one group.
    """
    total = sum(per_group)
    rows = lazy.shape[0] if lazy.shape else 0
    if rows == 0 or rows % (groups * total):
        raise ShapeError(
            f"{lazy.origin}: {rows} rows are not {groups} groups of {total} heads",
            hint=CONTRADICTS,
        )
    bounds = [sum(per_group[:i]) for i in range(len(per_group) + 1)]
    order = [
        group * total + head
        for start, stop in pairwise(bounds)
        for group in range(groups)
        for head in range(start, stop)
    ]
    return lazy.in_order(order, rows // (groups * total))


ROTARY: tuple[Rule, ...] = (
    each(r"q_proj\.(weight|bias)$", lambda hp, lazy: rotary(lazy, hp.heads)),
    each(r"k_proj\.(weight|bias)$", lambda hp, lazy: rotary(lazy, hp.kv_heads)),
)
"""The RoPE permutation of separate query and key projections."""

ROTARY_WEIGHTS: tuple[Rule, ...] = (
    each(r"q_proj\.weight$", lambda hp, lazy: rotary(lazy, hp.heads)),
    each(r"k_proj\.weight$", lambda hp, lazy: rotary(lazy, hp.kv_heads)),
)
"""The same for families whose biases llama.cpp leaves in their order."""

NORM_PLUS_ONE = each(r"norm\.weight$", plus_one)


def experts(hp: Hyper) -> int:
    """The number of experts."""
    return hp.integer("num_local_experts", "num_experts", "n_routed_experts", low=1)


EXPERTS = Stack(
    regex(
        r"layers\.(?P<layer>\d+)\.mlp\.experts\.(?P<index>\d+)\."
        r"(?P<part>down_proj|gate_proj|up_proj)\.weight$"
    ),
    ("down_proj", "gate_proj", "up_proj"),
    "model.layers.{layer}.mlp.experts.{part}.weight",
    experts,
)
"""The experts of Qwen, DeepSeek and OLMoE, one tensor each."""

MIXTRAL_EXPERTS = Stack(
    regex(
        r"layers\.(?P<layer>\d+)\.block_sparse_moe\.experts\.(?P<index>\d+)\."
        r"(?P<part>w1|w2|w3)\.weight$"
    ),
    ("w1", "w2", "w3"),
    "layers.{layer}.feed_forward.experts.{part}.weight",
    experts,
)


class Stacker:
    """Collects the tensors of a row's stacks; a stack comes out when its last tensor came in."""

    def __init__(self, stacks: Sequence[Stack], hp: Hyper) -> None:
        self._stacks, self._hp = tuple(stacks), hp
        self._waiting: dict[tuple[int, str], dict[tuple[str, int], Lazy]] = {}

    def take(self, name: str, lazy: Lazy) -> list[Named] | None:
        """The stacks that are complete now, or None if the tensor is no part of any."""
        for number, spec in enumerate(self._stacks):
            match = spec.pattern.search(name)
            if match is None:
                continue
            count = spec.count(self._hp)
            groups = match.groupdict()
            part = groups.get("part", spec.parts[0])
            index = spec.index(self._hp, groups["index"], lazy.origin)
            if index >= count:
                raise FormatError(
                    f"{lazy.origin}: number {index} (from 0), but config.json has {count}",
                    hint="correct the number of experts in config.json",
                )
            layer = groups.get("layer", "")
            waiting = self._waiting.setdefault((number, layer), {})
            waiting[part, index] = spec.before(self._hp, lazy) if spec.before else lazy
            if len(waiting) < count * len(spec.parts):
                return []
            del self._waiting[number, layer]
            return [
                self._stacked(spec, layer, label, [waiting[label, i] for i in range(count)])
                for label in spec.parts
            ]
        return None

    def _stacked(self, spec: Stack, layer: str, part: str, tensors: Sequence[Lazy]) -> Named:
        stacked = stack(tensors)
        changed = spec.change(self._hp, stacked) if spec.change else stacked
        return spec.into.format(layer=layer, part=part), changed

    def finish(self) -> None:
        """Raise :class:`FormatError` if a stack lacks tensors."""
        for (number, layer), waiting in self._waiting.items():
            spec = self._stacks[number]
            count = spec.count(self._hp)
            missing = next(
                (part, i) for part in spec.parts for i in range(count) if (part, i) not in waiting
            )
            raise FormatError(
                f"layer {layer} has no {missing[0]} number {missing[1]} of {count}",
                hint="a shard is missing, or config.json belongs to another checkpoint",
            )
