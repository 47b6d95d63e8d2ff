"""A folder as the storage of a shared cache, also on NFS: plain files, no locks, no database."""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.errors import RegistryError, UnreachableError
from mbuild.shared.naming import is_name, served_name
from mbuild.store.blocks import write_past_cache
from mbuild.store.files import fsync_directory, inherit, make_directories, remedy, sync, write_all
from mbuild.store.shared import LARGEST_SMALL, StoredObject

if TYPE_CHECKING:
    from typing import BinaryIO

    from typing_extensions import Buffer

    from mbuild.core.digest import Digest
    from mbuild.shared.locations import Location

_VERSION = "v1"
_TEMPORARY = "tmp"
_STALE_SECONDS = 86_400.0
_PIECE = 4 << 20


def open_storage(location: Location, writes: bool) -> FolderStorage:
    """The folder of a location; one to write to is made in the folder that it lies in."""
    return FolderStorage(Path(location.rest), str(location), writes=writes)


def open_object(path: Path) -> BinaryIO | None:
    """An object's file; None where there is none.

    A pipe would be waited for, and a link may lead anywhere on this machine: what is no file of
    the folder's own counts as none. Raises OSError for a file that cannot be read.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        fd = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return None
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        return None
    return open(fd, "rb")


class FolderStorage:
    """Objects as files below ``v1/``. Whole or not there: they are made beside and renamed.

    A name is created by a hard link, which NFS makes atomic too; where there are none by
    ``O_EXCL``.
    """

    def __init__(self, root: Path, place: str, *, writes: bool) -> None:
        self._root = root
        self._writes = writes
        self._folder = root / _VERSION
        self.place = place
        self.can_lease = True
        self.any_digest = True

    def path(self, name: str) -> Path:
        """Where an object lies, or would lie."""
        return self._folder / name

    def is_at(self, folder: Path) -> bool:
        """Whether that is the very folder."""
        return self._root.resolve() == folder.resolve()

    def read_many(self, names: Collection[str]) -> dict[str, bytes]:
        """The objects that are there."""
        found = {}
        with self._errors("be read"):
            self._check_there()
            for name in names:
                file = open_object(self.path(name))
                if file is not None:
                    with file:
                        data = file.read(LARGEST_SMALL + 1)
                    if len(data) <= LARGEST_SMALL:
                        found[name] = data
        return found

    def read_range(self, name: str, offset: int, size: int) -> bytes | None:
        """Some bytes of an object."""
        with self._errors("be read"):
            self._check_there()
            file = open_object(self.path(name))
            if file is None:
                return None
            with file:
                file.seek(offset)
                return file.read(size)

    def stream(self, name: str, size: int) -> Iterator[bytes]:
        """The file's bytes."""
        with self._errors("be read"):
            self._check_there()
            file = open_object(self.path(name))
            if file is not None:
                with file:
                    while piece := file.read(_PIECE):
                        yield piece

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Bytes of those that are there."""
        found = {}
        with self._errors("be read"):
            self._check_there()
            for name in names:
                with suppress(FileNotFoundError):
                    info = self.path(name).lstat()
                    if stat.S_ISREG(info.st_mode):
                        found[name] = info.st_size
        return found

    def write_many(
        self, objects: Mapping[str, Buffer], blobs: Mapping[str, Mapping[Digest, int]] = {}
    ) -> None:
        """Write each beside, then rename it."""
        for name, data in objects.items():
            with self.temporary(name) as (temporary, target), open(temporary, "wb") as file:
                inherit(file.fileno(), self._root)
                write_past_cache(file.fileno(), memoryview(data).cast("B"))
                os.replace(temporary, target)

    def create(self, name: str, data: bytes) -> bool:
        """Write beside, then link: only one of all who try can."""
        with self.temporary(name) as (temporary, target):
            with open(temporary, "wb") as file:
                self._fill(file.fileno(), [data])
            try:
                os.link(temporary, target)
            except FileExistsError:
                return False
            except OSError:  # no hard links here
                return self._created(target, data)
            return True

    def _created(self, target: Path, data: bytes) -> bool:
        try:
            fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        with open(fd, "wb") as file:
            self._fill(file.fileno(), [data])
        return True

    def upload(self, name: str, path: Path, report: Callable[[int], object]) -> None:
        """Copy a file, durable before it has its name."""

        def pieces() -> Iterator[bytes]:
            done = 0
            with open(path, "rb") as source:
                while piece := source.read(_PIECE):
                    yield piece
                    done += len(piece)
                    report(done)

        with self.temporary(name) as (temporary, target):
            with open(temporary, "wb") as file:
                self._fill(file.fileno(), pieces())
                sync(file.fileno())
            os.replace(temporary, target)
            fsync_directory(target.parent)

    def remove(self, names: Collection[str]) -> None:
        """Unlink those that are there."""
        with self._errors("be written"):
            for name in names:
                self.path(name).unlink(missing_ok=True)

    def objects(self) -> Iterator[StoredObject]:
        """Every file with a name of the cache's; what killed writers left goes after a day."""
        with self._errors("be read"):
            self._check_there()
            self._remove_stale()
            for folder, _, files in os.walk(self._folder):
                for file in files:
                    path = Path(folder, file)
                    name = path.relative_to(self._folder).as_posix()
                    if is_name(name):
                        with suppress(FileNotFoundError):
                            info = path.lstat()
                            yield StoredObject(name, info.st_size, info.st_mtime)

    def close(self) -> None:
        """Nothing is open."""

    def _remove_stale(self) -> None:
        late = time.time() - _STALE_SECONDS
        with suppress(OSError):
            for path in (self._folder / _TEMPORARY).iterdir():
                if path.stat().st_mtime < late:
                    path.unlink()

    def _check_there(self) -> None:
        """A folder that is not there is most likely a drive that is not mounted, or a slip."""
        if not self._root.is_dir() and not (self._writes and self._root.parent.is_dir()):
            raise UnreachableError(f"there is no folder {self._root}")

    def _fill(self, fd: int, pieces: Collection[bytes] | Iterator[bytes]) -> None:
        inherit(fd, self._root)
        for piece in pieces:
            write_all(fd, piece)

    @contextmanager
    def temporary(self, name: str) -> Iterator[tuple[Path, Path]]:
        """A name for a file under construction, gone afterwards, and the object's own."""
        target = self.path(name)
        folder = self._folder / _TEMPORARY
        temporary = folder / f"{os.getpid()}-{os.urandom(8).hex()}"
        with self._errors("be written"):
            self._check_there()
            make_directories(folder)
            make_directories(target.parent)
            try:
                yield temporary, target
            finally:
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RegistryError(
                f"{self._root} cannot {what}: {error.strerror or error}", hint=remedy(error)
            ) from error


class ServedFolder(FolderStorage):
    """The folder of ``mbuild serve --cache`` as whoever shares its disk sees it.

    Over HTTP records and leases have but 64 digits for a name, and lie in the folder under these;
    blobs have those of their SHA-256.
    """

    def __init__(self, root: Path, place: str, *, writes: bool) -> None:
        super().__init__(root, place, writes=writes)
        self.any_digest = False

    def path(self, name: str) -> Path:
        """Where an object lies that others ask for over HTTP."""
        return super().path(served_name(name))
