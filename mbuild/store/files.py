"""Files that appear whole or not at all: temporary name, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mbuild.core.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NO_SUPPORT = frozenset({errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""What file systems answer to a call that they do not have (FUSE, network drives, WSL)."""

NO_LOCKS = NO_SUPPORT | {errno.ENOLCK, errno.EPERM}
"""What ``flock`` and ``fcntl`` answer where a file system has no locks."""

_STALE_SECONDS = 24 * 3600.0
"""Where no lock tells: a temporary file that did not change for so long has no maker any more."""

_REMEDIES = {
    errno.ENOSPC: "free space on that disk, then try again; the old model is untouched",
    errno.EDQUOT: "free space in your quota, then try again; the old model is untouched",
    errno.EROFS: "choose a writable store with --store or OLLAMA_MODELS",
    errno.EACCES: "choose a writable store with --store or OLLAMA_MODELS",
    errno.EPERM: "choose a writable store with --store or OLLAMA_MODELS",
    errno.ENOTDIR: "there is a file where the store needs a folder: move it away, or choose"
    " another store with --store",
}


def remedy(error: OSError) -> str:
    """What to do about an error of the system in a store, "" where there is no telling."""
    if known := _REMEDIES.get(error.errno or 0):
        return known
    from mbuild.core import system

    return system.remedy(error)


def may_not_read(path: Path) -> str:
    """What to do about a file or folder that this user may not read."""
    try:
        import pwd

        owner = f"user {pwd.getpwuid(os.lstat(path).st_uid).pw_name}"
    except (ImportError, KeyError, OSError):
        owner = "another user"
    return f"it belongs to {owner}: ask them for permission to read it, or run as them"


def is_dangling(path: Path) -> bool:
    """Whether a path is a link whose target is not there."""
    return os.path.islink(path) and not os.path.exists(path)


def leads_nowhere(path: Path) -> StoreError:
    """The error for a link whose target is not there: a drive that is not mounted, perhaps."""
    return StoreError(
        f"{path} is a link to {os.readlink(path)}, which does not exist",
        hint="mount the disk that it is on, or remove the link",
    )


@contextmanager
def store_errors(doing: str) -> Iterator[None]:
    """Translate an OSError into one :class:`StoreError` that says what was being done."""
    try:
        yield
    except OSError as error:
        name = error.filename2 or error.filename  # of a renaming the new name
        where = f" {os.fsdecode(name)}:" if name else ""
        raise StoreError(
            f"{doing}:{where} {error.strerror or error}",
            hint=remedy(error),
        ) from error


def free_bytes(folder: Path) -> int | None:
    """Bytes free on a folder's disk; None where nothing tells."""
    try:
        found = os.statvfs(folder)
    except (AttributeError, OSError):  # Windows; a folder that is not there yet
        return None
    return found.f_bavail * found.f_frsize


def check_room(folder: Path, size: int, work: str = "build") -> None:
    """Raise :class:`StoreError` if ``size`` bytes do not fit on a folder's disk.

    ``work`` is what was asked for, a word that is a verb, too.
    """
    free = free_bytes(folder)
    if free is not None and size > free:
        raise StoreError(
            f"the {work} will not fit on this disk: {size:,} bytes to write,"
            f" {free:,} bytes free in {folder}",
            hint=f"free space on that disk, then {work} again; the old model is untouched",
        )


def make_directories(path: Path) -> None:
    """Create a folder and its parents, each durable; see :func:`inherit` for its owner."""
    if path.is_dir():
        return
    make_directories(path.parent)
    try:
        path.mkdir()
    except FileExistsError:
        if path.is_dir():
            return
        raise
    if sys.platform != "win32":
        with suppress(OSError):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                inherit(fd, path.parent)
            finally:
                os.close(fd)
    fsync_directory(path.parent)


def inherit(new: int | Path, folder: Path) -> None:
    """Fit a new file or folder into a folder that is somebody else's, or a group's.

    There it takes the folder's rights, and its owner when root is at work, so that whoever
    the store belongs to (Ollama's service has a user of its own) can read and change it.
    In this user's own folders, and in such as ``/tmp``, the umask alone decides. A file
    system that knows no owners or rights has the last word.

    ``new`` is a descriptor; for a file that must not be opened and closed (SQLite's locks
    would end) a path, which is no link.
    """
    if sys.platform == "win32":
        return
    with suppress(OSError):
        there, user = os.stat(folder), os.geteuid()
        here = os.fstat(new) if isinstance(new, int) else os.lstat(new)
        shared = there.st_uid != user
        if there.st_mode & stat.S_ISVTX or not (shared or there.st_mode & stat.S_ISGID):
            return
        if shared and user == 0:
            with suppress(OSError):
                link = {} if isinstance(new, int) else {"follow_symlinks": False}
                os.chown(new, there.st_uid, there.st_gid, **link)
        rights = there.st_mode & (0o777 if shared else 0o070)
        mode = here.st_mode | (rights if stat.S_ISDIR(here.st_mode) else rights & 0o666)
        if mode != here.st_mode and (isinstance(new, int) or user != 0):
            os.chmod(new, stat.S_IMODE(mode))


