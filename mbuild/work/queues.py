"""Several queues side by side for what goes over a network, beside the work that fills them."""

from __future__ import annotations

import threading

from mbuild.work.background import Background, Task


class Queues:
    """Runs tasks on a few threads, which start with the first tasks.

    A task should not raise: whoever puts it there knows what to do about an error. If one does,
    those behind it run all the same, so that nobody waits for ever, and :meth:`check` raises it.
    """

    def __init__(self, name: str, count: int) -> None:
        self._queues = [Background(f"{name}-{number}") for number in range(count)]
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._after: list[tuple[set[int], int, Task]] = []  # what each waits for, its number
        self._next = 0
        self._error: BaseException | None = None

    @property
    def waiting(self) -> int:
        """How many tasks are not done."""
        with self._lock:
            return len(self._running)

    def put(self, task: Task) -> None:
        """Add a task, to the lane that has the fewest."""
        with self._lock:
            number = self._numbered()
        self._start(number, task)

    def after_all(self, task: Task) -> None:
        """Run a task once all that either method was given before it is done."""
        with self._lock:
            before = set(self._running)
            number = self._numbered()
            if before:
                self._after.append((before, number, task))
                return
        self._start(number, task)

    def check(self) -> None:
        """Raise what a task raised first, if one did."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Drop what is waiting, and let what runs end."""
        with self._lock:
            self._after.clear()
        for each in self._queues:
            each.stop()

    def _numbered(self) -> int:
        """The number of a new task, which counts from now on; the caller holds the lock."""
        self._next += 1
        self._running.add(self._next)
        return self._next

    def _start(self, number: int, task: Task) -> None:
        def run() -> None:
            try:
                task()
            except BaseException as error:
                self._error = self._error or error
            finally:
                self._ended(number)

        min(self._queues, key=lambda each: each.waiting).put(run)

    def _ended(self, number: int) -> None:
        with self._lock:
            for before, _, _ in self._after:
                before.discard(number)
            ready = [(own, task) for before, own, task in self._after if not before]
            self._after = [row for row in self._after if row[0]]
            self._running.discard(number)
        for following, task in ready:
            self._start(following, task)
