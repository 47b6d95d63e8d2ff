"""Everything that lies in a store at one moment, and who names it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import DamagedError, NameNotFoundError, StoreError
from mbuild.core.values import NamedTuple
from mbuild.models.disk.strays import is_removable
from mbuild.store.files import is_held, open_regular
from mbuild.store.locks import is_used
from mbuild.store.manifest import MAX_MANIFEST_BYTES, Manifest
from mbuild.store.place import check_place
from mbuild.store.store import ATTACHED_FOLDER

if TYPE_CHECKING:
    from mbuild.store import Store, StoredManifest

ACTIVE_SECONDS = 3600.0
"""A file of another program that changed in the last hour counts as in use: Ollama's own rule."""

_MAX_DEPTH = 8


class LeftoverKind(StrEnum):
    """What a file is that is neither a blob nor a manifest."""

    TEMPORARY = "temporary"
    UNFINISHED = "unfinished"
    PARTIAL = "partial"
    OLD_CACHE = "old cache"
    DAMAGED = "damaged"
    STRAY = "stray"
    DOCUMENT = "document"


class FileInfo:
    """A file's path, its bytes, and when it last changed (seconds since 1970)."""

    __slots__ = ("changed", "links", "path", "size")

    def __init__(self, path: Path, info: os.stat_result) -> None:
        self.path = path
        self.size = info.st_size
        self.links = info.st_nlink
        # A hard link or a copied time keeps an old mtime; being named in the
        # store moves ctime.
        self.changed = max(info.st_mtime, info.st_ctime)

    @property
    def freed(self) -> int:
        """Bytes that removing it frees: none while another name keeps them."""
        return self.size if self.links <= 1 else 0


class Leftover(NamedTuple):
    """A file that no finished work needs; ``in_use`` when its maker may still be at it."""

    kind: LeftoverKind
    file: FileInfo
    in_use: bool


class Inventory(NamedTuple):
    """What a store holds.

    ``users`` maps each blob that is named to the manifests' names; ``damaged``
    are manifests that cannot be read and therefore may name anything;
    ``uploads`` are blobs that a client sent and that wait for the request that
    names them; ``kept`` are results of builds that only the cache keeps; ``running`` are
    blobs that no manifest names and that an engine has loaded; ``cache_bytes`` is the size of
    the cache's index.
    """

    models: tuple[StoredManifest, ...]
    damaged: tuple[StoreError, ...]
    blobs: Mapping[Digest, FileInfo]
    users: Mapping[Digest, frozenset[str]]
    uploads: frozenset[Digest]
    leftovers: tuple[Leftover, ...]
    kept: Mapping[Digest, FileInfo]
    running: frozenset[Digest]
    cache_bytes: int

    @property
    def unused(self) -> dict[Digest, FileInfo]:
        """Blobs that no manifest names, the longest unchanged first."""
        rows = [(d, file) for d, file in self.blobs.items() if d not in self.users]
        return dict(sorted(rows, key=lambda row: (row[1].changed, row[0])))


def take_inventory(store: Store, now: float) -> Inventory:
    """Look at everything; ``now`` is the time that ages are counted from, seconds since 1970.

    Raises :class:`StoreError` for a folder that cannot be listed.
    """
    check_place(store.root)
    models: list[StoredManifest] = []
    damaged: list[StoreError] = []
    users: dict[Digest, set[str]] = {}
    for item in read_manifests(store):
        if isinstance(item, StoreError):
            damaged.append(item)
            continue
        models.append(item)
        for layer in item.manifest.blobs():
            users.setdefault(layer.digest, set()).add(str(item.name))
    damaged += _other_manifests(store, users)
    models.sort(key=lambda stored: str(stored.name))
    blobs = _blobs(store)
    kept = {
        blob.digest: FileInfo(blob.path, blob.path.stat())
        for blob in store.kept.unnamed()
        if blob.digest not in users  # a model's blob that lies elsewhere, or is gone
    }
    unused = [*((d, file) for d, file in blobs.items() if d not in users), *kept.items()]
    return Inventory(
        tuple(models),
        tuple(damaged),
        blobs,
        {digest: frozenset(names) for digest, names in users.items()},
        frozenset(store.uploads.held()),
        (*_leftovers(store, now), *_documents(store, {model.id.hex for model in models})),
        kept,
        frozenset(digest for digest, file in unused if is_used(file.path)),
        sum(_size(path) for path in store.private.glob("cache.db*") if "damaged" not in path.name),
    )


def read_manifests(store: Store) -> Iterator[StoredManifest | StoreError]:
    """Every model, or the error where one cannot be read; one just removed is skipped."""
    unlisted: list[StoreError] = []
    for name in store.manifests.names(unlisted.append):
        try:
            yield store.manifests.read(name)
        except NameNotFoundError:
            continue
        except StoreError as error:
            yield error
    yield from unlisted


