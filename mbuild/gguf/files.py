"""Positional reads of one file: bounded, thread-safe, and never memory-mapped.

A file that is cut short while it is mapped kills the process (SIGBUS); a
positional read of it merely comes back short and becomes an error here.
"""

from __future__ import annotations

import os
import stat
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

from mbuild.core.errors import FormatError, SourceError
from mbuild.core.system import remedy, unreadable
from mbuild.core.values import FrozenValue
from mbuild.gguf.memory import SMALL, room
from mbuild.work.limits import reading

_MAX_READ = 1 << 30
"""One read's size in bytes; macOS refuses 2 GiB and more, Linux shortens it."""

_DAMAGED = "the file is damaged or a faulty tool wrote it; download or convert it again"

_KINDS = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)

Seen = Callable[[int, memoryview], object]
"""Is shown the bytes of a tensor as they were read, and from which byte of the file on."""


class Arriving:
    """In the place of a :data:`Seen`, for a file that is not whole yet.

    ``wait`` returns once the bytes from ``start`` to ``stop`` (exclusive) are there; ``used``
    is told which were read once ``last`` is set: then nothing is read a second time.
    """

    def __init__(
        self, wait: Callable[[int, int], object], used: Callable[[int, int], object]
    ) -> None:
        self.wait = wait
        self.last = False
        self._used = used

    def __call__(self, start: int, data: memoryview) -> None:
        """Whoever brings the file digests it, and may not keep what was read."""
        if self.last:
            self._used(start, start + len(data))


_HAS_PREAD = hasattr(os, "pread")
_SEEK_LOCK = threading.Lock()


class FileBytes:
    """An open regular file whose bytes are read by position, from any thread.

    ``name`` is what error messages call it, ``size`` its length in bytes when
    it was opened, ``seen`` is shown what is read of its tensors. The descriptor is closed
    by :meth:`close` or with the object.
    """

    __slots__ = ("__weakref__", "_close", "_fd", "_mtime", "name", "seen", "size")

    def __init__(self, fd: int, name: str, *, owned: bool = True) -> None:
        info = os.fstat(fd)
        self._fd = fd
        self._mtime = info.st_mtime_ns
        self._close = weakref.finalize(self, os.close, fd) if owned else None
        self.name = name
        self.seen: Seen | None = None
        self.size = info.st_size
        if not stat.S_ISREG(info.st_mode):
            raise not_regular(name, info.st_mode)

    @classmethod
    def open(cls, path: str | os.PathLike[str], name: str = "") -> FileBytes:
        """Open a regular file; symbolic links are followed.

        Raises :class:`FormatError` for anything that is not a regular file
        (without opening it: opening a pipe may block, a device may act) and
        :class:`SourceError` where the system says no.
        """
        name = name or os.fspath(path)
        try:
            mode = Path(path).stat().st_mode
            if not stat.S_ISREG(mode):
                raise not_regular(name, mode)
            flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
            fd = os.open(path, flags | getattr(os, "O_BINARY", 0))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            hint = remedy(error) if isinstance(error, OSError) else ""
            raise SourceError(f"{name}: cannot be opened: {reason}", hint=hint) from error
        return cls(fd, name)

    def close(self) -> None:
        """Close the file now; a later read is an error."""
        self._fd = -1
        if self._close is not None:
            self._close()

    def read(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes at ``offset``.

        Raises :class:`FormatError` when the file no longer has them or was
        written to since it was opened: what was parsed is then not what is read.
        """
        try:
            data = self._read_once(offset, min(count, _MAX_READ))
            while len(data) < count:
                more = self._read_once(offset + len(data), min(count - len(data), _MAX_READ))
                if not more:
                    break
                data += more
        except OSError as error:
            raise unreadable(self.name, error) from error
        self._check_same(offset, count, len(data))
        return data

    def fill(self, offset: int, view: memoryview) -> None:
        """As :meth:`read`, into memory that is there."""
        done = 0
        try:
            while done < len(view):
                part = view[done : done + _MAX_READ]
                if hasattr(os, "preadv"):
                    got = os.preadv(self._fd, [part], offset + done)
                else:
                    data = self._read_once(offset + done, len(part))
                    got = len(data)
                    part[:got] = data
                if not got:
                    break
                done += got
        except OSError as error:
            raise unreadable(self.name, error) from error
        self._check_same(offset, len(view), done)

    def _read_once(self, offset: int, count: int) -> bytes:
        if _HAS_PREAD:
            return os.pread(self._fd, count, offset)
        with _SEEK_LOCK:  # Windows has no positional read
            os.lseek(self._fd, offset, os.SEEK_SET)
            return os.read(self._fd, count)

    def _check_same(self, offset: int, count: int, got: int) -> None:
        try:
            info = os.fstat(self._fd)
        except OSError as error:
            raise unreadable(self.name, error) from error
        if got != count or (info.st_size, info.st_mtime_ns) != (self.size, self._mtime):
            raise self.error(
                f"changed while reading ({got} of {count} bytes)",
                offset,
                hint="build again when nothing writes to the file any more",
            )

    def error(self, message: str, offset: int, *, hint: str = "") -> FormatError:
        """An error about this file that names the byte it is about."""
        return FormatError(f"{self.name}: at byte {offset}: {message}", hint=hint or _DAMAGED)


class FileRange(FrozenValue):
    """Bytes of a file as a :class:`~mbuild.gguf.model.Tensor`'s ``load``: calling it reads them.

    The writer knows it and reads a large range piece by piece, so that copying
    a tensor takes no more memory than a piece.
    """

    file: FileBytes
    start: int
    count: int

    def __call__(self) -> memoryview:
        """All the bytes; raises :class:`FormatError` if the file changed."""
        if self.count < SMALL:
            data = memoryview(self.file.read(self.start, self.count))
        else:
            data = room(self.count).data
            with reading():
                self.file.fill(self.start, data)
        if self.file.seen is not None:
            self.file.seen(self.start, data)
        return data

    def pieces(self, size: int, row: int = 1) -> Iterator[FileRange]:
        """The range cut into ranges of at most ``size`` bytes (or one row), in order."""
        step = max(size // row, 1) * row
        for at in range(0, self.count, step):
            yield FileRange(self.file, self.start + at, min(step, self.count - at))


def not_regular(name: str, mode: int) -> FormatError:
    """The refusal of something that is not a regular file, named by its kind."""
    kind = next((text for test, text in _KINDS if test(mode)), "a special file")
    return FormatError(
        f"{name}: {kind}, not a GGUF file", hint="name a regular file that ends in .gguf"
    )
