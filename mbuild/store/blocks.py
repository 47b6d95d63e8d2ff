"""Large files digested and written block by block on threads, past the page cache if possible.

Copying a gigabyte into the page cache and waiting for it to get from there to the disk
costs a core most of the time that hashing it does, and pushes out what others need. A
direct write costs next to nothing, and what it has written is on the disk.
"""

from __future__ import annotations

import mmap
import os
import threading
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING
from weakref import WeakSet

from mbuild.core.errors import CancelledError
from mbuild.store.files import NO_SUPPORT, write_all
from mbuild.work.background import Background
from mbuild.work.limits import DISK, HASH

if TYPE_CHECKING:
    from collections.abc import Callable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BLOCK = 4 << 20
"""Bytes of a block; it starts at a page, as direct writing wants."""

_BLOCKS = 6  # of one file; of all that are written at the same time:
_TOGETHER = 24
_FEWEST = 2
_ALIGNMENT = 4096  # what direct writes have to begin and end at; the strictest disks' sector
_ROOM = 2 << 20  # bytes of one direct write where there are no blocks
_DIRECT = getattr(os, "O_DIRECT", 0)


_writing: WeakSet[Blocks] = WeakSet()
"""Whoever has blocks: of many variants or shards each has fewer."""


class Blocks:
    """Memory on its way to an empty file: one thread fills blocks, others take them in order.

    Used as take, fill, put. Each of ``looks`` sees the bytes of each block on a thread of
    its own, before the last thread writes it. An error of the writing (``OSError``) is raised
    by every later take, put and wait.
    """

    def __init__(self, fd: int, *looks: Callable[[memoryview], object]) -> None:
        self._fd = fd
        self._eyes = [(look, Background("mbuild-digest")) for look in looks]
        self._disk = Background("mbuild-disk")
        self._free: SimpleQueue[memoryview | None] = SimpleQueue()
        self._made = 0
        self._error: BaseException | None = None
        self._direct = _set_direct(fd, True)
        self.written = 0

    def take(self) -> memoryview:
        """A block of :data:`BLOCK` bytes with anything in it, once there is one."""
        if self._free.empty() and self._made < self._most:
            self._made += 1
            _writing.add(self)
            return memoryview(mmap.mmap(-1, BLOCK))
        block = self._free.get()
        if block is None:
            self._free.put(None)
            raise self._error or CancelledError("the writing was stopped")
        return block

    @property
    def _most(self) -> int:
        """How many blocks there may be."""
        others = len(_writing) - (self in _writing)
        return max(_FEWEST, min(_BLOCKS, _TOGETHER // (1 + others)))

    @property
    def slowest(self) -> str:
        """What holds up whoever waits for a block now: what most blocks wait for."""
        seeing = max((eyes.waiting for _, eyes in self._eyes), default=0)
        return HASH if seeing > self._disk.waiting else DISK

    def put(self, block: memoryview, count: int) -> None:
        """Write the first bytes of a block; all but the file's last block are full ones."""
        self._pass_on(partial(self._write_and_free, block, count), block[:count])

    def _pass_on(self, work: Callable[[], object], seen: memoryview | None = None) -> None:
        """Have the disk's thread do something, after everybody has seen the bytes."""
        self._show(seen, partial(self._attempt, work), 0)

    def _show(self, seen: memoryview | None, task: Callable[[], object], number: int) -> None:
        """Have the next pair of eyes see the bytes and pass the task on, in the end to the disk."""
        if number == len(self._eyes):
            self._disk.put(task)
            return
        look, eyes = self._eyes[number]

        def see() -> None:
            if seen is not None:
                look(seen)
            self._show(seen, task, number + 1)

        eyes.put(see)

    def seen(self) -> None:
        """Wait until everybody has seen everything that was put."""
        for _, eyes in self._eyes:
            eyes.wait()

    def then(self, begun: bytes, task: Callable[[int], object]) -> None:
        """Do something once what was put so far is written, with ``begun`` behind it.

        That is the beginning of the next block, which is written again with the whole
        block later. The task is given how many bytes of the file have been written.
        """

        def write_and_do() -> None:
            if begun:
                direct = self._direct
                self._leave_direct()
                write_all(self._fd, begun)
                os.lseek(self._fd, self.written, os.SEEK_SET)
                self._direct = direct and _set_direct(self._fd, True)
            task(self.written + len(begun))

        self._pass_on(write_and_do)

    def wait(self) -> None:
        """Wait until all that was put is written."""
        self.seen()
        self._disk.wait()

    def finish(self, block: memoryview | None, count: int) -> None:
        """Wait for everything, and write the last bytes, here."""
        self.wait()
        if block is not None:
            for look, _ in self._eyes:
                look(block[:count])
            self._write(block[:count])
        self._leave_direct()

    def close(self) -> None:
        """After :meth:`finish`: end the threads, and give the memory back."""
        self.stop()
        self._free = SimpleQueue()

    def stop(self) -> None:
        """Drop what waits."""
        _writing.discard(self)
        for _, eyes in self._eyes:
            eyes.stop()
        self._disk.stop()
        self._free.put(None)

    def _write_and_free(self, block: memoryview, count: int) -> None:
        self._write(block[:count])
        self._free.put(block)

    def _attempt(self, task: Callable[[], object]) -> None:
        try:
            task()
        except BaseException as error:
            # No block comes back any more: whoever waits for one is to hear why.
            self._error = error
            self._free.put(None)
            raise

    def _write(self, data: memoryview) -> None:
        if self._direct and len(data) % _ALIGNMENT:
            self._leave_direct()
        try:
            write_all(self._fd, data)
        except OSError as error:
            if not self._direct or error.errno not in NO_SUPPORT:
                raise
            # Not on this file system after all, or no more than a part was taken.
            done = os.lseek(self._fd, 0, os.SEEK_CUR) - self.written
            self._leave_direct()
            write_all(self._fd, data[done:])
        self.written += len(data)

    def _leave_direct(self) -> None:
        if self._direct:
            self._direct = not _set_direct(self._fd, False)


def write_past_cache(fd: int, data: memoryview) -> None:
    """Write bytes to an empty file, past the page cache as far as that can be done.

    They go through aligned memory, which each thread has: copying them there costs a
    twentieth of what the page cache does. Raises OSError.
    """
    done, whole = 0, len(data) - len(data) % _ALIGNMENT
    if len(data) >= _ROOM and _set_direct(fd, True):
        try:
            for start in range(0, whole, _ROOM):
                piece = data[start : min(start + _ROOM, whole)]
                _aligned.room[: len(piece)] = piece
                write_all(fd, _aligned.room[: len(piece)])
            done = whole
        except OSError as error:
            if error.errno not in NO_SUPPORT:
                raise
            done = os.lseek(fd, 0, os.SEEK_CUR)
        finally:
            _set_direct(fd, False)
    write_all(fd, data[done:])


class _Aligned(threading.local):
    """Memory that starts at a page, one for each thread that writes directly."""

    def __init__(self) -> None:
        self.room = memoryview(mmap.mmap(-1, _ROOM))


_aligned = _Aligned()


def _set_direct(fd: int, on: bool) -> bool:
    """Switch direct writing on or off (Linux); whether that was done."""
    if fcntl is None or not _DIRECT:
        return False
    with suppress(OSError):
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | _DIRECT if on else flags & ~_DIRECT)
        return True
    return False
