"""Weights that lie in one GGUF file or in the shards of a split one, looked at as one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import MissingFileError
from mbuild.core.system import allow_open_files
from mbuild.gguf.reader import open_gguf
from mbuild.gguf.shards import in_order, merge, missing_shards, own_keys, parse_shard_name

if TYPE_CHECKING:
    from mbuild.gguf.model import Model, RawKV
    from mbuild.gguf.reader import GGUFFile, TensorInfo


class GGUFWeights:
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

    def model(self) -> Model:
        """The model, whose tensors are read on demand."""
        return merge(self.files) if len(self.files) > 1 else self.files[0].model()


@contextmanager
def open_weights(paths: Sequence[Path], names: Sequence[str]) -> Iterator[GGUFWeights]:
    """The files of one model, open; ``names`` are what errors call them.

    Raises as :func:`mbuild.gguf.reader.open_gguf` and :class:`GGUFWeights` do.
    """
    allow_open_files(len(paths))
    with ExitStack() as stack:
        pairs = zip(paths, names, strict=True)
        yield GGUFWeights([stack.enter_context(open_gguf(path, name=name)) for path, name in pairs])


def paths_of(path: Path) -> tuple[Path, ...]:
    """A file, or where it is called like a shard all shards of its model.

    Raises :class:`MissingFileError` naming those that do not lie beside it.
    """
    shard = parse_shard_name(path.name)
    if shard is None:
        return (path,)
    missing = missing_shards(
        shard, [name for name in shard.siblings if (path.parent / name).exists()]
    )
    if missing and path.exists():
        raise MissingFileError(
            f"{path}: {len(missing)} of {shard.count} shards are missing: {', '.join(missing[:3])}",
            hint="download or copy all shards into one folder",
        )
    return (path,) if missing else tuple(path.parent / name for name in shard.siblings)
