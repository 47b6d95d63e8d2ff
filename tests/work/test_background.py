"""What follows on another thread: in order, and its errors are not lost."""

from __future__ import annotations

import threading
import time

import pytest

from mbuild.work.background import Background


def test_tasks_run_in_their_order() -> None:
    """One after another."""
    seen: list[int] = []
    work = Background("test")
    for number in range(100):
        work.put(lambda number=number: seen.append(number))  # type: ignore[misc]
    work.wait()
    assert seen == list(range(100))
    work.stop()


def test_an_error_is_raised_by_the_next_call() -> None:
    """By one that waits, and by every later one."""
    work = Background("test")
    work.put(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        work.wait()
    with pytest.raises(ZeroDivisionError):
        work.put(lambda: None)
    work.stop()


def test_stopping_drops_what_waits() -> None:
    """The running task ends, the others never start."""
    started, go, seen = threading.Event(), threading.Event(), []
    work = Background("test")

    def first() -> None:
        started.set()
        go.wait(10)
        seen.append(1)

    work.put(first)
    work.put(lambda: seen.append(2))
    started.wait(10)
    threading.Timer(0.05, go.set).start()
    work.stop()
    time.sleep(0.01)
    assert seen == [1]
