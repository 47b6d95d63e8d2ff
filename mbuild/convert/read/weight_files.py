"""Which files of a checkpoint hold its weights: an index's, those of usual names, the only ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.files import CheckpointFiles, parse_object
from mbuild.convert.read.safetensors import read_header
from mbuild.core.errors import FormatError, SourceError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from mbuild.convert.read.safetensors import StoredTensor
    from mbuild.gguf.files import Seen

INDEX_LIMIT = 100 << 20
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
"""Those of usual names: of safetensors, and of pickled weights."""

PICKLED = regex(r"^(?:pytorch_model|consolidated|model|adapter_model).*\.(?:bin|pth|pt|ckpt)$")
"""The names of pickled weights; a training's other pickles (its arguments, optimizer) are none."""

_PART = regex(r"^(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>\.\w+)$")
_NO_MODEL = regex(r"^(?:adapter_model|adapters|consolidated|optimizer|scheduler|mmproj)")
_AGAIN = "the download is incomplete: download the checkpoint again"
_OTHER_SHARD = "a shard is from another download: download the checkpoint again"
_SHOWN = 3


def is_torch_file(name: str) -> bool:
    """Whether a file of that name in a checkpoint has pickled weights."""
    return PICKLED.match(name) is not None


def read_tensors(path: Path, name: str, seen: Seen | None = None) -> tuple[StoredTensor, ...]:
    """The tensors of one file, of either format, in the order in which it has them.

    Raises what :func:`mbuild.convert.read.safetensors.read_header` and
    :func:`mbuild.convert.read.torch_files.read_torch_file` do.
    """
    if not is_torch_file(name):
        return read_header(path, name, seen)
    from mbuild.convert.read.torch_files import read_torch_file  # and what reads pickles

    return read_torch_file(path, name, seen)


class WeightFiles:
    """The files with weights, and what an index promises of them.

    Raises :class:`SourceError` for files that are missing, :class:`FormatError` for an index that
    is none.
    """

    def __init__(self, name: str, files: Mapping[str, Path], small: CheckpointFiles) -> None:
        self.index = _index_name(files)
        self._promised = _promised(self.index, files, small) if self.index else {}
        self.names: Sequence[str] = sorted({*self._promised.values()}) or _found(name, files)

    def check(self, found: Mapping[str, Any]) -> None:
        """Raise :class:`FormatError` unless the tensors are those that the index promises.

        ``found`` has them by their names, with the :attr:`shard` that each is in.
        """
        promised = self._promised
        missing = sorted(promised.keys() - found.keys())
        if missing:
            raise FormatError(
                f"tensor {missing[0]!r} is not in {promised[missing[0]]}, where {self.index} has"
                " it" + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""),
                hint=_OTHER_SHARD,
            )
        extra = sorted(found.keys() - promised.keys()) if promised else []
        if extra:
            raise FormatError(
                f"{found[extra[0]].shard.name} has the tensor {extra[0]!r}, which {self.index} does"
                " not name",
                hint=_OTHER_SHARD,
            )


def _index_name(files: Mapping[str, Path]) -> str:
    """The index that counts; that of pickled weights only where there are no others."""
    plain = [file for file in sorted(files) if "/" not in file]
    others = [f for f in plain if f.endswith(".safetensors.index.json") and f not in INDEXES]
    usual, pickled = INDEXES
    if usual in plain:
        return usual
    has_safetensors = any(f.endswith(".safetensors") and not _NO_MODEL.match(f) for f in plain)
    if len(others) == 1 and not any(f.startswith("model") for f in others):
        return others[0]
    return pickled if pickled in plain and not has_safetensors else ""


def _promised(index: str, files: Mapping[str, Path], small: CheckpointFiles) -> dict[str, str]:
    """The index's map from tensors to shards."""
    promised = parse_object(small.read(index, INDEX_LIMIT), index).get("weight_map")
    if not isinstance(promised, dict) or not promised:
        raise FormatError(f"{index} has no weight_map")
    for shard in {*_texts(promised.values(), index)}:
        pickled = index.endswith(".bin.index.json")
        good = is_torch_file(shard) if pickled else shard.endswith(".safetensors")
        if not good or "/" in shard or "\\" in shard or "\0" in shard:
            raise FormatError(
                f"{index} names the file {shard[:100]!r}, which is not a plain file name"
            )
        if shard not in files:
            raise SourceError(f"{shard}, which {index} names, is not there", hint=_AGAIN)
    return promised


def _texts(values: Iterable[Any], index: str) -> Iterable[str]:
    for value in values:
        if not isinstance(value, str):
            raise FormatError(f"{index}: weight_map has a value that is not a file name")
        yield value


def _found(name: str, files: Mapping[str, Path]) -> list[str]:
    """The shards of a checkpoint without an index."""
    plain = [file for file in sorted(files) if "/" not in file]
    tensors = [f for f in plain if f.endswith(".safetensors")]
    pickled = [f for f in plain if is_torch_file(f) and not _NO_MODEL.match(f)]
    usual = [f for f in tensors if f.startswith("model")]
    others = [f for f in tensors if not _NO_MODEL.match(f)]
    pickles = [f for f in pickled if f.startswith("pytorch_model") and f.endswith(".bin")]
    shards = usual or _alone(others, name) or pickles or _alone(pickled, name)
    if shards:
        _check_parts(shards, files)
        return shards
    hint = "it is an adapter: name it with ADAPTER" if "adapter_config.json" in files else ""
    raise SourceError(f"{name} has no model*.safetensors", hint=hint)


def _alone(names: list[str], folder: str) -> list[str]:
    """Files of other names, if they are one model: one file, or the parts of one."""
    stems = {match["stem"] if (match := _PART.match(file)) else file for file in names}
    if len(stems) > 1:
        shown = ", ".join(names[:_SHOWN]) + (" and others" if len(names) > _SHOWN else "")
        raise SourceError(
            f"{folder} holds weights in several files, none of them model*.safetensors: {shown}",
            hint="keep one of them in the folder, or name the one that is the model"
            " model.safetensors",
        )
    return names


def _check_parts(shards: Iterable[str], files: Mapping[str, Path]) -> None:
    for shard in shards:
        match = _PART.match(shard)
        if match is None:
            continue
        for number in range(1, int(match["count"]) + 1):
            part = f"{match['stem']}-{number:05d}-of-{match['count']}{match['end']}"
            if part not in files:
                raise SourceError(f"{part} is not there", hint=_AGAIN)
