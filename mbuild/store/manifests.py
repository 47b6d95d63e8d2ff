"""Manifests on disk: ``manifests/<host>/<namespace>/<model>/<tag>``, replaced in one piece."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError, NameNotFoundError, StoreError
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.core.values import NamedTuple
from mbuild.store.files import (
    TemporaryFile,
    inherit,
    leads_nowhere,
    make_directories,
    may_not_read,
    open_regular,
    store_errors,
    write_all,
)
from mbuild.store.manifest import MAX_MANIFEST_BYTES, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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

    @cached_property
    def folds_case(self) -> bool:
        """Whether the file system takes ``A`` and ``a`` for one name.

        So do those of Windows and macOS, and such drives (exFAT, SMB, WSL) on any system.
        """
        return os.path.exists(self.folder.with_name(self.folder.name.swapcase()))

    def resolve(self, name: ModelName, *, folds_case: bool | None = None) -> ModelName:
        """The spelling under which a name is stored, or the name itself.

        Names that differ only in case are one model, as in Ollama. Where the file
        system takes them for one, too, a file that is there tells nothing of its spelling.
        ``folds_case``: see the property; None asks it.
        """
        folds = self.folds_case if folds_case is None else folds_case
        if not folds and os.path.isfile(self._path(name)):
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
        """The manifest file's bytes, or None when there is none, and no file in its place."""
        try:
            return self._read_file(name)[0]
        except DamagedError:
            return None

    def write(self, name: ModelName, data: bytes) -> None:
        """Put a manifest in place of any old one: readers see one or the other, whole."""
        self._prepare()
        path = self._path(name)
        with store_errors(f"writing the manifest of {name}"):
            for attempt in range(_ATTEMPTS):
                try:
                    make_directories(path.parent)
                    with TemporaryFile(self._temporary_folder) as file:
                        inherit(file.fd, path.parent)
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

    def beside(self, name: ModelName) -> Iterator[ModelName]:
        """The names that differ from a stored one (:meth:`resolve`) in nothing but the tag."""
        folder = self._path(name).parent
        for tag in _entries(folder, lambda error: None, folders=False):
            with suppress(InvalidNameError):
                yield _checked(folder.parent.parent, folder.parent, folder, tag)

    def names(
        self, unlisted: Callable[[StoreError], object] = lambda error: None
    ) -> Iterator[ModelName]:
        """The names of all files that can be manifests, in no particular order.

        ``unlisted`` is told of each folder that cannot be listed: it may hold any model.
        """
        for host in _folders(self.folder, unlisted):
            for namespace in _folders(host, unlisted):
                for model in _folders(namespace, unlisted):
                    for tag in _entries(model, unlisted, folders=False):
                        with suppress(InvalidNameError):
                            yield _checked(host, namespace, model, tag)

    def _path(self, name: ModelName) -> Path:
        return self.folder.joinpath(*name.parts)

    def _read_file(self, name: ModelName) -> tuple[bytes | None, int]:
        path = self._path(name)
        try:
            fd, info = open_regular(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            if os.path.islink(path):
                error = leads_nowhere(path)
                raise DamagedError(f"the manifest of {name}: {error}", hint=error.hint) from None
            return None, 0
        except PermissionError as error:
            raise StoreError(
                f"the manifest of {name} cannot be read: {error.strerror}",
                hint=may_not_read(path),
            ) from error
        except OSError as error:
            raise DamagedError(
                f"the manifest of {name} cannot be read: {error.strerror}",
                hint="remove it with mbuild rm, and build or pull the model again",
            ) from error
        try:
            return os.read(fd, MAX_MANIFEST_BYTES + 1), info.st_mtime_ns
        except OSError as error:
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


def _folders(folder: Path, unlisted: Callable[[StoreError], object]) -> Iterator[Path]:
    return (folder / name for name in _entries(folder, unlisted, folders=True))


def _entries(
    folder: Path, unlisted: Callable[[StoreError], object], *, folders: bool
) -> Iterator[str]:
    """The names of the folders in a folder, or of all else, links that lead nowhere too."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if entry.is_dir() is folders)
    except FileNotFoundError:  # removed meanwhile, or no model was ever built
        if os.path.islink(folder):
            unlisted(leads_nowhere(folder))
    except OSError as error:
        unlisted(
            StoreError(
                f"{folder} cannot be listed: {error.strerror}",
                hint=may_not_read(folder) if isinstance(error, PermissionError) else "",
            )
        )
