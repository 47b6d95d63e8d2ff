"""Sets of shards that are no model: what is wrong with each, and what has to be said of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gguf_files import gguf_bytes, tiny_gguf, tiny_shards

from mbuild.gguf.model import KV, Model
from mbuild.gguf.reader import open_gguf
from mbuild.gguf.types import ValueType


def shards(folder: Path) -> list[Path]:
    """A good set."""
    return tiny_shards(folder, "x", [2, 1, 2])


def changed(path: Path, tensors: Any = None, **values: Any) -> None:
    """Write a shard anew with other ``split`` values or tensors."""
    with open_gguf(path) as file:
        model = file.model()
        new = {f"split.{key}": value for key, value in values.items()}
        entries = tuple(
            KV(kv.key, ValueType.UINT64, new[kv.key]) if kv.key in new else kv
            for kv in model.metadata
        )
        data = gguf_bytes(Model(entries, model.tensors if tensors is None else tensors))
    path.write_bytes(data)


def missing(folder: Path) -> None:
    """One was not downloaded."""
    shards(folder)[1].unlink()


def wrong_count(folder: Path) -> None:
    """One says that there are more than there are."""
    changed(shards(folder)[1], count=4)


def mixed(folder: Path) -> None:
    """One is of another model, which was cut elsewhere."""
    other = folder / "other"
    other.mkdir()
    path = tiny_shards(other, "x", [2, 2, 1])[1]
    path.replace(shards(folder)[1])


def twice(folder: Path) -> None:
    """Two have the same tensor."""
    paths = shards(folder)
    with open_gguf(paths[0]) as file:
        tensors = file.model().tensors[:1]
        changed(paths[1], tensors=tensors)


def wrong_names(folder: Path) -> None:
    """Two have each other's name."""
    _, second, third = shards(folder)
    spare = folder / "spare"
    second.rename(spare)
    third.rename(second)
    spare.rename(third)


def too_many(folder: Path) -> None:
    """Each says that there are more than can be counted."""
    for path in shards(folder):
        changed(path, count=1 << 62)


def other_total(folder: Path) -> None:
    """One that was cut short says how many tensors there were."""
    path = shards(folder)[2]
    with open_gguf(path) as file:
        changed(path, tensors=file.model().tensors[:1])


def given_twice(folder: Path) -> None:
    """The first in the place of the second."""
    first, second, _ = shards(folder)
    second.write_bytes(first.read_bytes())


def other_architecture(folder: Path) -> None:
    """One of a model of another family, whose tensors have other names."""
    path = shards(folder)[1]
    with open_gguf(path) as file:
        model = file.model()
        arch = KV("general.architecture", ValueType.STRING, "gpt2")
        entries = (arch, *(kv for kv in model.metadata if kv.key != arch.key))
        data = gguf_bytes(Model(entries, model.tensors))
    path.write_bytes(data)


def no_shard(folder: Path) -> None:
    """A whole model under the name of a shard."""
    tiny_gguf(shards(folder)[1])


def empty(folder: Path) -> None:
    """A download that did not begin."""
    shards(folder)[1].write_bytes(b"")


HOSTILE: list[tuple[Callable[[Path], None], str, str]] = [
    (missing, "1 of 3 shards are missing: x-00002-of-00003.gguf", "all shards"),
    (wrong_count, "x-00002-of-00003.gguf: split.count is 4, but 3 in", "of different models"),
    (mixed, "is also in x-0000", "of different models"),
    (twice, "tensor 'token_embd.weight' is also in x-00001-of-00003.gguf", "different models"),
    (wrong_names, "says shard 3 of 3, the name says 2 of 3", "give the file its original name"),
    (too_many, "x-00001-of-00003.gguf: the metadata says shard 1 of 4611686018427387904", "name"),
    (other_total, "split.tensors.count is 5, but the shards hold 4", "download it again"),
    (given_twice, "says shard 1 of 3, the name says 2 of 3", "give the file its original name"),
    (other_architecture, "general.architecture is gpt2, but llama in", "different models"),
    (no_shard, "x-00002-of-00003.gguf: split.count is None", "the shards of one model"),
    (empty, "x-00002-of-00003.gguf", ""),
]
"""Who makes a set, what names it, and what tells the remedy."""