def fsync_directory(path: Path) -> None:
    """Make the names in a folder durable, where the system can (not on Windows)."""
    if sys.platform == "win32":
        return
    try:
        fd = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written and not listed
        return
    try:
        sync(fd)
    finally:
        os.close(fd)


def sync(fd: int) -> None:
    """``fsync``, where the file system has it: some network and FUSE drives do not."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in NO_SUPPORT and error.errno != errno.EBADF:
            raise


_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISLNK, "a link that leads nowhere"),
)


def kind_of(mode: int) -> str:
    """What a file is that is no regular one, in words; "" for a regular file."""
    if stat.S_ISREG(mode):
        return ""
    return next((text for test, text in _KINDS if test(mode)), "something else")


def open_regular(path: Path | str) -> tuple[int, os.stat_result]:
    """Open a file for reading and look at it; raises OSError, also for what is no regular file.

    To open a pipe would wait for its other end, and a device may act: what else than a
    file lies there is refused before it is opened, and again if it was swapped since.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    _refuse_special(path, os.stat(path))
    fd = os.open(path, flags)
    try:
        info = os.fstat(fd)
        _refuse_special(path, info)
    except BaseException:
        os.close(fd)
        raise
    return fd, info


def _refuse_special(path: Path | str, info: os.stat_result) -> None:
    what = kind_of(info.st_mode)
    if what:
        number = errno.EISDIR if stat.S_ISDIR(info.st_mode) else errno.EINVAL
        raise OSError(number, f"it is {what}, not a regular file", str(path))


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte; a short write continues where it stopped."""
    view = memoryview(data).cast("B")
    while view:
        view = view[os.write(fd, view) :]


class TemporaryFile:
    """A file under construction in the store, removed unless it was published.

    It is held by ``flock`` while its maker lives, so that any other process can
    tell a stale one from one in use, whatever its age. ``fd`` is open for
    reading and writing. Its rights are those that the umask leaves.
    """

    def __init__(self, folder: Path, prefix: str = "tmp-") -> None:
        self.path, self.fd = _create(folder, prefix)
        self._open = True

    def publish(self, target: Path) -> None:
        """Make the bytes durable and give them their final name, replacing any old file."""
        sync(self.fd)
        if sys.platform == "win32":  # an open file cannot be renamed there
            self._close()
        try:
            Path.replace(self.path, target)
        except PermissionError:
            if not self._open:
                raise
            self._close()  # nor on some drives of Windows machines
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
        with store_errors("creating a temporary folder"):
            path.mkdir(mode=0o700)
        if fcntl is None:
            return -1
        with suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY)
            _hold(fd)
            if path.exists():
                return fd
            os.close(fd)


def _create(folder: Path, prefix: str) -> tuple[Path, int]:
    """A new locked file; made again if a cleaner took it before the lock was ours."""
    while True:
        path = folder / f"{prefix}{os.getpid()}-{os.urandom(6).hex()}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        fd = os.open(path, flags, 0o666)
        try:
            _hold(fd)
            if fcntl is None or os.fstat(fd).st_nlink or path.exists():
                return path, fd
        except BaseException:
            os.close(fd)
            with suppress(OSError):
                path.unlink()
            raise
        os.close(fd)


def _hold(fd: int) -> None:
    """Lock a file or folder for as long as it is open, where the file system has locks."""
    if fcntl is not None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise


def remove_stale(folder: Path, prefix: str = "tmp-") -> int:
    """Remove the files and folders so called of makers that are gone; returns how many."""
    removed = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(prefix):
                removed += _remove_if_stale(entry.path)
    return removed


def is_held(path: Path | str) -> bool:
    """Whether the maker of a temporary file may live: it holds a lock on it."""
    if fcntl is None:
        return True  # Windows refuses to remove a file that is open; nothing tells beforehand
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return True
    try:
        return not _is_stale(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _is_stale(fd: int, kind: int) -> bool:
    """Whether nobody holds a temporary file; then it is locked here."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        age = time.time() - os.fstat(fd).st_mtime
        return error.errno in NO_LOCKS and age > _STALE_SECONDS
    return True


def _remove_if_stale(path: str) -> bool:
    try:
        if fcntl is None:  # Windows refuses to remove a file that is open
            os.unlink(path)
            return True
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        if not _is_stale(fd, fcntl.LOCK_EX):
            return False
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
