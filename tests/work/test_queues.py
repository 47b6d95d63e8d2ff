"""Tasks side by side, and what comes after all of them; how fast something goes."""

from __future__ import annotations

import threading
import time

import pytest

from mbuild.work.pace import Pace
from mbuild.work.queues import Queues


def _until_empty(queues: Queues) -> None:
    end = time.monotonic() + 10
    while queues.waiting:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_what_follows_all_waits_for_what_was_put_before() -> None:
    """Not for what comes later, and several that follow keep their order."""
    queues, order, gate = Queues("test", 3), list[str](), threading.Semaphore(0)
    for number in range(3):
        queues.put(lambda number=number: (gate.acquire(timeout=10), order.append(f"{number}")))
    queues.after_all(lambda: (time.sleep(0.1), order.append("first")))
    queues.after_all(lambda: order.append("second"))
    assert queues.waiting == 5 and order == []
    for _ in range(3):
        gate.release()
    _until_empty(queues)
    assert sorted(order[:3]) == ["0", "1", "2"]
    assert order[3:] == ["first", "second"]
    queues.after_all(lambda: order.append("at once"))
    _until_empty(queues)
    assert order[-1] == "at once"
    queues.stop()


def test_tasks_run_side_by_side() -> None:
    """Two that wait for each other both end."""
    queues, both = Queues("test", 2), threading.Barrier(2)
    for _ in range(2):
        queues.put(lambda: both.wait(10))
    _until_empty(queues)
    queues.stop()


def test_a_task_that_raises_holds_up_nobody() -> None:
    """Those behind it in its lane and what follows all run; its error is told to who asks."""
    queues, order = Queues("test", 1), list[str]()

    def fail() -> None:
        raise OSError("no space")

    queues.put(fail)
    queues.put(lambda: order.append("behind"))
    queues.after_all(lambda: order.append("after all"))
    _until_empty(queues)
    assert order == ["behind", "after all"]
    with pytest.raises(OSError, match="no space"):
        queues.check()
    queues.stop()


def test_stopping_drops_what_waits() -> None:
    """What runs ends, what waits never begins."""
    queues, gate, order = Queues("test", 1), threading.Semaphore(0), list[int]()
    begun = threading.Semaphore(0)
    queues.put(lambda: (begun.release(), gate.acquire(timeout=10), order.append(1)))
    queues.put(lambda: order.append(2))
    queues.after_all(lambda: order.append(3))
    begun.acquire(timeout=10)
    threading.Timer(0.05, gate.release).start()
    queues.stop()
    assert order == [1]


def test_a_pace_is_that_of_what_came() -> None:
    """Nothing is known before; small things tell nothing; all others count by their bytes."""
    pace = Pace()
    assert not pace.known and pace.seconds(1 << 30) == 0.0
    pace.add(10, 5.0)
    assert not pace.known
    pace.add(1_000_000, 1.0)
    pace.add(3_000_000, 1.0)
    assert pace.known and pace.seconds(4_000_000) == 2.0
