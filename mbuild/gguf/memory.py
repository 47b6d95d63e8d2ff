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

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALL = 1 << 20
"""Bytes below which Python's own allocator does better."""

_LARGE = 64 << 20  # bytes of blocks that are not kept: a model has few tensors of that size
_IDLE = 96 << 20  # bytes that are kept while nobody uses them

_PRIVATE: dict[str, int] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
)


class _Pool:
    """Blocks of memory that nobody uses at the moment; of any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._free: list[mmap.mmap] = []
        # Where blocks come back: from wherever an array's last use ends, be it in the
        # middle of take(), so without a lock.
        self._returned: deque[mmap.mmap] = deque()

    @contextmanager
    def held(self) -> Iterator[None]:
        with self._lock:
            self._holders += 1
        try:
            yield
        finally:
            with self._lock:
                self._holders -= 1
                if not self._holders:
                    self._free.clear()
                    self._returned.clear()

    def take(self, count: int) -> mmap.mmap:
        """The smallest free block with so much room, or a new one in the place of all smaller."""
        with self._lock:
            while self._returned:
                self._free.append(self._returned.popleft())
            self._free.sort(key=len)
            while sum(map(len, self._free)) > _IDLE:
                self._free.pop()
            for index, block in enumerate(self._free):
                if len(block) >= count:
                    return self._free.pop(index)
            self._free.clear()
        try:
            return mmap.mmap(-1, count, **_PRIVATE)
        except OSError as error:
            raise MemoryError(f"{count} bytes of memory cannot be had") from error

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
