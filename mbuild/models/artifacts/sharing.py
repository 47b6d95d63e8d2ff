"""Files made of ranges of other files, sharing their extents where the file system can.

Linux shares whole blocks (``FICLONERANGE``: XFS, btrfs, bcachefs, OCFS2), where
source and target lie alike within a block; what is around them is copied.
"""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from mbuild.core.errors import DamagedError, FormatError, StoreError
from mbuild.core.system import remedy
from mbuild.store.copying import OpenFile, hash_file
from mbuild.store.files import TemporaryFile, remove_stale, write_all
from mbuild.work.beside import Beside
from mbuild.work.spread import Part, spread

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Buffer

    from mbuild.core.digest import Digest
    from mbuild.work.cancel import Cancel

    Progress = Callable[[int], None]

BLOCK = 4096
"""Bytes of a block: ranges that lie alike within one can share their extents."""

_FICLONERANGE = 0x4020940D  # linux/fs.h
_PIECE = 8 << 20

_MAX_NAME = 200
"""Bytes of an output's name in a temporary one, which file systems limit to 255."""


def _nothing(count: int) -> None:
    return None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate an OSError into a :class:`StoreError` that names the file to be written."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}", hint=remedy(error)) from error


def clear_leftovers(path: Path) -> str:
    """Remove what killed exports to ``path`` left beside it.

    Returns how the names of temporary files and folders of such an export begin. What an
    export that still runs has there is locked, and stays.
    """
    name = os.fsencode(path.name)[:_MAX_NAME].decode(errors="ignore")
    prefix = f".{name}.mbuild-tmp-"
    remove_stale(path.parent, prefix)
    return prefix


class ExportTarget:
    """A file under construction that is appended to; a context manager.

    ``size`` is what it has so far, ``shared`` how many of those bytes share
    their extents with a source. What is not published leaves nothing behind.
    """

    def __init__(self, file: TemporaryFile) -> None:
        self._file = file
        self.size = 0
        self.shared = 0

    @classmethod
    def beside(cls, path: Path) -> ExportTarget:
        """One that will be renamed to ``path``, which its folder must have room for.

        What killed exports to the same path left there goes first.
        """
        prefix = clear_leftovers(path)
        with writing(path):
            return cls(TemporaryFile(path.parent, prefix))

    @property
    def fd(self) -> int:
        """The descriptor, open for reading too."""
        return self._file.fd

    def leave(self, count: int) -> ExportTarget:
        """Leave so many bytes out, for the target that is returned: it appends there."""
        part = ExportTarget(self._file)
        part.size = self.size
        self.size += count
        return part

    def write(self, data: Buffer) -> None:
        """Append bytes."""
        view = memoryview(data).cast("B")
        os.lseek(self.fd, self.size, os.SEEK_SET)
        write_all(self.fd, view)
        self.size += len(view)

    def append(
        self, source: OpenFile, start: int, count: int, progress: Progress = _nothing
    ) -> None:
        """Append a range of another file; ``progress`` gets the bytes done, piece by piece."""
        if (start - self.size) % BLOCK == 0:
            head = min(count, -start % BLOCK)
            self._copy(source, start, head, progress)
            done = head + self._clone(source, start + head, count - head, progress)
            start, count = start + done, count - done
        self._copy(source, start, count, progress)

    def _clone(self, source: OpenFile, start: int, count: int, progress: Progress) -> int:
        """Share what can be shared of a range that starts with a block; how many bytes."""
        if start + count < source.size or self.size + count < os.fstat(self.fd).st_size:
            count -= count % BLOCK  # only both files' last block may be a part of one
        if sys.platform != "linux" or count <= 0:
            return 0
        import fcntl

        with suppress(OSError):
            argument = struct.pack("=qQQQ", source.fd, start, count, self.size)
            fcntl.ioctl(self.fd, _FICLONERANGE, argument)
            self.size += count
            self.shared += count
            progress(count)
            return count
        return 0

    def _copy(self, source: OpenFile, start: int, count: int, progress: Progress) -> None:
        in_kernel = hasattr(os, "copy_file_range")
        while count:
            want = min(count, _PIECE)
            try:
                if in_kernel:
                    done = os.copy_file_range(source.fd, self.fd, want, start, self.size)
                else:
                    done = os.pwrite(self.fd, os.pread(source.fd, want, start), self.size)
            except OSError:
                if not in_kernel:
                    raise
                in_kernel = False  # EXDEV, EINVAL, ENOSYS: not between these file systems
                continue
            if not done:
                raise FormatError(f"{source.name} became shorter while it was read")
            self.size, start, count = self.size + done, start + done, count - done
            progress(done)

    def publish(self, path: Path) -> None:
        """Make the file durable under its name."""
        with writing(path):
            self._file.publish(path)

    def __enter__(self) -> ExportTarget:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.discard()


@contextmanager
def hashing(
    blobs: Sequence[tuple[OpenFile, Digest]], tick: Callable[[int], object] = _nothing
) -> Iterator[Callable[[], None]]:
    """Hash blobs beside the block, several at once; what it made of them is then known good.

    Yields a function to call now and then from the block: it passes the bytes
    hashed since the last call to ``tick``. Raises :class:`DamagedError` at the
    block's end when a blob's bytes are not those of its digest.
    """
    told = position = 0

    def look(blob: tuple[OpenFile, Digest], part: Part) -> None:
        source, digest = blob
        if hash_file(source.fd, source.size, part.at) != digest:
            raise DamagedError(
                f"blob {digest} is damaged: its content does not match its digest",
                hint="mbuild verify reports which models use it and how to repair it",
            )

    def run(cancel: Cancel) -> None:
        def at(done: int, total: int) -> None:
            nonlocal position
            cancel.check()
            position = done

        spread(look, blobs, sum(source.size for source, _ in blobs), at, name="mbuild-check")

    def show() -> None:
        nonlocal told
        now = position
        tick(now - told)
        told = now

    with Beside(run, "mbuild-check") as looking:
        yield show
        looking.wait(show)
        show()
