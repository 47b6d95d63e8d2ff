"""What FROM, ADAPTER and DRAFT mean once resolved: values, with no access to the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mbuild.digest import Digest
from mbuild.names import ModelName
from mbuild.store import Manifest


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What identifies a file's content as long as nobody touches it."""

    device: int
    inode: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A regular file that the user named.

    ``name`` is for messages and for the manifest, ``path`` is what to open.
    ``digest`` is None until somebody has read the file.
    """

    name: str
    path: Path
    stamp: FileStamp
    digest: Digest | None


@dataclass(frozen=True, slots=True)
class StoredModel:
    """FROM a model of the store."""

    name: ModelName
    id: Digest
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class GGUFSource:
    """FROM, ADAPTER or DRAFT GGUF: one file, or all shards of a split one, in order."""

    files: tuple[SourceFile, ...]


@dataclass(frozen=True, slots=True)
class GGUFDirectory:
    """FROM a directory with GGUF files: the model and its projectors."""

    model: GGUFSource
    projectors: tuple[GGUFSource, ...]


@dataclass(frozen=True, slots=True)
class CheckpointSource:
    """FROM or ADAPTER a directory with safetensors: plain relative names to files."""

    name: str
    files: Mapping[str, SourceFile]


ModelSource = StoredModel | GGUFSource | GGUFDirectory | CheckpointSource
AdapterSource = GGUFSource | CheckpointSource
