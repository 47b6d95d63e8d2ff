"""Work that is done ahead of whoever needs it, on all cores, in order, within a budget of bytes.

A job is run on one of the threads, and its result is taken, job by job in their order, by
one or several consumers. What is being made and not yet taken by all of them is within the
budget, so that a slow consumer (a disk, a digest that cannot be made in parallel) holds
the work up instead of filling the memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from mbuild.work.cancel import Cancel
from mbuild.work.limits import CORES, DISK, Limits, waited_for_reads

ValueT = TypeVar("ValueT")

_JOIN_SECONDS = 0.2
_LEAST = 16 << 20
_MOST_A_THREAD = 52 << 20  # with what mbuild.gguf.memory keeps idle for it, 64 MiB a thread
_TWO_LARGE = 600 << 20
"""Bytes that two of the largest jobs may take together, so that one is made while the other is
written. Ranges of rows are far below half of it; of what cannot be cut into ranges, and is
larger, a second one would double the memory that a build takes, to save no more than its write."""


class Job(NamedTuple, Generic[ValueT]):
    """Something to make: ``size`` is what making and holding it takes, in bytes."""

    run: Callable[[], ValueT]
    size: int


def budget(threads: int, largest: int) -> int:
    """Bytes in flight that keep so many threads busy with jobs of at most ``largest`` bytes.

    That is two jobs a thread, as long as they are small ones; of very large ones one at all.
    """
    large = max(largest, min(2 * largest, _TWO_LARGE))
    return _LEAST + max(large, threads * min(2 * largest, _MOST_A_THREAD))


_running: set[int] = set()
"""All that is at work in this process: a model and its draft, say, share one budget."""


class Ahead(Generic[ValueT]):
    """Threads that run jobs in order, ahead of ``consumers`` that each take every result.

    A job that is larger than the budget runs when nothing else is held. Where several are
    at work at the same time each has its share of its budget. The error of a job
    that fails is raised wherever a result is taken, at once, whatever still runs.
    """

    def __init__(
        self, jobs: Sequence[Job[ValueT]], threads: int, limit: int, consumers: int = 1
    ) -> None:
        self._jobs = jobs
        self._limit = limit
        self._consumers = consumers
        # Two things to wait for: with one, every result would wake every thread that waits
        # for room, and on many cores they would take longer than the work.
        lock = threading.Lock()
        self._changed = threading.Condition(lock)  # a result, or the end
        self._room = threading.Condition(lock)  # room in the budget, or the end
        self._next = 0
        self._held = 0
        self._ready: dict[int, ValueT] = {}
        self._left: dict[int, int] = {}
        self._error: BaseException | None = None
        self._cancel = Cancel()
        self._worked = self._read = 0.0
        # Daemons: a job in compiled code cannot be interrupted and must not keep the
        # process from ending.
        self._threads = [
            threading.Thread(target=self._work, name=f"mbuild-work-{number}", daemon=True)
            for number in range(min(threads, len(jobs)))
        ]

    def start(self) -> None:
        """Begin to work."""
        _running.add(id(self))
        for thread in self._threads:
            thread.start()

    def take(self, index: int, limits: Limits | None = None) -> ValueT:
        """The result of a job, once it is there; every consumer calls it once for each.

        The time until then goes to ``limits``: to the disk as much of it as jobs wait for
        what they read, to the cores the rest. Raises what the first job that failed
        raised, and :class:`CancelledError` after :meth:`stop`.
        """
        started = time.perf_counter()
        with self._changed:
            while index not in self._ready:
                self._raise()
                self._changed.wait()
            if limits is not None:
                seconds = time.perf_counter() - started
                disk = seconds * self._read / self._worked if self._worked else 0.0
                limits.add(DISK, disk)
                limits.add(CORES, seconds - disk)
            return self._ready[index]

    def is_ready(self, index: int, seconds: float) -> bool:
        """Whether a result is there, or will not be, within so many seconds; it is not taken."""
        with self._changed:
            return self._changed.wait_for(lambda: index in self._ready or self.stopping, seconds)

    def done(self, index: int) -> None:
        """A consumer needs this result no longer; after the last one its bytes are free."""
        with self._changed:
            left = self._left.get(index, self._consumers) - 1
            self._left[index] = left
            if left == 0:
                self._ready.pop(index, None)
                del self._left[index]
                self._held -= self._jobs[index].size
                self._room.notify()

    def fail(self, error: BaseException) -> None:
        """A consumer gives up: everybody stops, with its error unless a job failed before."""
        with self._changed:
            self._end(error)

    def stop(self) -> None:
        """Let no further job start, and wait a moment for those that run."""
        _running.discard(id(self))
        with self._changed:
            self._cancel.cancel()
            self._ready.clear()
            self._wake_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(_JOIN_SECONDS / len(self._threads))

    @property
    def stopping(self) -> bool:
        """Whether a job that runs may as well end."""
        return self._cancel.cancelled or self._error is not None

    def _end(self, error: BaseException) -> None:
        """Note an error, unless one came before; everybody who waits hears of it."""
        self._error = self._error or error
        self._wake_all()

    def _wake_all(self) -> None:
        self._changed.notify_all()
        self._room.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error
        self._cancel.check()

    def _work(self) -> None:
        while (index := self._claim()) is not None:
            started, waited = time.perf_counter(), waited_for_reads()
            try:
                value = self._jobs[index].run()
            except BaseException as error:
                with self._changed:
                    # Jobs that end because of an error fail after it, and do not count.
                    self._end(error)
                return
            with self._changed:
                self._worked += time.perf_counter() - started
                self._read += waited_for_reads() - waited
                if not self._cancel.cancelled:
                    self._ready[index] = value
                self._changed.notify_all()
            del value

    def _claim(self) -> int | None:
        """The next job to run, once the budget has room; None when there is no more.

        Who gets one wakes the next thread, for which there may be room, too, or nothing to do.
        """
        with self._room:
            while not self.stopping and self._next < len(self._jobs):
                size = self._jobs[self._next].size
                share = self._limit // max(1, len(_running))
                if self._held == 0 or self._held + size <= share:
                    index = self._next
                    self._next += 1
                    self._held += size
                    self._room.notify()
                    return index
                self._room.wait()
            self._room.notify()
            return None
