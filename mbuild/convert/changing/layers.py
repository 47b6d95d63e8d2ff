"""Layers taken out, as llama-quantize's ``--prune-layers`` does: the others are counted anew."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from mbuild.core.errors import UsageError
from mbuild.core.patterns import regex
from mbuild.core.values import replace
from mbuild.gguf.model import KV, MetadataEntry, Model, Tensor
from mbuild.gguf.types import ValueType

_BLOCK = regex(r"(enc\.|dec\.)?blk\.([0-9]+)\.")


def drop_layers(model: Model, layers: Sequence[int], said: str = "DROP LAYER") -> Model:
    """The model without some of its layers, which are counted from 0; ``said`` is who asks.

    ``block_count`` is what is left, and lists with one item for each layer lose those of the
    layers (llama-quantize leaves them as they are, and such a model does not load). Raises
    :class:`UsageError` for layers that the model does not have.
    """
    arch = model.read("general.architecture")
    count = model.read(f"{arch}.block_count")
    if not isinstance(count, int) or isinstance(count, bool):
        raise UsageError(f"{said}: the model does not say how many layers it has")
    missing = [layer for layer in layers if layer >= count]
    if missing or len(set(layers)) >= count:
        raise UsageError(
            f"{said} {missing[0] if missing else ' '.join(map(str, layers))}: the model has"
            f" {count} layers, 0 to {count - 1}",
            hint="at least one has to stay",
        )
    dropped = set(layers)
    left = [layer for layer in range(count) if layer not in dropped]
    number = {old: new for new, old in enumerate(left)}
    tensors: list[Tensor] = []
    shards: list[int] = []
    begins = set(accumulate(model.shards, initial=0))
    for place, tensor in enumerate(model.tensors):
        if place in begins:
            shards.append(0)
        match = _BLOCK.match(tensor.name)
        if match is not None:
            if int(match[2]) not in number:
                continue
            name = f"{match[1] or ''}blk.{number[int(match[2])]}.{tensor.name[match.end() :]}"
            tensor = replace(tensor, name=name)
        tensors.append(tensor)
        shards[-1] += 1
    metadata = tuple(_counted(entry, f"{arch}.", count, left) for entry in model.metadata)
    kept = tuple(each for each in shards if each) if model.shards else ()
    return Model(metadata, tuple(tensors), kept)


def _counted(entry: MetadataEntry, prefix: str, count: int, left: Sequence[int]) -> MetadataEntry:
    if entry.key == f"{prefix}block_count":
        return KV(entry.key, entry.type, len(left))
    if entry.type is not ValueType.ARRAY or not entry.key.startswith(prefix):
        return entry
    items = entry.value
    if len(items) != count:
        return entry
    return KV(entry.key, entry.type, [items[layer] for layer in left], entry.element)
