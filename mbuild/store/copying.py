"""Copying and hashing large files: each byte is read once, the cores share the work."""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import threading
from contextlib import suppress
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

from mbuild.digest import Digest
from mbuild.errors import FormatError, SourceError
from mbuild.store.background import Background
from mbuild.store.files import check_room

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Progress = Callable[[int, int], None]

_CHUNK = 8 << 20
_FICLONE = 0x40049409  # linux/fs.h
_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h


class OpenFile(NamedTuple):
    """A user's regular file, open for reading, and what it was when it was opened."""

    name: str
    path: Path
    fd: int
    info: os.stat_result

    @classmethod
    def open(cls, path: Path, name: str) -> OpenFile:
        """Open a regular file; devices, pipes and sockets are refused without waiting."""
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            check_regular(os.stat(path), name)
            fd = os.open(path, flags)
        except OSError as error:
            raise SourceError(f"{name}: {error.strerror}") from error
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):  # swapped between the two calls
            os.close(fd)
        check_regular(info, name)
        return cls(name, path, fd, info)

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self.info.st_size

    def check_unchanged(self) -> None:
        """Raise :class:`FormatError` when the file is not what it was when it was opened."""
        now = os.fstat(self.fd)
        if (now.st_size, now.st_mtime_ns) != (self.info.st_size, self.info.st_mtime_ns):
            raise FormatError(
                f"{self.name} changed while it was read",
                hint="wait until whatever writes it is done, then build again",
            )

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def check_regular(info: os.stat_result, name: str) -> None:
    """Raise :class:`SourceError` saying what a file is when it is not a regular one."""
    if not stat.S_ISREG(info.st_mode):
        what = next((text for test, text in _KINDS if test(info.st_mode)), "something else")
        raise SourceError(f"{name} is {what}, not a regular file")


def hash_file(fd: int, size: int, progress: Progress) -> Digest:
    """The digest of a file's first ``size`` bytes, read with pread in fixed memory."""
    digest = hashlib.sha256()
    _hash_range(fd, 0, size, digest.update, lambda done: progress(done, size))
    return Digest(digest.hexdigest())


def copy_and_hash(source: int, target: int, size: int, progress: Progress) -> Digest:
    """Copy ``size`` bytes and return the digest of what the copy holds.

    The copy is what gets hashed, not the source, so that a file which changes
    meanwhile can never leave a blob under a wrong name.
    """
    if _reflink(source, target):
        return hash_file(target, size, progress)
    check_room(target, size)
    copier = _Copier(source, target, size)
    copier.start()
    digest = hashlib.sha256()
    done = 0
    try:
        while done < size:
            ready = copier.wait_beyond(done)
            _hash_range(target, done, ready, digest.update, lambda at: progress(at, size))
            done = ready
    finally:
        copier.stop()
    return Digest(digest.hexdigest())


def _hash_range(
    fd: int, start: int, end: int, update: Callable[[memoryview], None], at: Callable[[int], None]
) -> None:
    buffer = bytearray(min(_CHUNK, max(end - start, 1)))
    view = memoryview(buffer)
    while start < end:
        want = min(len(buffer), end - start)
        count = _read_at(fd, view[:want], start)
        if count == 0:
            raise FormatError("the file became shorter while it was read")
        update(view[:count])
        start += count
        at(start)


def _read_at(fd: int, view: memoryview, offset: int) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    data = os.pread(fd, len(view), offset) if hasattr(os, "pread") else _seek_read(fd, view, offset)
    view[: len(data)] = data
    return len(data)


def _seek_read(fd: int, view: memoryview, offset: int) -> bytes:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, len(view))


def _reflink(source: int, target: int) -> bool:
    """Share the source's extents with the target, where the file system can (Linux)."""
    if sys.platform != "linux":
        return False
    import fcntl

    with suppress(OSError):
        fcntl.ioctl(target, _FICLONE, source)
        return True
    return False


class _Copier(threading.Thread):
    """Copies in the background and tells how far it is; starts write-back on its way.

    Without the early write-back the final fsync would wait for the whole file.
    """

    def __init__(self, source: int, target: int, size: int) -> None:
        super().__init__(name="mbuild-copy", daemon=True)
        self._source, self._target, self._size = source, target, size
        self._changed = threading.Condition()
        self._done = 0
        self._stopped = False
        self._error: OSError | FormatError | None = None

    def wait_beyond(self, offset: int) -> int:
        """Wait until more than ``offset`` bytes are copied; how many are."""
        with self._changed:
            while self._done <= offset and self._error is None:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            return self._done

    def stop(self) -> None:
        """End the copying, finished or not, and wait for the thread."""
        self._stopped = True
        self.join()

    def run(self) -> None:
        try:
            self._copy()
        except (OSError, FormatError) as error:
            with self._changed:
                self._error = error
                self._changed.notify()

    def _copy(self) -> None:
        disk = Background("mbuild-disk")
        try:
            self._copy_before(disk)
            disk.wait()
        finally:
            disk.stop()

    def _copy_before(self, disk: Background) -> None:
        done = 0
        step = _kernel_copy if hasattr(os, "copy_file_range") else _user_copy
        while done < self._size and not self._stopped:
            want = min(_CHUNK, self._size - done)
            try:
                count = step(self._source, self._target, want, done)
            except OSError:
                if step is _user_copy:
                    raise
                step = _user_copy  # EXDEV, ENOSYS, EINVAL: not between these file systems
                continue
            if count == 0:
                raise FormatError("the file became shorter while it was read")
            done += count
            with self._changed:
                self._done = done
                self._changed.notify()
            disk.put(partial(write_back(), self._target, done - count, count))


@cache
def write_back() -> Callable[[int, int, int], object]:
    """Linux's way to start writing a range to disk without waiting for it; else nothing."""
    if sys.platform == "linux":
        import ctypes

        with suppress(OSError, AttributeError):
            call = ctypes.CDLL(None).sync_file_range
            call.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
            return lambda fd, offset, count: call(fd, offset, count, _SYNC_FILE_RANGE_WRITE)
    return lambda fd, offset, count: None


def _kernel_copy(source: int, target: int, count: int, offset: int) -> int:
    return os.copy_file_range(source, target, count, offset, offset)


def _user_copy(source: int, target: int, count: int, offset: int) -> int:
    data = memoryview(bytearray(count))
    got = _read_at(source, data, offset)
    view = data[:got]
    while view:
        if hasattr(os, "pwrite"):
            written = os.pwrite(target, view, offset)
        else:
            os.lseek(target, offset, os.SEEK_SET)
            written = os.write(target, view)
        view, offset = view[written:], offset + written
    return got
