"""Tasks that others run: a few at once, in order, and what happens when somebody dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor

import pytest

from mbuild.core.errors import FormatError, UsageError, WorkerError
from mbuild.work.elsewhere import Elsewhere
from mbuild.work.pools import WorkerPool, open_pool, pool_of


def nothing() -> None:
    """A check that stops nothing."""


def square(number: int) -> int:
    """A task."""
    return number * number


def test_tasks_are_taken_in_any_order_and_few_are_on_their_way() -> None:
    """A window of three: the fourth is handed out when the second is asked for."""
    given: list[int] = []

    def run(number: int) -> int:
        given.append(number)
        return square(number)

    with ThreadPoolExecutor(1) as executor:
        work = Elsewhere(WorkerPool(executor, 1, "here"), run, range(6), 3)
        assert work.take(0, nothing) == 0
        executor.submit(nothing).result()
        assert given == [0, 1, 2]
        assert work.take(1, nothing) == 1
        executor.submit(nothing).result()
        assert given == [0, 1, 2, 3]
        assert [work.take(number, nothing) for number in (5, 4)] == [25, 16]


def test_what_mbuild_raises_on_purpose_is_raised_here() -> None:
    """With its message and its remedy."""

    def run(number: int) -> int:
        raise FormatError("bad", hint="mend it")

    with ThreadPoolExecutor(1) as executor:
        work = Elsewhere(WorkerPool(executor, 1, "here"), run, [1], 2)
        with pytest.raises(FormatError, match="bad") as found:
            work.take(0, nothing)
    assert found.value.hint == "mend it"


@pytest.mark.parametrize("error", [ImportError("no module"), AttributeError("no fill")])
def test_who_cannot_load_the_task_has_another_mbuild(error: Exception) -> None:
    """An executor that cannot find the function raises so; nobody does the task in secret."""

    def run(number: int) -> int:
        raise error

    with ThreadPoolExecutor(1) as executor:
        work = Elsewhere(WorkerPool(executor, 1, "there"), run, [1], 2)
        with pytest.raises(WorkerError, match="a different mbuild from this machine"):
            work.take(0, nothing)


def test_one_task_that_is_lost_leaves_the_others() -> None:
    """As where a worker died too often on it: its caller does it."""

    def run(number: int) -> int:
        if number == 1:
            raise MemoryError("full")
        return square(number)

    with ThreadPoolExecutor(1) as executor:
        work = Elsewhere(WorkerPool(executor, 1, "here"), run, range(3), 2)
        assert [work.take(number, nothing) for number in range(3)] == [0, None, 4]
    assert work.lost == ["MemoryError: full"]


class Dead(Executor):
    """An executor that takes two tasks and is broken then, as ProcessPoolExecutor is."""

    def __init__(self) -> None:
        self.futures: list[Future[int]] = []

    def submit(self, fn: Callable[..., int], /, *args: object, **kwargs: object) -> Future[int]:  # type: ignore[override]
        """Take it, never do it."""
        if len(self.futures) == 2:
            raise BrokenExecutor("a process died")
        self.futures.append(Future())
        return self.futures[-1]


def test_a_broken_executor_is_asked_no_more() -> None:
    """Whoever waits does not wait for ever; everything left is done here."""
    executor = Dead()
    work = Elsewhere(WorkerPool(executor, 1, "there"), square, range(9), 4)
    executor_future = threading.Timer(
        0.2, lambda: executor.futures[0].set_exception(BrokenExecutor("a process died"))
    )
    executor_future.start()
    assert [work.take(number, nothing) for number in range(9)] == [None] * 9
    assert work.lost == ["BrokenExecutor: a process died", "a process died"]
    executor_future.join()


def test_a_scheduler_that_is_gone_is_noticed_while_somebody_waits() -> None:
    """Its futures may never be done."""
    gone = time.monotonic() + 0.2
    executor = Dead()
    pool = WorkerPool(
        executor, 1, "there", lambda: "it is closed" if time.monotonic() > gone else ""
    )
    work = Elsewhere(pool, square, range(2), 1)
    assert [work.take(number, nothing) for number in range(2)] == [None, None]
    assert work.lost == ["it is closed"]


def test_a_task_that_was_cancelled_elsewhere_is_lost() -> None:
    """As when Dask's scheduler forgets it."""
    executor = Dead()
    work = Elsewhere(WorkerPool(executor, 1, "there"), square, range(1), 1)
    threading.Timer(0.2, lambda: executor.futures[0].cancel()).start()
    assert work.take(0, nothing) is None


def test_who_waits_can_be_stopped() -> None:
    """The check ends the waiting; what has not begun is cancelled."""
    executor = Dead()
    work = Elsewhere(WorkerPool(executor, 1, "there"), square, range(2), 2)

    def stop() -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        work.take(0, stop)
    work.stop()
    assert all(future.cancelled() for future in executor.futures)
    assert work.take(0, nothing) is None


def test_how_many_tasks_an_executor_runs_at_once() -> None:
    """Those of the standard library know; of another one it is as many as this machine could."""
    with ThreadPoolExecutor(7) as executor:
        assert pool_of(executor)[1:3] == (7, "ThreadPoolExecutor")
    assert pool_of(Dead()).slots >= 1


@pytest.mark.parametrize("where", ["local", "local:0", "local:x", "dask:", "dask://", "ray://x"])
def test_places_that_nobody_knows_are_refused(where: str) -> None:
    """With the two that there are."""
    with pytest.raises(UsageError, match="not a place that computes"), open_pool(where):
        pass
