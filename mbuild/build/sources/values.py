"""What FROM, ADAPTER and DRAFT mean once resolved: values, with no access to the disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.convert.conversion import TARGET
from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.names import ModelName
from mbuild.core.values import NamedTuple
from mbuild.store import Manifest

if TYPE_CHECKING:
    from mbuild.language.recipe import Recipe
    from mbuild.registry.client.access import Access

README = "README.md"
PROCESSORS = frozenset({"preprocessor_config.json", "processor_config.json"})
"""What decides the projector of a checkpoint and nothing of its text model."""
_WEIGHTS = (".safetensors", ".index.json", ".bin", ".pt", ".pth", ".ckpt")


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
        """Whether a file with that ``stat`` is the same, untouched.

        What was fetched since has its digest for a name, so that its size is enough.
        """
        if self.inode == 0 and self.ctime_ns is None:
            return info.st_size == self.size
        return FileStamp.of(info, is_blob=self.ctime_ns is None) == self


class Material(NamedTuple):
    """A file, a folder, or a stored model that a step is made from.

    ``name`` is what it is called, ``place`` its whole path, empty for a model, and
    ``size`` the bytes of it that count.
    """

    name: str
    place: str
    size: int


class RemotePlace(NamedTuple):
    """Where a file is to be had that need not be on this disk.

    ``source`` is what messages call the whole that it belongs to, such as
    ``hf.co/ORG/REPO@COMMIT``, ``url`` the file's own address, empty for a blob of a registry.
    ``access`` is who may be asked. Without ``keep`` the file is removed after the build.
    ``manifest`` is the id of the registry's model, by its name here, for a lock.
    """

    source: str
    url: str
    access: Access
    keep: bool = True
    manifest: tuple[ModelName, Digest] | None = None


class SourceFile(NamedTuple):
    """A regular file that the user named, or a blob of the store.

    ``name`` is for messages and for the manifest, ``path`` is what to open.
    ``digest`` is the BLAKE3 of the whole file, whoever asks; None until somebody has read
    it. ``sha256`` is its other digest, where that is known: a blob's is its name.
    ``remote`` says where it comes from, if that is another machine.
    """

    name: str
    path: Path
    stamp: FileStamp
    digest: Digest | None
    sha256: Digest | None = None
    remote: RemotePlace | None = None

    @property
    def is_absent(self) -> bool:
        """Whether it is still to be fetched; until then only its size and digest are known."""
        return self.remote is not None and self.stamp.inode == 0

    @property
    def content(self) -> Digest | None:
        """What a key knows a GGUF file by: its BLAKE3, else its SHA-256.

        Only of a blob of the store that nobody has read since mbuild knows the store is the
        SHA-256 all that is known. Bringing it into a model reads none of its weights, and
        must not begin to only for the sake of a key.
        """
        return self.digest or self.sha256

    def known_by(self, digest: Digest) -> SourceFile:
        """The file with a digest that reading it gave."""
        if digest.algorithm == BLAKE3:
            return self._replace(digest=digest)
        return self._replace(sha256=digest)

    @property
    def is_locked_by_sha256(self) -> bool:
        """Whether a lock names the file by SHA-256, as ``sha256sum`` and the store do.

        Safetensors files are large and only ever read: for them the SHA-256 would take three
        times as long as the rest of the reading, or ten times on a processor without
        instructions for it. A lock names them by BLAKE3, and pickled weights too, but for those
        of the Hub, which itself names them by SHA-256.
        """
        weights = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
        return self.remote is not None or not self.name.lower().endswith(weights)

    @property
    def locked(self) -> Digest | None:
        """The digest by which a lock names the file; None while that is not known."""
        return self.sha256 if self.is_locked_by_sha256 else self.digest

    @property
    def material(self) -> Material:
        """The file as what a step is made from."""
        place = self.remote.source if self.remote else str(self.path.absolute())
        return Material(self.name, place, self.stamp.size)

    def learned(self, files: Mapping[str, Digest]) -> SourceFile:
        """The file with its digest, if it is among those that were found, by path."""
        found = files.get(str(self.path))
        return self if found is None else self.known_by(found)


class StoredModel(NamedTuple):
    """FROM a stored model, or one of a registry under the name that it gets in the store.

    ``aliases`` are the BLAKE3 of those layers of weights whose content somebody has read.
    ``remote`` and ``data``, the manifest's bytes, are there while the model is still to be
    fetched; its digests are known. Without ``data`` it is fetched for the build alone: its
    name means another model here, and goes on to.
    """

    name: ModelName
    id: Digest
    manifest: Manifest
    aliases: Mapping[Digest, Digest] = {}
    remote: RemotePlace | None = None
    data: bytes = b""

    def learned(self, files: Mapping[str, Digest]) -> StoredModel:
        """The model itself: its id says all."""
        return self


class GGUFSource(NamedTuple):
    """FROM, ADAPTER or DRAFT GGUF: one file, or all shards of a split one, in order.

    ``keep``: each shard was named by itself, so that each is to be a layer.
    """

    files: tuple[SourceFile, ...]
    keep: bool = False

    def learned(self, files: Mapping[str, Digest]) -> GGUFSource:
        """With the digests that were found, by path."""
        return self._replace(files=tuple(file.learned(files) for file in self.files))


class GGUFDirectory(NamedTuple):
    """FROM a directory with GGUF files: the model and its projectors."""

    model: GGUFSource
    projectors: tuple[GGUFSource, ...]

    def learned(self, files: Mapping[str, Digest]) -> GGUFDirectory:
        """With the digests that were found, by path."""
        projectors = tuple(each.learned(files) for each in self.projectors)
        return GGUFDirectory(self.model.learned(files), projectors)


class CheckpointSource(NamedTuple):
    """FROM, ADAPTER or DRAFT a directory with safetensors: plain relative names to files.

    ``card`` is the SHA-256 of README.md's front matter, if there is a README.md: all of
    that file that a conversion reads, so that its text can be edited without a rebuild.
    ``encoders`` are the names of the files that decide the projector, if there is one to be.
    ``needs_target``: it is a draft that has no tokenizer of its own.
    """

    name: str
    files: Mapping[str, SourceFile]
    card: Digest | None = None
    encoders: tuple[str, ...] = ()
    needs_target: bool = False

    def drafting_for(self, target: CheckpointSource) -> CheckpointSource:
        """A draft with the small files of the model that it drafts for, below ``target/``."""
        small = {
            f"{TARGET}{name}": file
            for name, file in target.whole.items()
            if not name.endswith(_WEIGHTS)
        }
        return self._replace(files={**self.files, **small})

    @property
    def deciding(self) -> Mapping[str, SourceFile]:
        """The files that decide the text model with their whole content."""
        return {name: file for name, file in self.whole.items() if name not in PROCESSORS}

    @property
    def whole(self) -> Mapping[str, SourceFile]:
        """The files that are read as a whole: all but README.md."""
        return {name: file for name, file in self.files.items() if name != README}

    @property
    def seeing(self) -> Mapping[str, SourceFile]:
        """The files that decide the projector."""
        return {name: self.files[name] for name in self.encoders}

    @property
    def material(self) -> Material:
        """The folder as what a step is made from."""
        first = next(iter(self.files.values()), None)
        place = "" if first is None else str(first.path.parent.absolute())
        if first is not None and first.remote is not None:
            place = first.remote.source
        return Material(self.name, place, sum(file.stamp.size for file in self.files.values()))

    def learned(self, files: Mapping[str, Digest]) -> CheckpointSource:
        """The folder with its files' digests, from those that were found by path."""
        known = {name: file.learned(files) for name, file in self.files.items()}
        return self._replace(files=known)


