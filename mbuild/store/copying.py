"""Copying and hashing large files: each byte is read once, the cores share the work."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import BLAKE3, SHA256, Digest, hashing
from mbuild.core.errors import CancelledError, FormatError, SourceError
from mbuild.core.values import NamedTuple
from mbuild.store.files import check_room, kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mbuild.store.blocks import Blocks
    from mbuild.work.cancel import Cancel
    from mbuild.work.limits import Limits

    Progress = Callable[[int, int], None]

_PIECE = 4 << 20  # large enough to be hashed in peace beside a thread that loads modules
_FICLONE = 0x40049409  # linux/fs.h


def _is_open_for_writing(fd: int) -> bool:
    """Whether any program has the file of a descriptor open or mapped for writing.

    Linux tells its owner: then it grants no lease for reading (``fcntl(2)``, Leases). False
    where nobody tells.
    """
    if sys.platform != "linux":
        return False
    import fcntl

    with suppress(OSError):
        # The signal to whom a lease stands in the way; the usual one would end the process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except BlockingIOError:
            return True
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


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

    @property
    def reading_path(self) -> Path:
        """A path that opens this very file, even if its name has been given to another one.

        Linux has such paths; elsewhere it is the file's own, and
        :meth:`check_unchanged` finds out.
        """
        path = type(self.path)(f"/proc/self/fd/{self.fd}")
        return path if sys.platform == "linux" and path.exists() else self.path

    def start_of_hashing(self) -> int:
        """The time for :meth:`Database.remember_file`, just before the first byte is hashed.

        It is 0, so that the digest is not relied on later, while another program has the file
        open for writing: through a shared mapping it can write without moving a time.
        """
        return 0 if _is_open_for_writing(self.fd) else time.time_ns()

    def check_unchanged(self, *, change_time: bool = True) -> None:
        """Raise :class:`FormatError` when the file is not what it was when it was opened.

        Its name must lead to the same file, and its size and times must be as they were.
        The change time counts, because every program can set the other one back; not so
        (``change_time=False``) of a blob, which mbuild itself links.
        """
        try:
            at_path = os.stat(self.path)
        except OSError:
            at_path = None
        now, then = os.fstat(self.fd), self.info
        same = (now.st_size, now.st_mtime_ns) == (then.st_size, then.st_mtime_ns)
        if change_time and now.st_ctime_ns != then.st_ctime_ns:
            same = False
        if not same or at_path is None or not os.path.samestat(at_path, then):
            raise FormatError(
                f"{self.name} changed while it was read",
                hint="wait until whatever writes it is done, then build again",
            )

    def fill(self, view: memoryview, offset: int) -> None:
        """Read as many bytes as there is room for; raises :class:`FormatError` if they are gone."""
        done = 0
        while done < len(view):
            done += _fill(self.fd, view[done:], offset + done)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def check_regular(info: os.stat_result, name: str) -> None:
    """Raise :class:`SourceError` saying what a file is when it is not a regular one."""
    what = kind_of(info.st_mode)
    if what:
        raise SourceError(f"{name} is {what}, not a regular file")


class Digests(NamedTuple):
    """Both digests of one content: its name in the store, and what keys know it by."""

    sha256: Digest
    blake3: Digest


def hash_file(fd: int, size: int, progress: Progress, algorithm: str = SHA256) -> Digest:
    """The digest of a file's first ``size`` bytes, read with pread in fixed memory."""
    digest = hashing(algorithm)
    for piece in _pieces(fd, size, progress):
        digest.update(piece)
    return Digest(digest.hexdigest(), algorithm)


def hash_twice(fd: int, size: int, progress: Progress) -> Digests:
    """Both digests of a file's first ``size`` bytes, each byte read once.

    BLAKE3, the faster one, is computed on a thread beside, of the very bytes that this one
    hashes, so that two cores need no more time than SHA-256 alone.
    """
    from mbuild.work.background import Background

    sha256, blake3 = hashing(SHA256), hashing(BLAKE3)
    beside = Background("mbuild-digest")
    try:
        for piece in _pieces(fd, size, progress):
            beside.put(partial(blake3.update, piece))
            sha256.update(piece)
            beside.wait()
    finally:
        beside.stop()
    return _digests(sha256, blake3)


