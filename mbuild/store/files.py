"""Files that appear whole or not at all: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FILE_MODE = 0o644
DIRECTORY_MODE = 0o755

_REMEDIES = {
    errno.ENOSPC: "free space on that disk, then build again; the old model is untouched",
    errno.EDQUOT: "free space in your quota, then build again; the old model is untouched",
    errno.EROFS: "choose a store that can be written with --store or OLLAMA_MODELS",
    errno.EACCES: "choose a store that you may write with --store or OLLAMA_MODELS",
    errno.EPERM: "choose a store that you may write with --store or OLLAMA_MODELS",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f)",
}


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Translate an OSError into one :class:`StoreError` that says what was being done."""
    try:
        yield
    except OSError as error:
        name = error.filename2 or error.filename  # of a renaming the new name
        where = f" {name}" if name else ""
        raise StoreError(
            f"{doing}:{where} {error.strerror or error}",
            hint=_REMEDIES.get(error.errno or 0, ""),
        ) from error


def free_bytes(folder: Path | int) -> int | None:
    """Bytes free on a folder's or open file's disk; None where nothing tells."""
    try:
        found = os.fstatvfs(folder) if isinstance(folder, int) else os.statvfs(folder)
    except (AttributeError, OSError):  # Windows; a folder that is not there yet
        return None
    return found.f_bavail * found.f_frsize


def check_room(folder: Path | int, size: int) -> None:
    """Raise :class:`StoreError` if ``size`` bytes do not fit on a folder's or open file's disk."""
    free = free_bytes(folder)
    if free is not None and size > free:
        raise StoreError(
            f"will not fit on this disk: {size:,} bytes to write, {free:,} bytes free",
            hint=_REMEDIES[errno.ENOSPC],
        )


def make_directories(path: Path) -> None:
    """Create a folder and its parents, each durable and with mode 0755."""
    if path.is_dir():
        return
    make_directories(path.parent)
    try:
        path.mkdir(mode=DIRECTORY_MODE)
    except FileExistsError:
        return
    with suppress(OSError):
        path.chmod(DIRECTORY_MODE)
    fsync_directory(path.parent)


def fsync_directory(path: Path) -> None:
    """Make the names in a folder durable, where the system can (not on Windows)."""
    if sys.platform == "win32":
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network and FUSE file systems have no fsync for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte; a short write continues where it stopped."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


class TemporaryFile:
    """A file under construction in the store, removed unless it was published.

    It is held by ``flock`` while its maker lives, so that any other process can
    tell a stale one from one in use, whatever its age. ``fd`` is open for
    reading and writing.
    """

    def __init__(self, folder: Path, prefix: str = "tmp-") -> None:
        self.path, self.fd = _create(folder, prefix)
        self._open = True

    def publish(self, target: Path) -> None:
        """Make the bytes durable and give them their final name, replacing any old file."""
        if hasattr(os, "fchmod"):
            os.fchmod(self.fd, FILE_MODE)
        os.fsync(self.fd)
        if sys.platform == "win32":  # an open file cannot be renamed there
            self._close()
        Path.replace(self.path, target)
        self._close()
        fsync_directory(target.parent)

    def discard(self) -> None:
        """Remove the file, if it was not published."""
        if self._open:
            with suppress(OSError):
                self.path.unlink()
        self._close()

    def leave(self) -> None:
        """Close the file and leave it where it is, for a later build."""
        self._close()

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self.fd)

    def __enter__(self) -> TemporaryFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.discard()


@contextmanager
def temporary_folder(folder: Path, prefix: str = "tmp-") -> Iterator[Path]:
    """A new folder that is gone afterwards, and held like a :class:`TemporaryFile` until then."""
    import shutil

    path, fd = folder / f"{prefix}{os.getpid()}-{os.urandom(6).hex()}", -1
    try:  # a signal right after the folder is made must find it in here
        fd = _make_and_hold(path)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if fd >= 0:
            os.close(fd)


def _make_and_hold(path: Path) -> int:
    """Make a folder and lock it; again if a cleaner took it before the lock was ours."""
    while True:
        with store_errors("creating a temporary folder in the store"):
            path.mkdir(mode=0o700)
        if fcntl is None:
            return -1
        with suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if path.exists():
                return fd
            os.close(fd)


def _create(folder: Path, prefix: str) -> tuple[Path, int]:
    """A new locked file; made again if a cleaner took it before the lock was ours."""
    while True:
        path = folder / f"{prefix}{os.getpid()}-{os.urandom(6).hex()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        fd = os.open(path, flags, 0o600)
        if fcntl is None:
            return path, fd
        fcntl.flock(fd, fcntl.LOCK_EX)
        if os.fstat(fd).st_nlink:
            return path, fd
        os.close(fd)


def remove_stale(folder: Path, prefix: str = "tmp-") -> int:
    """Remove the files and folders so called of makers that are gone; returns how many."""
    removed = 0
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(prefix):
                removed += _remove_if_stale(entry.path)
    return removed


def _remove_if_stale(path: str) -> bool:
    try:
        if fcntl is None:  # Windows refuses to remove a file that is open
            os.unlink(path)
            return True
        fd = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            import shutil

            shutil.rmtree(path)
        else:
            os.unlink(path)
        return True
    except OSError:
        return False
    finally:
        os.close(fd)
