"""Splitting a model into several files, as llama.cpp's converter does with a small first shard.

That is ``--split-max-size`` with ``--no-tensor-first-split`` (gguf-py's ``GGUFWriter``). The
first shard holds all metadata, the others tensors and nothing that depends on the metadata
but the alignment: a new chat template or key changes the first shard alone, and where a
model is cut depends on its tensors only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mbuild.core.errors import UsageError
from mbuild.core.patterns import regex
from mbuild.gguf.model import KV, MetadataEntry, Model, Tensor
from mbuild.gguf.shards import COUNT, NO, SPLIT_KEYS, TENSORS_COUNT
from mbuild.gguf.types import ValueType

MAX_SHARDS = 1024
"""Shards of one model; Ollama 0.35 takes no more."""

_ALIGNMENT = "general.alignment"
_LAYER = regex(r"(?:^|.*\.)blk\.(\d+)\.")


def by_size(tensors: Sequence[Tensor], most: int) -> tuple[int, ...]:
    """How many tensors each shard has, the empty first one included: at most ``most`` bytes.

    Only the bytes of tensors count, as in llama.cpp: headers, and what fills tensors up to the
    alignment, come on top. A tensor that is larger by itself has a shard of its own.
    """
    counts = [0, 0]
    filled = 0
    for tensor in tensors:
        if counts[-1] and filled + tensor.nbytes > most:
            counts.append(0)
            filled = 0
        counts[-1] += 1
        filled += tensor.nbytes
    return _checked(counts, "choose a larger SIZE")


def by_layers(tensors: Sequence[Tensor], most: int) -> tuple[int, ...]:
    """How many tensors each shard has, the empty first one included: at most ``most`` new layers.

    The tensors stay in their order. What belongs to no layer goes with its neighbours before
    it, and a layer that a checkpoint's files divide stays divided.
    """
    counts = [0, 0]
    seen: set[str] = set()
    new = 0
    for tensor in tensors:
        found = _LAYER.match(tensor.name)
        layer = tensor.name[: found.end()] if found else ""
        if layer and layer not in seen:
            if new == most:
                counts.append(0)
                new = 0
            seen.add(layer)
            new += 1
        counts[-1] += 1
    return _checked(counts, "choose a larger N")


def _checked(counts: Sequence[int], hint: str) -> tuple[int, ...]:
    if len(counts) > MAX_SHARDS:
        raise UsageError(
            f"the model would have {len(counts)} shards; Ollama takes at most {MAX_SHARDS}",
            hint=hint,
        )
    return tuple(counts)


def split(model: Model, counts: Sequence[int]) -> tuple[Model, ...]:
    """The shards of a model, of which each has so many of its tensors, in their order.

    ``split.*`` keys stand behind the metadata in the order in which gguf-py writes them. An
    alignment other than GGUF's own stands in every shard: each file is laid out by itself.
    """
    found = list(_shards(model, counts))
    assert sum(counts) == len(model.tensors)
    return tuple(found)


def _shards(model: Model, counts: Sequence[int]) -> Iterator[Model]:
    kept = tuple(entry for entry in model.metadata if entry.key not in SPLIT_KEYS)
    common = tuple(entry for entry in kept if entry.key == _ALIGNMENT)
    start = 0
    for number, count in enumerate(counts):
        own = _own(number, len(counts), len(model.tensors))
        tensors = model.tensors[start : start + count]
        yield Model((*(common if number else kept), *own), tensors)
        start += count


def _own(number: int, shards: int, tensors: int) -> tuple[MetadataEntry, ...]:
    return (
        KV(NO, ValueType.UINT16, number),
        KV(COUNT, ValueType.UINT16, shards),
        KV(TENSORS_COUNT, ValueType.INT32, tensors),
    )
