"""The user's disk: names in a Modelfile lead to paths, folders and blobs of the store."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.build.sources.files import Files, Found
from mbuild.build.sources.places import (
    FOLDERS,
    check_inside,
    check_named,
    is_path,
    not_the_first,
    refuse_part,
    shards_missing,
    short,
    unusable,
)
from mbuild.build.sources.values import FileStamp, SourceFile
from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import (
    DamagedError,
    MbuildError,
    MissingFileError,
    NameNotFoundError,
    SourceError,
)
from mbuild.core.names import InvalidNameError
from mbuild.store.copying import check_regular

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mbuild.store import Store


class Folder:
    """The files of one folder of the disk.

    ``value`` is what messages call it. ``guarded``: it was named as a whole, by whoever may
    not have made it, so that links in it must not lead just anywhere.
    """

    def __init__(self, path: Path, value: str, store: Store, *, guarded: bool = True) -> None:
        self.path = path
        self.value = value
        self._store = store
        self._guarded = guarded

    @property
    def name(self) -> str:
        """The folder's own name, wherever links lead."""
        return Path(os.path.realpath(self.path)).name

    def names(self) -> list[str]:
        """What lies there, sorted, and behind it what lies in the folders of a checkpoint."""
        try:
            names = sorted(os.listdir(self.path))
            for name in [name for name in names if name.endswith(FOLDERS)]:
                if (self.path / name).is_dir():
                    names += sorted(f"{name}/{inner}" for inner in os.listdir(self.path / name))
        except OSError as error:
            raise SourceError(f"{self.value}: {error.strerror}") from None
        return names

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.path / name).exists()

    def file(self, name: str) -> SourceFile:
        """A file, with its remembered digest; raises :class:`SourceError`."""
        if self._guarded:
            check_inside(self.path, name, self.value)
        return local_file(self.path / name, name, self._store)


def local_file(path: Path, name: str, store: Store) -> SourceFile:
    """A file of the disk, with the digest that is remembered or, of a blob, in its name."""
    try:
        info = path.stat()
    except OSError as error:
        raise SourceError(f"{name}: {error.strerror}") from None
    check_regular(info, name)
    own = store.blobs.named(path, info)
    if own is not None:
        stamp = FileStamp.of(info, is_blob=True)
        return SourceFile(name, path, stamp, store.files.alias(own), own)
    file = SourceFile(name, path, FileStamp.of(info), None)
    known = store.files.file_digest(info)
    if known is None:
        return file
    file = file.known_by(known)
    # Before the store knew files by BLAKE3 it remembered their SHA-256.
    return file if file.digest else file._replace(digest=store.files.alias(known))


def stored_blob(path: Path, name: str, digest: Digest, store: Store) -> SourceFile:
    """A blob of the store as a file; raises OSError when it is not there."""
    stamp = FileStamp.of(path.stat(), is_blob=True)
    return SourceFile(name, path, stamp, store.files.alias(digest), digest)


def moved(path: Path, folder: Path, elsewhere: Path) -> Path:
    """Where a path leads once all that is not in ``folder`` was brought to ``elsewhere``."""
    plain = Path(os.path.normpath(path.absolute()))
    start = Path(os.path.normpath(folder.absolute()))
    if not plain.is_relative_to(start):
        return elsewhere / plain.name
    return path if os.path.lexists(path) else elsewhere / plain.relative_to(start)


