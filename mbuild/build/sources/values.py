"""What FROM, ADAPTER and DRAFT mean once resolved: values, with no access to the disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.names import ModelName
from mbuild.store import Manifest


class FileStamp(NamedTuple):
    """What identifies a file's content as long as nobody touches it.

    ``ctime_ns`` is None for a blob of the store: its name vouches for its content,
    and mbuild itself moves its change time by linking it.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int | None

    @classmethod
    def of(cls, info: os.stat_result, *, is_blob: bool = False) -> FileStamp:
        """The stamp of a file with that ``stat``."""
        ctime_ns = None if is_blob else info.st_ctime_ns
        return cls(info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, ctime_ns)

    def fits(self, info: os.stat_result) -> bool:
        """Whether a file with that ``stat`` is the same, untouched."""
        return FileStamp.of(info, is_blob=self.ctime_ns is None) == self


class Material(NamedTuple):
    """A file, a folder, or a model of the store that a step is made from.

    ``name`` is what it is called, ``place`` its whole path, empty for a model, and
    ``size`` the bytes of it that count.
    """

    name: str
    place: str
    size: int


def digest_algorithm(name: str) -> str:
    """Which digest a user's file is known by.

    Safetensors files are only read, never stored, and are large: BLAKE3 takes a third of
    the time of SHA-256, or a tenth on a processor without instructions for that. All
    others by SHA-256, which names them in the store.
    """
    return BLAKE3 if name.lower().endswith(".safetensors") else "sha256"


class SourceFile(NamedTuple):
    """A regular file that the user named.

    ``name`` is for messages and for the manifest, ``path`` is what to open.
    ``digest`` is None until somebody has read the file.
    """

    name: str
    path: Path
    stamp: FileStamp
    digest: Digest | None

    @property
    def material(self) -> Material:
        """The file as what a step is made from."""
        return Material(self.name, str(self.path.absolute()), self.stamp.size)


class StoredModel(NamedTuple):
    """FROM a model of the store."""

    name: ModelName
    id: Digest
    manifest: Manifest


class GGUFSource(NamedTuple):
    """FROM, ADAPTER or DRAFT GGUF: one file, or all shards of a split one, in order."""

    files: tuple[SourceFile, ...]


class GGUFDirectory(NamedTuple):
    """FROM a directory with GGUF files: the model and its projectors."""

    model: GGUFSource
    projectors: tuple[GGUFSource, ...]


class CheckpointSource(NamedTuple):
    """FROM, ADAPTER or DRAFT a directory with safetensors: plain relative names to files."""

    name: str
    files: Mapping[str, SourceFile]

    @property
    def material(self) -> Material:
        """The folder as what a step is made from."""
        place = next((str(file.path.parent.absolute()) for file in self.files.values()), "")
        return Material(self.name, place, sum(file.stamp.size for file in self.files.values()))


ModelSource = StoredModel | GGUFSource | GGUFDirectory | CheckpointSource
AdapterSource = GGUFSource | CheckpointSource
DraftSource = GGUFSource | CheckpointSource
