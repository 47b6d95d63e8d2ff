"""Two models side by side."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.core.values import NamedTuple
from mbuild.models.compare.sides import Side, SideWeights
from mbuild.models.compare.tensors import TensorDiff, compare_tensors, count_types
from mbuild.store.contents import Contents, shown_value, type_name

if TYPE_CHECKING:
    from mbuild.core.digest import Digest
    from mbuild.gguf.model import RawKV
    from mbuild.store import Layer

    Progress = Callable[[int, int], None]


class ChangedValue(NamedTuple):
    """A value under a key; None on the side that has none."""

    key: str
    old: Any
    new: Any

    def to_json(self) -> dict[str, Any]:
        """As ``mbuild diff --format json`` prints it."""
        return {"key": self.key, "old": self.old, "new": self.new}


class WeightsDiff(NamedTuple):
    """One GGUF file or split model of each side; ``identical``: the same metadata and tensors.

    ``files`` are how many files each side has of it. ``only`` is ``old`` or ``new`` for what
    one side alone has. ``same`` counts tensors without a difference. ``types`` are each
    side's tensors by type.
    """

    kind: str
    identical: bool
    only: str = ""
    metadata: tuple[ChangedValue, ...] = ()
    tensors: tuple[TensorDiff, ...] = ()
    same: int = 0
    types: tuple[Mapping[str, int], Mapping[str, int]] = ({}, {})
    files: tuple[int, int] = (1, 1)

    def to_json(self) -> dict[str, Any]:
        """As ``mbuild diff --format json`` prints it."""
        return {
            "layer": self.kind,
            "identical": self.identical,
            "only": self.only,
            "metadata": [change.to_json() for change in self.metadata],
            "tensors": [tensor.to_json() for tensor in self.tensors],
            "tensors_same": self.same,
            "tensor_types": {"old": dict(self.types[0]), "new": dict(self.types[1])},
            "files": list(self.files),
        }


class ModelDiff(NamedTuple):
    """All differences.

    ``layers`` maps a layer's kind to its digests; ``texts`` holds unified diffs
    of template, system message, licenses and messages.
    """

    old: str
    new: str
    layers: tuple[ChangedValue, ...]
    config: tuple[ChangedValue, ...]
    parameters: tuple[ChangedValue, ...]
    texts: Mapping[str, tuple[str, ...]]
    weights: tuple[WeightsDiff, ...]

    @property
    def differ(self) -> bool:
        """Whether there is any difference."""
        settings = self.layers or self.config or self.parameters or self.texts
        return bool(settings) or any(not weights.identical for weights in self.weights)

    def to_json(self) -> dict[str, Any]:
        """As ``mbuild diff --format json`` prints it."""
        return {
            "old": self.old,
            "new": self.new,
            "differ": self.differ,
            "layers": [_written(change).to_json() for change in self.layers],
            "config": [change.to_json() for change in self.config],
            "parameters": [change.to_json() for change in self.parameters],
            "texts": {name: list(lines) for name, lines in self.texts.items()},
            "weights": [weights.to_json() for weights in self.weights],
        }


def diff(
    old: Side,
    new: Side,
    *,
    values: bool = True,
    progress: Progress = lambda done, total: None,
) -> ModelDiff:
    """Compare two sides; see :func:`compare_tensors` for ``values`` and ``progress``.

    Settings are compared where both sides are models. Raises
    :class:`SourceError` for weights that cannot be read as GGUF.
    """
    kinds = list(dict.fromkeys((*old.weights, *new.weights)))
    weights = tuple(
        _weights(kind, old.weights.get(kind), new.weights.get(kind), values, progress)
        for kind in kinds
    )
    if old.contents is None or new.contents is None:
        return ModelDiff(old.label, new.label, (), (), (), {}, weights)
    a, b = old.contents, new.contents
    return ModelDiff(
        old.label,
        new.label,
        _changes(_layers(a), _layers(b)),
        _changes(a.config, b.config),
        _changes(a.parameters, b.parameters),
        _texts(a, b),
        weights,
    )


def _changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[ChangedValue, ...]:
    keys = sorted(old.keys() | new.keys())
    return tuple(
        ChangedValue(key, old.get(key), new.get(key))
        for key in keys
        if old.get(key) != new.get(key)
    )


def _written(change: ChangedValue) -> ChangedValue:
    """A change of a digest as JSON has it."""
    old, new = (None if digest is None else str(digest) for digest in (change.old, change.new))
    return ChangedValue(change.key, old, new)


def _layers(contents: Contents) -> dict[str, Digest]:
    """Digests by kind; further layers of a kind are numbered."""
    found: dict[str, Digest] = {}
    numbers: dict[str, int] = {}
    layers: Sequence[Layer] = contents.stored.manifest.layers
    for layer in layers:
        number = numbers[layer.kind] = numbers.get(layer.kind, 0) + 1
        found[layer.kind if number == 1 else f"{layer.kind} {number}"] = layer.digest
    return found


def _texts(old: Contents, new: Contents) -> dict[str, tuple[str, ...]]:
    pairs = {
        "template": (old.template, new.template),
        "system": (old.system, new.system),
        "license": ("\n".join(old.licenses), "\n".join(new.licenses)),
        "messages": (_messages(old), _messages(new)),
    }
    return {
        name: tuple(_unified(a.splitlines(), b.splitlines()))
        for name, (a, b) in pairs.items()
        if a != b
    }


def _messages(contents: Contents) -> str:
    return "\n".join(json.dumps(m, ensure_ascii=False) for m in contents.messages)


def _unified(old: list[str], new: list[str]) -> list[str]:
    """Lines of a unified diff without its two file lines; texts that differ in line ends say so."""
    lines = list(difflib.unified_diff(old, new, lineterm=""))[2:]
    return lines or ["(they differ only in their line endings)"]


def _weights(
    kind: str, old: SideWeights | None, new: SideWeights | None, values: bool, progress: Progress
) -> WeightsDiff:
    if old is None or new is None:
        return WeightsDiff(kind, identical=False, only="new" if old is None else "old")
    files = len(old.paths), len(new.paths)
    if old.digests is not None and old.digests == new.digests:
        return WeightsDiff(kind, identical=True, files=files)
    with old.open() as a, new.open() as b:
        metadata = tuple(
            ChangedValue(key, _shown(a.kvs.get(key)), _shown(b.kvs.get(key)))
            for key in dict.fromkeys((*a.kvs, *b.kvs))
            if not _same(a.kvs.get(key), b.kvs.get(key))
        )
        tensors = tuple(compare_tensors(a, b, values=values, progress=progress))
        names = {tensor.name for tensor in a.tensors} | {tensor.name for tensor in b.tensors}
        types = (count_types(a.tensors), count_types(b.tensors))
    identical = values and not metadata and not tensors
    same = len(names) - len(tensors)
    return WeightsDiff(kind, identical, "", metadata, tensors, same, types, files)


def _same(a: RawKV | None, b: RawKV | None) -> bool:
    if a is None or b is None:
        return a is b
    return (a.type, a.element, a.stop - a.start) == (b.type, b.element, b.stop - b.start) and (
        a.raw() == b.raw()
    )


def _shown(entry: RawKV | None) -> dict[str, str] | None:
    return None if entry is None else {"type": type_name(entry), "value": shown_value(entry)}
