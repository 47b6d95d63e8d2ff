"""What waits for the disk, on a thread of its own beside the writing."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from mbuild.work.cancel import Cancel

Task = Callable[[], object]


class Background:
    """Runs tasks one after another on a thread, which starts with the first.

    A task's error ends the work and is raised by every later call.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._tasks: deque[Task] = deque()
        self._cancel = Cancel()
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """How many tasks are not done."""
        return len(self._tasks)

    def put(self, task: Task) -> None:
        """Add a task."""
        with self._changed:
            self._raise()
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self._name, daemon=True)
                self._thread.start()
            self._tasks.append(task)
            self._changed.notify_all()

    def wait(self) -> None:
        """Wait until every task is done; raises what one of them raised."""
        with self._changed:
            while self._tasks and self._error is None:
                self._changed.wait()
            self._raise()

    def stop(self) -> None:
        """Drop what is waiting, and let the running task end."""
        with self._changed:
            self._cancel.cancel()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._tasks and not self._cancel.cancelled:
                    self._changed.wait()
                if self._cancel.cancelled:
                    return
                task = self._tasks[0]
            try:
                task()
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._tasks.popleft()
                self._changed.notify_all()
