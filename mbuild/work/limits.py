"""What held work up: the disk, a digest that cannot be shared out, or the cores.

Whoever hands bytes on in order waits now and then: for work that is not done, for
what digests, for the disk. These seconds say what a faster machine would need.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

ValueT = TypeVar("ValueT")

DISK, HASH, CORES = "disk", "hash", "cores"


class Limits:
    """Seconds in which each resource held one line of work up; of one thread at a time."""

    def __init__(self) -> None:
        self.seconds = {DISK: 0.0, HASH: 0.0, CORES: 0.0}

    def add(self, what: str, seconds: float) -> None:
        """So many more seconds."""
        self.seconds[what] += seconds

    @contextmanager
    def held_up_by(self, what: str) -> Iterator[None]:
        """The time that a block takes."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(what, time.perf_counter() - started)

    def waiting_for(self, what: str, values: Iterable[ValueT]) -> Iterator[ValueT]:
        """The values; the time that each takes to come counts."""
        waiting = iter(values)
        while True:
            with self.held_up_by(what):
                try:
                    value = next(waiting)
                except StopIteration:
                    return
            yield value

    def rounded(self) -> dict[str, float]:
        """In seconds and milliseconds."""
        return {what: round(seconds, 3) for what, seconds in self.seconds.items()}


def added(limits: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The seconds of several lines of work that one thread fed, together."""
    found: dict[str, float] = {}
    for each in limits:
        for what, seconds in each.items():
            found[what] = round(found.get(what, 0.0) + seconds, 3)
    return found


class _Waited(threading.local):
    """Seconds that this thread has waited in its reads."""

    seconds = 0.0


_waited = _Waited()


@contextmanager
def reading() -> Iterator[None]:
    """A block that reads a file: what it takes beyond this thread's computing is the disk's."""
    wall, computing = time.perf_counter(), time.thread_time()
    try:
        yield
    finally:
        wall, computing = time.perf_counter() - wall, time.thread_time() - computing
        _waited.seconds += max(0.0, wall - computing)


def waited_for_reads() -> float:
    """Seconds that this thread has waited in :func:`reading` so far."""
    return _waited.seconds