class Disk:
    """What a Modelfile can name: paths against its folder, blobs of the store by digest.

    ``elsewhere`` is where to look for what lies outside of that folder, by the last part of its
    path, and for what is no longer in it.
    """

    def __init__(self, folder: Path, store: Store, elsewhere: Path | None = None) -> None:
        self._folder = folder
        self._store = store
        self._elsewhere = elsewhere

    def find(self, word: str, value: str) -> Found | SourceFile | None:
        """A file, a folder or a blob; None for what may be a stored model."""
        check_named(word, value)
        if (blob := self._blob(word, value)) is not None:
            return blob
        path = self._path(value)
        if "*" in path.name and is_path(value) and not os.path.lexists(path):
            from mbuild.build.sources.folders import fitting

            path = path.with_name(fitting(word, value, path.parent, path.name))
        try:
            info = path.stat()
        except (OSError, ValueError) as error:
            self._refuse_absent(word, value, path, error)
            return None
        if os.path.isdir(path):
            return Found(Folder(path, value, self._store))
        if word == "FROM":
            check_regular(info, value)
        if word != "DRAFT":
            refuse_part(word, value, path)
        return Found(Folder(path.parent, value, self._store, guarded=False), path.name, path.name)

    def _path(self, value: str) -> Path:
        """As Ollama reads paths: ``~`` and ``~user``, absolute, or beside the Modelfile.

        ``@sha256:...`` is a blob of the store, as in a request and in the answer to one.
        """
        try:
            path = self._folder / Path(value).expanduser()
        except (RuntimeError, ValueError):  # no such user
            path = self._folder / value
        if self._elsewhere is not None and is_path(value):
            path = moved(path, self._folder, self._elsewhere)
        if "sha256" not in path.name:
            return path
        from mbuild.build.sources.folders import blob_path

        return blob_path(value, path, self._store)

    def _blob(self, word: str, value: str) -> SourceFile | None:
        """The blob that ``@sha256:...`` names, as the API's ``show`` writes it; None for others."""
        try:
            digest = Digest.parse(value.removeprefix("@"))
        except DigestError:
            if not value.startswith(("@sha256:", "@sha256-")):
                return None
            raise SourceError(
                f"{word} {short(value)} is not a digest", hint="write @sha256: and 64 digits"
            ) from None
        if self._store.blobs.size(digest) is not None:
            path = self._store.blobs.path(digest)
            return stored_blob(path, digest.filename, digest, self._store)
        if not value.startswith("@"):
            return None
        raise MissingFileError(
            f"{word} {value}: the store has no such blob", hint="name the file or the model itself"
        )

    def _refuse_absent(
        self, word: str, value: str, path: Path, error: OSError | ValueError
    ) -> None:
        """Raise for all but what may be a stored model."""
        reason = unusable(path, error) if isinstance(error, OSError) else "not a path"
        if word != "FROM":
            raise MissingFileError(f"{word} {value}: {reason}", hint=self._missing(value, word))
        if isinstance(error, OSError) and (
            os.path.islink(path) or error.errno in (errno.EACCES, errno.ELOOP)
        ):
            raise SourceError(f"FROM {value}: {reason}")
        if is_path(value):
            raise MissingFileError(
                f"FROM {value}: no such file or directory", hint=self._missing(value)
            )

    def _missing(self, value: str, word: str = "FROM") -> str:
        """What to do about a path that leads nowhere."""
        from mbuild.lint.remedies import missing

        return missing(self._folder, value, word)

    def nothing_in(self, word: str, value: str, files: Files) -> MbuildError:
        """That a folder holds nothing that the instruction can mean, and where it is instead."""
        from mbuild.lint.remedies import inside

        there = inside(self._path(value), value, word)
        if word in ("ADAPTER", "MERGE"):
            return SourceError(
                f"{word} {value}: no adapter in that directory",
                hint=there
                or "it needs a .gguf file, or adapter_config.json with adapter_model.safetensors",
            )
        return SourceError(
            f"{word} {value}: no model in that directory",
            hint=there or "it needs a .gguf file, or config.json with .safetensors files",
        )

    def no_model(self, value: str, error: InvalidNameError | NameNotFoundError) -> MbuildError:
        """That there is neither a stored model nor a file."""
        from mbuild.lint.remedies import obtain, whole_line

        if isinstance(error, InvalidNameError):
            whole = whole_line(value)
            return SourceError(
                f"FROM {short(value)!r} is neither a file nor a model's name",
                hint=whole[1] if whole else error.hint,
            )
        from mbuild.store.absent import about_absent

        count = sum(1 for _ in self._store.manifests.names())
        models = "1 model" if count == 1 else f"{count} models"
        found = about_absent(self._store, value) or f"the store has {models}"
        return NameNotFoundError(
            f"FROM {value}: no such model in the store, and no such file",
            hint=f"{found}{'' if found.endswith('?') else ';'} {obtain(value)}",
        )

    def is_model(self, value: str, word: str = "ADAPTER") -> MbuildError:
        """That FROM is the word for it."""
        return SourceError(
            f"{word} {value}: it is a model, not a LoRA adapter",
            hint=f"use FROM {value} to build from it; an adapter is a folder with"
            " adapter_config.json and adapter_model.safetensors",
        )

    def is_adapter(self, value: str) -> MbuildError:
        """That ADAPTER is the word for it."""
        return SourceError(
            f"FROM {value}: it is a LoRA adapter",
            hint=f"use ADAPTER {value} for it, and FROM for the model that it was trained on",
        )

    def not_the_first(self, name: str, first: str, count: int) -> MbuildError:
        """That the first shard is the one to name."""
        return not_the_first(name, count, f"name {first}")

    def shards_missing(self, shown: str, missing: Sequence[str], count: int) -> MbuildError:
        """That all shards have to lie in one folder."""
        hint = "download or copy all shards into one folder"
        return shards_missing(shown, missing, count, hint)

    def lost_blob(self, value: str, digest: Digest) -> MbuildError:
        """That the stored model is not whole."""
        return DamagedError(
            f"FROM {value}: blob {digest} of that model is missing or damaged",
            hint="build or pull that model again",
        )
