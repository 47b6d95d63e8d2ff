"""Work on many things at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from mbuild.core.errors import CancelledError
from mbuild.work.cores import use_threads
from mbuild.work.spread import Part, run_all, spread


def quiet(done: int, total: int) -> None:
    """Progress that nobody looks at."""


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_values_come_in_the_items_order(threads: int) -> None:
    """Whatever ends first."""

    def work(item: int, part: Part) -> int:
        time.sleep((item * 7 % 5) / 2000)
        return item * item

    found = spread(work, range(40), 40, quiet, name="spread-test", threads=threads)
    assert found == [item * item for item in range(40)]


def test_no_more_threads_work_than_were_asked_for() -> None:
    """``--threads`` counts where nothing else is said."""
    busy: set[int] = set()

    def work(item: int, part: Part) -> None:
        busy.add(threading.get_ident())
        time.sleep(0.002)

    use_threads(2)
    try:
        spread(work, range(20), 20, quiet, name="spread-test")
    finally:
        use_threads(None)
    assert len(busy) <= 2


def test_progress_is_told_on_the_calling_thread_and_ends_with_all() -> None:
    """Parts count from the start of their items, or add up; the last word is the total."""
    told: list[tuple[int, int, int]] = []

    def work(item: int, part: Part) -> None:
        part.at(3, 10)
        part.add(4)
        time.sleep(0.25)

    def progress(done: int, total: int) -> None:
        told.append((threading.get_ident(), done, total))

    spread(work, range(2), 20, progress, name="spread-test", threads=2)
    assert {ident for ident, _, _ in told} == {threading.get_ident()}
    assert [done for _, done, _ in told][-1] == 20
    assert 14 in [done for _, done, _ in told]
    assert all(total == 20 for _, _, total in told)


def test_the_first_items_error_is_raised_once_the_others_ended() -> None:
    """Not the first in time."""
    ended = []

    def work(item: int, part: Part) -> None:
        time.sleep(0.05 if item == 1 else 0)
        ended.append(item)
        if item in (1, 2):
            raise ValueError(str(item))

    with pytest.raises(ValueError, match="1"):
        spread(work, range(4), 4, quiet, name="spread-test", threads=4)
    assert sorted(ended) == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [KeyboardInterrupt, CancelledError])
def test_ctrl_c_stops_what_runs_and_what_waits(error: type[BaseException]) -> None:
    """The threads are gone when the error comes out, and no further item was begun."""
    begun: list[int] = []

    def work(item: int, part: Part) -> None:
        begun.append(item)
        while True:
            part.add(1)
            time.sleep(0.001)

    def progress(done: int, total: int) -> None:
        raise error("stopped")

    with pytest.raises(error):
        spread(work, range(50), 50, progress, name="spread-stop", threads=2)
    assert len(begun) == 2
    assert not [t for t in threading.enumerate() if t.name.startswith("spread-stop")]


def failing(*numbers: int) -> tuple[Callable[[int], None], list[int]]:
    """A task that fails for these items, and the items that were begun."""
    begun: list[int] = []

    def task(item: int) -> None:
        begun.append(item)
        if item in numbers:
            raise ValueError(str(item))

    return task, begun


@pytest.mark.parametrize("threads", [1, 3, 100])
def test_run_all_does_each_item_once(threads: int) -> None:
    """On any number of threads, and of no items none."""
    task, begun = failing()
    run_all(task, range(50), threads, name="all-test")
    assert sorted(begun) == list(range(50))
    run_all(task, [], threads, name="all-test")


@pytest.mark.parametrize("threads", [1, 4])
def test_run_all_raises_the_error_of_the_first_item_that_fails(threads: int) -> None:
    """The same one every time, and nothing is begun after it is known."""
    for _ in range(20):
        task, begun = failing(5, 6, 7)
        with pytest.raises(ValueError, match="5"):
            run_all(task, range(10_000), threads, name="all-test")
        assert len(begun) < 10_000


def test_one_thread_is_the_calling_one() -> None:
    """No thread is started for work that has nobody to share it with."""
    idents = set()
    run_all(lambda item: idents.add(threading.get_ident()), range(3), 1, name="all-test")
    assert idents == {threading.get_ident()}