ModelSource = StoredModel | GGUFSource | GGUFDirectory | CheckpointSource
AdapterSource = GGUFSource | CheckpointSource
DraftSource = GGUFSource | CheckpointSource


class Sources(NamedTuple):
    """What the instructions that name files and models mean.

    ``models`` is one stored model, or all the files that FROM lines name
    (a model and its projectors). ``imatrices`` are the importance matrices by their names.
    """

    models: tuple[ModelSource, ...]
    adapters: tuple[AdapterSource, ...] = ()
    drafts: tuple[DraftSource, ...] = ()
    imatrices: Mapping[str, SourceFile] = {}
    changes: tuple[ChangeSource, ...] = ()

    @property
    def base(self) -> StoredModel | None:
        """The stored model that FROM names, if it is one."""
        return next((source for source in self.models if isinstance(source, StoredModel)), None)

    @property
    def files(self) -> list[GGUFSource | CheckpointSource]:
        """The files among the models, weights before projectors."""
        files: list[GGUFSource | CheckpointSource] = []
        for source in self.models:
            if isinstance(source, GGUFDirectory):
                files += (source.model, *source.projectors)
            elif not isinstance(source, StoredModel):
                files.append(source)
        return files

    def learned(self, files: Mapping[str, Digest]) -> Sources:
        """The same with the digests, by path, that a build found by reading."""
        return Sources(
            tuple(source.learned(files) for source in self.models),
            tuple(source.learned(files) for source in self.adapters),
            tuple(source.learned(files) for source in self.drafts),
            {name: file.learned(files) for name, file in self.imatrices.items()},
            tuple(each.learned(files) if each else each for each in self.changes),
        )


class OtherModel(NamedTuple):
    """The model that TAKE names: what it comes to, and all that it names."""

    recipe: Recipe
    sources: Sources

    def learned(self, files: Mapping[str, Digest]) -> OtherModel:
        """As :meth:`Sources.learned`."""
        return self._replace(sources=self.sources.learned(files))


ChangeSource = AdapterSource | OtherModel | None
"""What each change of a recipe names: an adapter, another model, or nothing."""
