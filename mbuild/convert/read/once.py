"""What several tensors, or several parts of one, are made of: read once, and kept for the rest.

Gate and up of gpt-oss are the even and the odd columns of one matrix, those of Llama 4 its two
halves: no file can be read in such steps. So both are made when one is asked for, and the other
waits: in memory while that is little, then in a file without a name, which the system keeps in
memory where it has room. Small tensors that belong to a whole weight, such as the scales of its
groups, stay in memory while parts of it are made.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, BinaryIO

from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
    Scratch = Callable[[], BinaryIO]

IN_MEMORY = 32 << 20
"""Bytes of one tensor's parts that wait in memory; what is more waits in a file."""

WHOLE = 128 << 20
"""Bytes of tensors that are kept whole while parts of a weight are made of them."""

GRAIN = 1 << 20
"""Values of a tensor that is taken apart that are read at once, at least."""

_TENSORS = 4  # whose parts wait; a build works on fewer at once, in the file's order


def _nameless() -> BinaryIO:
    import tempfile

    return tempfile.TemporaryFile(buffering=0)


_scratch: ContextVar[Scratch] = ContextVar("scratch", default=_nameless)
_holding: deque[weakref.ref[Apart]] = deque()
_recent: weakref.WeakKeyDictionary[LoadedOnce, int] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def waiting_in(scratch: Scratch) -> Iterator[None]:
    """A block that makes tensors whose parts wait in files of ``scratch``: new ones, unbuffered."""
    token = _scratch.set(scratch)
    try:
        yield
    finally:
        _scratch.reset(token)


class Apart:
    """Tensors that are taken out of one, some positions of its first axis at a time.

    Any thread may take, any number of times: what waits is given once, and read anew where
    it is asked for again.
    """

    def __init__(
        self,
        cut: Callable[[int, int], Array],
        changes: Sequence[Callable[[Array], Array]],
        count: int,
        values: int,
    ) -> None:
        """``cut(first, last)`` gives some of ``count`` positions, each of so many ``values``;
        each of ``changes`` makes of them what one of the tensors has there."""
        self.step = max(1, min(GRAIN // max(values, 1), count))
        self._cut, self._changes, self._count = cut, changes, count
        self._scratch = _scratch.get()
        self._changed = threading.Condition()
        self._reading: set[int] = set()
        self._waiting: dict[tuple[int, int], Array | _Place] = {}
        self._bytes = 0
        self._file: _File | None = None

    def take(self, which: int, first: int, last: int) -> Array:
        """What one of the tensors has from a position on, flat; ``first`` is a multiple of
        :attr:`step`, and so is ``last`` if it is not the end."""
        found = [self._block(which, at) for at in range(first, last, self.step)]
        if len(found) == 1:
            return found[0]
        import numpy as np

        return np.concatenate(found)

    def _block(self, which: int, at: int) -> Array:
        """Some positions: what waits, or is just being made, else read now."""
        with self._changed:
            while at in self._reading:
                self._changed.wait()
            found = self._waiting.pop((which, at), None)
            self._taken(found)
            if found is None:
                self._reading.add(at)
        if found is not None:
            return found.values() if isinstance(found, _Place) else found
        try:
            return self._read(which, at)
        finally:
            with self._changed:
                self._reading.discard(at)
                self._changed.notify_all()

    def _read(self, which: int, at: int) -> Array:
        """Read some positions; those of the other tensors wait from now on."""
        from mbuild.convert.read.dtypes import contiguous

        _hold(self)
        values = self._cut(at, min(at + self.step, self._count))
        for number, change in enumerate(self._changes):
            if number != which:
                self._keep(number, at, contiguous(change(values)).reshape(-1), values)
        return contiguous(self._changes[which](values)).reshape(-1)

    def _keep(self, which: int, at: int, made: Array, source: Array) -> None:
        """Let values wait. What no disk has room for will be read again."""
        import numpy as np

        with self._changed:
            self._taken(self._waiting.pop((which, at), None))
            in_memory = self._bytes + made.nbytes <= IN_MEMORY
            self._bytes += made.nbytes if in_memory else 0
        kept: Array | _Place
        if not in_memory and not hasattr(os, "pwrite"):  # Windows
            return
        if in_memory:
            kept = made.copy() if np.may_share_memory(made, source) else made
        else:
            unit = mmap.ALLOCATIONGRANULARITY
            room = -(-self.step * (source.nbytes // source.shape[0]) // unit) * unit
            place = (at // self.step * len(self._changes) + which) * room
            try:
                kept = _Place.written(self._opened(), place, made)
            except OSError:
                return
        with self._changed:
            self._waiting[which, at] = kept

    def _opened(self) -> _File:
        with self._changed:
            if self._file is None:
                self._file = _File(self._scratch())
            return self._file

    def _taken(self, found: Array | _Place | None) -> None:
        """Count what waits no longer; the lock is held. The file goes with the last of it."""
        self._bytes -= 0 if found is None or isinstance(found, _Place) else found.nbytes
        if not self._waiting and not self._reading:
            self._file = None

    def forget(self) -> None:
        """Let nothing wait any longer."""
        with self._changed:
            self._waiting.clear()
            self._bytes, self._file = 0, None


class _File:
    """A file that is closed when nothing in it waits any longer, and nobody writes to it."""

    fd = -1

    def __init__(self, file: BinaryIO) -> None:
        with file:
            self.fd = os.dup(file.fileno())

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class _Place(NamedTuple):
    """Where values lie in a file; places in bytes."""

    file: _File
    first: int
    stop: int
    dtype: np.dtype[Any]

    @classmethod
    def written(cls, file: _File, first: int, values: Array) -> _Place:
        """Write values; from any thread."""
        data, at = values.view("u1").data, 0
        while at < len(data):
            at += os.pwrite(file.fd, data[at:], first + at)
        return cls(file, first, first + len(data), values.dtype)

    def values(self) -> Array:
        """The values, in the memory in which the system has them."""
        import numpy as np

        size, own = self.stop - self.first, mmap.ACCESS_COPY
        mapped = mmap.mmap(self.file.fd, size, offset=self.first, access=own)
        return np.frombuffer(mapped, self.dtype)


def _hold(apart: Apart) -> None:
    """Note of which tensors parts wait; those of the ones before the last few wait in vain."""
    with _lock:
        if any(each() is apart for each in _holding):
            return
        _holding.append(weakref.ref(apart))
        oldest = _holding.popleft()() if len(_holding) > _TENSORS else None
    if oldest is not None:
        oldest.forget()


class LoadedOnce:
    """Values of a small tensor, of which many parts of a weight are made: loaded once for all.

    Of those that were used last so many are kept that they have :data:`WHOLE` bytes.
    """

    def __init__(self, load: Callable[[], Array]) -> None:
        self._load = load
        self._loading = threading.Lock()
        self._values: Array | None = None

    def __call__(self) -> Array:
        """The values; nobody may change them."""
        with self._loading:
            values = self._load() if self._values is None else self._values
            self._values = values
        with _lock:
            _recent.pop(self, None)
            _recent[self] = values.nbytes
            used = sum(_recent.values())
            for other, size in list(_recent.items()):
                if used <= WHOLE:
                    break
                other._values = None
                del _recent[other]
                used -= size
        return values
