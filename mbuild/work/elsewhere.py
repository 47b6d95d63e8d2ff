"""Tasks that others run, in order and a few ahead of whoever takes what comes of them.

What no longer can be had from them, because a worker, its machine or the scheduler died, is told
to whoever takes it, who does it himself: that costs the tasks that ran, and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Future
from typing import Generic, TypeVar

from mbuild.core.errors import MbuildError, WorkerError
from mbuild.work.pools import WorkerPool

TaskT = TypeVar("TaskT")
ValueT = TypeVar("ValueT")

_POLL_SECONDS = 0.1


class Elsewhere(Generic[TaskT, ValueT]):
    """Runs ``run`` for each of the tasks in a pool, ``window`` of them at once; thread-safe.

    ``run`` is a function that a module has, because whoever runs it has to find it there.
    """

    def __init__(
        self, pool: WorkerPool, run: Callable[[TaskT], ValueT], tasks: Sequence[TaskT], window: int
    ) -> None:
        self._pool = pool
        self._run = run
        self._tasks = tasks
        self._window = max(1, window)
        self._lock = threading.Lock()
        self._futures: dict[int, Future[ValueT]] = {}
        self._next = 0
        self._stopped = False
        self.lost: list[str] = []
        """Why tasks came to nothing, one text for each of them."""

    def take(self, number: int, check: Callable[[], object]) -> ValueT | None:
        """What a task comes to, once it is there; None where nobody will do it any more.

        ``check`` is called ten times a second meanwhile and ends the waiting by raising. Raises
        what the task raised, if mbuild raises that on purpose.
        """
        future = self._future(number)
        if future is None:
            return None
        while not future.done():
            check()
            if reason := self._pool.lost():
                self._give_up(reason)
                return None
            try:
                future.exception(timeout=_POLL_SECONDS)
            except (TimeoutError, CancelledError):
                continue
        return self._value(future)

    def dropped(self, number: int) -> None:
        """Nobody needs what a task came to any longer."""
        with self._lock:
            self._futures.pop(number, None)

    def stop(self) -> None:
        """Let no further task begin."""
        with self._lock:
            self._stopped = True
            futures = list(self._futures.values())
        for future in futures:
            future.cancel()

    def _future(self, number: int) -> Future[ValueT] | None:
        """The task on its way, and those behind it in the window."""
        with self._lock:
            while not self._stopped and self._next < min(number + self._window, len(self._tasks)):
                try:
                    task = self._tasks[self._next]
                    self._futures[self._next] = self._pool.executor.submit(self._run, task)
                except Exception as error:  # whatever an executor raises when it is broken
                    self._stopped = True
                    self.lost.append(f"{type(error).__name__}: {error}")
                    break
                self._next += 1
            return self._futures.get(number)

    def _value(self, future: Future[ValueT]) -> ValueT | None:
        try:
            return future.result()
        except MbuildError:
            raise
        except (ImportError, AttributeError, ModuleNotFoundError) as error:
            raise WorkerError(
                f"a worker of {self._pool.place} has a different mbuild from this machine's,"
                f" or none: {error}",
                hint="install the same version there",
            ) from None
        except BrokenExecutor as error:
            self._give_up(str(error) or "it is broken")
            return None
        except (CancelledError, Exception) as error:
            if self._stopped:
                return None
            if reason := self._pool.lost():
                self._give_up(reason)
                return None
            self.lost.append(f"{type(error).__name__}: {error}".splitlines()[0])
            return None

    def _give_up(self, reason: str) -> None:
        """Nothing more comes from there."""
        self.lost.append(reason)
        self.stop()
