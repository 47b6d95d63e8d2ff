"""Manifests on disk: ``manifests/<host>/<namespace>/<model>/<tag>``, replaced in one piece."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from mbuild.digest import Digest
from mbuild.errors import DamagedError, NameNotFoundError, StoreError
from mbuild.names import InvalidNameError, ModelName
from mbuild.store.files import TemporaryFile, make_directories, store_errors, write_all
from mbuild.store.manifest import MAX_MANIFEST_BYTES, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FOLDS_CASE = sys.platform in ("darwin", "win32")
"""Whether file systems here usually take ``A`` and ``a`` for one name."""

_ATTEMPTS = 20  # of writing into a folder that others keep removing


class StoredManifest(NamedTuple):
    """A manifest as it lies on disk; ``id`` is the SHA-256 of the file's bytes.

    ``modified_ns`` is the file's modification time, nanoseconds since 1970.
    """

    name: ModelName
    id: Digest
    manifest: Manifest
    modified_ns: int

    @property
    def size(self) -> int:
        """Bytes of all blobs of the model, as ``ollama list`` counts them."""
        return sum(layer.size for layer in self.manifest.blobs())


class Manifests:
    """The folder ``manifests/`` of a store."""

    def __init__(self, folder: Path, temporary_folder: Path, prepare: Callable[[], None]) -> None:
        self.folder = folder
        self._temporary_folder = temporary_folder
        self._prepare = prepare

    def resolve(self, name: ModelName, *, folds_case: bool = FOLDS_CASE) -> ModelName:
        """The spelling under which a name is stored, or the name itself.

        Names that differ only in case are one model, as in Ollama. Where the file
        system takes them for one, too, a file that is there tells nothing of its spelling.
        """
        if not folds_case and self._path(name).is_file():
            return name
        folder, found = self.folder, []
        for part in name.parts:
            spelling = _spelling_in(folder, part)
            found.append(spelling)
            folder = folder / spelling
        return ModelName(*found)

    def read(self, name: ModelName) -> StoredManifest:
        """The manifest of a model; raises :class:`NameNotFoundError` or :class:`DamagedError`."""
        stored = self.resolve(name)
        data, modified_ns = self._read_file(stored)
        if data is None:
            raise NameNotFoundError(f"model {str(name)!r} not found")
        manifest = Manifest.decode(data, f"the manifest of {stored}")
        return StoredManifest(stored, Digest.of(data), manifest, modified_ns)

    def read_bytes(self, name: ModelName) -> bytes | None:
        """The manifest file's bytes, or None when there is none."""
        return self._read_file(name)[0]

    def write(self, name: ModelName, data: bytes) -> None:
        """Put a manifest in place of any old one: readers see one or the other, whole."""
        self._prepare()
        path = self._path(name)
        with store_errors(f"writing the manifest of {name}"):
            for attempt in range(_ATTEMPTS):
                try:
                    make_directories(path.parent)
                    with TemporaryFile(self._temporary_folder) as file:
                        write_all(file.fd, data)
                        file.publish(path)
                    return
                except FileNotFoundError:
                    # Whoever removed the last model there took the empty folder away.
                    if attempt == _ATTEMPTS - 1:
                        raise

    def remove(self, name: ModelName) -> None:
        """Remove a manifest and the folders that it leaves empty."""
        path = self._path(name)
        with store_errors(f"removing {name}"):
            path.unlink(missing_ok=True)
        for folder in (path.parent, path.parent.parent, path.parent.parent.parent):
            try:
                folder.rmdir()
            except OSError:
                return

    def names(self) -> Iterator[ModelName]:
        """The names of all files that can be manifests, in no particular order."""
        for host in _folders(self.folder):
            for namespace in _folders(host):
                for model in _folders(namespace):
                    for tag in _files(model):
                        with suppress(InvalidNameError):
                            yield _checked(host, namespace, model, tag)

    def _path(self, name: ModelName) -> Path:
        return self.folder.joinpath(*name.parts)

    def _read_file(self, name: ModelName) -> tuple[bytes | None, int]:
        try:
            fd = os.open(self._path(name), os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None, 0
        except OSError as error:
            raise StoreError(f"the manifest of {name} cannot be read: {error.strerror}") from error
        try:
            info = os.fstat(fd)
            return os.read(fd, MAX_MANIFEST_BYTES + 1), info.st_mtime_ns
        except OSError as error:  # a directory where the file should be
            raise DamagedError(f"the manifest of {name}: {error.strerror}") from error
        finally:
            os.close(fd)


def _checked(host: Path, namespace: Path, model: Path, tag: str) -> ModelName:
    name = ModelName(host.name, namespace.name, model.name, tag)
    if ModelName.parse(f"{host.name}/{namespace.name}/{model.name}:{tag}") != name:
        raise InvalidNameError(f"{name} is not a model's name")
    return name


def _spelling_in(folder: Path, part: str) -> str:
    """The entry of a folder that equals ``part`` but for case, or ``part``."""
    with suppress(OSError):
        entries = os.listdir(folder)
        if part not in entries:
            wanted = part.lower()
            return min((e for e in entries if e.lower() == wanted), default=part)
    return part


def _folders(folder: Path) -> Iterator[Path]:
    with suppress(OSError), os.scandir(folder) as entries:
        yield from (folder / entry.name for entry in entries if entry.is_dir())


def _files(folder: Path) -> Iterator[str]:
    with suppress(OSError), os.scandir(folder) as entries:
        yield from (entry.name for entry in entries if entry.is_file())
