"""Weights that lie in one GGUF file or in the shards of a split one, looked at as one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.gguf.shards import in_order, own_keys

if TYPE_CHECKING:
    from mbuild.gguf.model import RawKV
    from mbuild.gguf.reader import GGUFFile, TensorInfo


class Weights:
    """The headers of one file or of all shards, open; values and tensors stay in the files.

    ``kvs`` are the model's metadata without what is about the split, ``tensors`` those of all
    files in order, each with its offset in its own file. Raises :class:`FormatError` for
    files that are not the shards of one model, as :func:`mbuild.gguf.shards.merge` does.
    """

    def __init__(self, files: Sequence[GGUFFile]) -> None:
        self.files: tuple[GGUFFile, ...] = tuple(in_order(files))
        first = self.files[0]
        own = own_keys(first) if len(self.files) > 1 else ()
        self.kvs: Mapping[str, RawKV] = {k: kv for k, kv in first.kvs.items() if k not in own}
        self.tensors: tuple[TensorInfo, ...] = tuple(t for file in self.files for t in file.tensors)
        self._homes = {t.name: n for n, file in enumerate(self.files) for t in file.tensors}

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key, read and decoded now, or ``default``."""
        entry = self.kvs.get(key)
        return default if entry is None else entry.value

    def shard(self, tensor: TensorInfo) -> int:
        """In which of the files a tensor lies, from 0."""
        return self._homes[tensor.name]

    def read(self, tensor: TensorInfo, start: int, size: int) -> bytes:
        """Some bytes of a tensor; raises :class:`FormatError` if the file changed."""
        return self.files[self.shard(tensor)].file.read(tensor.offset + start, size)