def _other_manifests(store: Store, users: dict[Digest, set[str]]) -> Iterator[DamagedError]:
    """Count in what :meth:`Store.list` passes over, because a blob must not be missed.

    These are manifests whose file names are no models' names, and other folders
    ``manifests*`` (Ollama is about to add one). Yields what cannot be read.
    """
    for folder in sorted(store.root.glob("manifests*")):
        ours = folder.name == "manifests"
        for path in _walk(folder, _MAX_DEPTH):
            if ours and _is_named(store, path):
                continue
            try:
                manifest = Manifest.decode(_read(path), str(path))
            except DamagedError as error:
                if not ours and not path.name.startswith("."):
                    yield error
                continue
            except OSError as error:
                if error.errno != errno.EINVAL:  # a pipe or a device is nobody's manifest
                    yield DamagedError(f"{path}: {error.strerror}", hint="mount or remove it")
                continue
            for layer in manifest.blobs():
                users.setdefault(layer.digest, set()).add(str(path))


def _is_named(store: Store, path: Path) -> bool:
    """Whether a file lies where a model's manifest does: :func:`read_manifests` has read it."""
    from mbuild.core.names import InvalidNameError, ModelName

    parts = path.relative_to(store.manifests.folder).parts
    if len(parts) == 4:
        with suppress(InvalidNameError):
            return ModelName.parse("/".join(parts[:3]) + ":" + parts[3]).parts == parts
    return False


def _read(path: Path) -> bytes:
    fd, _ = open_regular(path)
    with open(fd, "rb") as file:
        return file.read(MAX_MANIFEST_BYTES + 1)


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """All files below a folder, through links; raises :class:`StoreError` where it cannot look."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be listed: {error.strerror}",
            hint="make it readable (or mount the disk that it is on)",
        ) from error
    for entry in found:
        if not entry.is_dir():
            yield folder / entry.name
        elif depth:
            yield from _walk(folder / entry.name, depth - 1)


def _blobs(store: Store) -> dict[Digest, FileInfo]:
    found = {}
    for digest in store.blobs:
        path = store.blobs.path(digest)
        with suppress(OSError):
            info = path.stat()
            if stat.S_ISREG(info.st_mode):
                found[digest] = FileInfo(path, info)
                found[digest].links -= store.kept.links_to(digest, info)
    return found


def _leftovers(store: Store, now: float) -> Iterator[Leftover]:
    for folder in (store.private / "tmp", store.blobs.folder, store.manifests.folder):
        for file in _files(folder):
            if file.path.name.startswith("tmp-"):
                yield Leftover(LeftoverKind.TEMPORARY, file, is_held(file.path))
    for file in _folders(store.private / "tmp"):
        yield Leftover(LeftoverKind.TEMPORARY, file, is_held(file.path))
    if store.blobs.partial_folder != store.blobs.folder:
        for file in _files(store.blobs.partial_folder):
            yield Leftover(LeftoverKind.UNFINISHED, file, is_held(file.path))
    for file in _files(store.blobs.folder):
        if _is_partial(file.path.name):
            yield Leftover(LeftoverKind.PARTIAL, file, now - file.changed < ACTIVE_SECONDS)
    for file in _files(store.private):
        if file.path.name.startswith("cache.db") and file.path.name.endswith(".damaged"):
            yield Leftover(LeftoverKind.OLD_CACHE, file, in_use=False)
    for file in _files(store.private / DAMAGED_FOLDER):
        yield Leftover(LeftoverKind.DAMAGED, file, in_use=False)
    for path, info in store.blobs.strays():
        stray = FileInfo(path, info)
        stray.size = 0
        yield Leftover(LeftoverKind.STRAY, stray, in_use=not is_removable(path))


def _documents(store: Store, models: Set[str]) -> Iterator[Leftover]:
    """Statements and signatures about models that are not there any more."""
    with suppress(OSError):
        for name in sorted(os.listdir(store.private / ATTACHED_FOLDER)):
            if name not in models:
                for file in _files(store.private / ATTACHED_FOLDER / name):
                    yield Leftover(LeftoverKind.DOCUMENT, file, in_use=False)


DAMAGED_FOLDER = "damaged"
"""Below ``.mbuild``: where ``verify`` puts blobs whose bytes are not what their names say."""


def _is_partial(name: str) -> bool:
    """Whether a name in ``blobs/`` is a download or a temporary file of Ollama's."""
    if not name.startswith(("sha256-", "sha256:")):  # with a colon before April 2024
        return False
    try:
        Digest.parse(name)
    except DigestError:
        return True
    return False


def _files(folder: Path) -> Iterator[FileInfo]:
    """The regular files of a folder, by name; nothing when it cannot be listed."""
    with suppress(OSError):
        for name in sorted(os.listdir(folder)):
            with suppress(OSError):
                info = (folder / name).lstat()
                if stat.S_ISREG(info.st_mode):
                    yield FileInfo(folder / name, info)


def _folders(folder: Path) -> Iterator[FileInfo]:
    """The throw-away stores in a folder, each with the bytes of all files in it."""
    with suppress(OSError):
        for path in sorted(folder.glob("tmp-*")):
            if path.is_dir():
                found = FileInfo(path, path.stat())
                sizes = (f.lstat() for f in path.rglob("*") if not f.is_dir())
                found.size, found.links = sum(info.st_size for info in sizes), 1
                yield found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
