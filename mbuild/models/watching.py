"""Which checkpoints of a training run are finished: what trainers write, looked at again and again.

A trainer of transformers writes the weights of ``checkpoint-500`` first, its own state after them,
and ``trainer_state.json`` last (``Trainer._save_checkpoint``). A checkpoint counts as finished
when that file is there and whole, when every file of weights is there and as long as its header
says, and when nothing in the folder changed between two looks.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple

LAST_FILE = "trainer_state.json"
PATTERN = "checkpoint-*"

_WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
_PICKLED = ("pytorch_model.bin", "adapter_model.bin")
_INDEX = ".index.json"
_MOST_JSON = 64 << 20
_MOST_HEADER = 100 << 20
"""Bytes of a safetensors header: the format's own limit."""
_NUMBER = regex(r"\d+")

Stamp = tuple[tuple[str, int, int], ...]
"""Every file of a folder with its size and the time of its last change."""


class TrainedCheckpoint(NamedTuple):
    """A folder of a training run, and what its files looked like."""

    path: Path
    stamp: Stamp

    @property
    def name(self) -> str:
        """The folder's name, which becomes the model's tag."""
        return self.path.name

    @property
    def changed_ns(self) -> int:
        """When a file of it changed last, in nanoseconds since 1970."""
        return max((changed for _, _, changed in self.stamp), default=0)


def look(folder: Path, pattern: str = PATTERN) -> list[TrainedCheckpoint]:
    """The checkpoints in a folder, by their numbers; raises OSError where it cannot be listed."""
    names = [name for name in os.listdir(folder) if fnmatchcase(name, pattern)]
    found = []
    for name in sorted(names, key=_order):
        if (folder / name).is_dir():
            found.append(TrainedCheckpoint(folder / name, stamp_of(folder / name)))
    return found


def _order(name: str) -> tuple[list[int], str]:
    return [int(digits) for digits in _NUMBER.findall(name)], name


def stamp_of(folder: Path) -> Stamp:
    """What the files of a folder look like now; those that go away meanwhile are left out."""
    rows = []
    with suppress(OSError):
        for entry in os.scandir(folder):
            with suppress(OSError):
                info = entry.stat()
                rows.append((entry.name, info.st_size, info.st_mtime_ns))
    return tuple(sorted(rows))


def unfinished(checkpoint: TrainedCheckpoint, last_file: str = LAST_FILE) -> str:
    """What a checkpoint still lacks, in words; "" for one that is whole."""
    path = checkpoint.path
    if last_file and not (path / last_file).is_file():
        return f"{last_file} is not there yet"
    if last_file.endswith(".json") and _json(path / last_file) is None:
        return f"{last_file} is not whole yet"
    weights = list(_weights(path))
    if not weights:
        return "there are no weights yet"
    for name in weights:
        if not (path / name).is_file():
            return f"{name} is not there yet"
        if name.endswith(_INDEX):
            return f"{name} is not whole yet"
        if name.endswith(".safetensors") and not is_whole(path / name):
            return f"{name} is not whole yet"
    return ""


def _weights(folder: Path) -> Iterator[str]:
    """The files of weights that there have to be: those of an index, else the one file."""
    for name in (*_WEIGHTS, *_PICKLED):
        index = folder / f"{name}{_INDEX}"
        if index.exists():
            value = _json(index)
            shards = value.get("weight_map") if value is not None else None
            if not isinstance(shards, dict) or not shards:
                yield index.name  # half written: it does not say which files there are
                return
            yield from sorted({Path(str(shard)).name for shard in shards.values()})
            return
        if (folder / name).exists():
            yield name
            return


def is_whole(path: Path) -> bool:
    """Whether a safetensors file is as long as its header says: eight bytes, header, tensors."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _MOST_HEADER):
                return False
            header = json.loads(file.read(length))
            ends = [row["data_offsets"][1] for key, row in header.items() if key != "__metadata__"]
            return bool(8 + length + max(ends, default=0) == size)
    except (OSError, ValueError, KeyError, TypeError, IndexError, struct.error, AttributeError):
        return False


def _json(path: Path) -> dict[str, Any] | None:
    """A small JSON object; None for what is none, or not yet."""
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_MOST_JSON))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