def _pieces(fd: int, size: int, progress: Progress) -> Iterator[memoryview]:
    """A file's first bytes piece by piece; each is gone when the next one is asked for."""
    room = memoryview(bytearray(min(_PIECE, max(size, 1))))
    done = 0
    while done < size:
        count = _fill(fd, room[: size - done], done)
        yield room[:count]
        done += count
        progress(done, size)


def _digests(sha256: Any, blake3: Any) -> Digests:
    return Digests(Digest(sha256.hexdigest()), Digest(blake3.hexdigest(), BLAKE3))


def copy_and_hash(
    source: int, target: int, size: int, progress: Progress, limits: Limits, folder: Path
) -> Digests:
    """Copy ``size`` bytes into an empty file and return the digests of what was written.

    Raises :class:`StoreError` where the disk of ``folder``, which has the file, has no room.

    The very bytes that are written are hashed, so that a source which changes
    meanwhile can never leave a blob under a wrong name. One thread reads, this
    one computes SHA-256, one BLAKE3, and another one writes: on two cores the import
    takes as long as SHA-256 alone. ``limits`` is told what it waited for.
    """
    from mbuild.store.blocks import Blocks
    from mbuild.work.beside import Beside
    from mbuild.work.limits import DISK, HASH

    if _reflink(source, target):
        with limits.held_up_by(HASH):
            return hash_twice(target, size, progress)
    check_room(folder, size)
    sha256, blake3 = hashing(SHA256), hashing(BLAKE3)
    blocks = Blocks(target, blake3.update)
    reader = _Reader(source, size, blocks)
    reading = Beside(reader.run, "mbuild-read")
    done = 0
    try:
        reading.start()
        for block, count in limits.waiting_for(DISK, reader.read()):
            with limits.held_up_by(HASH):
                sha256.update(block[:count])
            blocks.put(block, count)
            done += count
            progress(done, size)
        with limits.held_up_by(DISK):
            blocks.finish(None, 0)
    finally:
        blocks.stop()  # the reader may be waiting for one
        reading.stop()
    return _digests(sha256, blake3)


def _fill(fd: int, view: memoryview, offset: int) -> int:
    """Read at a place of a file as much as there is room for; at least one byte."""
    if hasattr(os, "preadv"):
        count = os.preadv(fd, [view], offset)
    else:
        read = os.pread if hasattr(os, "pread") else _seek_read
        data = read(fd, len(view), offset)
        count = len(data)
        view[:count] = data
    if count == 0:
        raise FormatError("the file became shorter while it was read")
    return count


def _seek_read(fd: int, count: int, offset: int) -> bytes:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, count)


def _reflink(source: int, target: int) -> bool:
    """Share the source's extents with the target, where the file system can (Linux)."""
    if sys.platform != "linux":
        return False
    import fcntl

    with suppress(OSError):
        fcntl.ioctl(target, _FICLONE, source)
        return True
    return False


class _Reader:
    """Reads a file into blocks on a thread (:meth:`run`), ahead of whoever uses :meth:`read`."""

    def __init__(self, fd: int, size: int, blocks: Blocks) -> None:
        self._fd, self._size, self._blocks = fd, size, blocks
        from queue import SimpleQueue  # not on the way of a build with nothing to do

        self._full: SimpleQueue[tuple[memoryview, int] | Exception] = SimpleQueue()

    def read(self) -> Iterator[tuple[memoryview, int]]:
        """Blocks in order, and how many bytes are in them; raises what reading raised."""
        done = 0
        while done < self._size:
            found = self._full.get()
            if isinstance(found, Exception):
                raise found
            done += found[1]
            yield found

    def run(self, cancel: Cancel) -> None:
        """Read to the end; an error goes to whoever uses :meth:`read`."""
        done = 0
        try:
            while done < self._size:
                cancel.check()
                block = self._blocks.take()
                room = block[: self._size - done]
                count = 0
                while count < len(room):
                    count += _fill(self._fd, room[count:], done + count)
                done += count
                self._full.put((block, count))
        except (OSError, FormatError, CancelledError) as error:
            self._full.put(error)
