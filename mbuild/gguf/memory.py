"""Memory for weights that is used again.

The system clears every page that it hands out, and where it runs as a guest may have to
ask its host for it: getting fresh memory for a tensor can take longer than reading it.
So what a tensor lay in serves the next one, for as long as something holds the pool.
"""

from __future__ import annotations

import mmap
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mbuild.work.cores import cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALL = 1 << 20
"""Bytes below which Python's own allocator does better."""

_LARGE = 64 << 20  # bytes of blocks that are not kept: a model has few tensors of that size
_IDLE = 96 << 20  # bytes that are kept while nobody uses them, and of each thread's:
_IDLE_A_THREAD = 12 << 20
_STEP = 1 << 20  # sizes are multiples of it, so that nearly equal requests share blocks

_PRIVATE: dict[str, int] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
)


def kept_idle(threads: int) -> int:
    """The most bytes that are kept while nobody uses them."""
    return _IDLE + _IDLE_A_THREAD * threads


class _Pool:
    """Blocks of memory that nobody uses at the moment, by their size; of any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._limit = _IDLE
        self._free: dict[int, list[mmap.mmap]] = {}
        # Where blocks come back: from wherever an array's last use ends, be it in the
        # middle of take(), so without a lock.
        self._returned: deque[mmap.mmap] = deque()

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            self._holders += 1
            self._limit = kept_idle(cores())
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._free.clear()
                    self._returned.clear()

    def take(self, count: int) -> mmap.mmap:
        """A free block with so much room and at most twice as much, or a new one."""
        size = -(-count // _STEP) * _STEP
        with self._lock:
            while self._returned:
                block = self._returned.popleft()
                self._free.setdefault(len(block), []).append(block)
            for length in sorted(self._free):
                if size <= length <= 2 * size:
                    return self._taken(length)
            idle = sum(length * len(blocks) for length, blocks in self._free.items())
            for length in sorted(self._free, key=lambda length: -len(self._free[length]) * length):
                while idle + size > self._limit and length in self._free:
                    self._taken(length)
                    idle -= length
        try:
            return mmap.mmap(-1, size, **_PRIVATE)
        except OSError as error:
            raise MemoryError(f"{count} bytes of memory cannot be allocated") from error

    def _taken(self, length: int) -> mmap.mmap:
        blocks = self._free[length]
        block = blocks.pop()
        if not blocks:
            del self._free[length]
        return block

    def give(self, block: mmap.mmap) -> None:
        """Take a block back; dropped where nobody holds the pool, or if it is a large one."""
        if self._holders and len(block) <= _LARGE:
            self._returned.append(block)


_pool = _Pool()


def reused() -> Any:
    """A context within which memory of :func:`room` is kept for the next request."""
    return _pool.held()


def room(count: int) -> NDArray[np.uint8]:
    """Flat memory of ``count`` bytes, with anything in it; zero bytes if ``count`` is 0.

    It is used again when this array and all that look into it are gone.
    """
    import numpy as np

    if count < SMALL:
        return np.empty(count, np.uint8)
    block = _pool.take(count)
    array: NDArray[np.uint8] = np.frombuffer(block, np.uint8, count)
    weakref.finalize(array, _pool.give, block).atexit = False
    return array
