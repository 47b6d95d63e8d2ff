"""Work beside the caller's."""

from __future__ import annotations

import threading

import pytest

from mbuild.core.errors import CancelledError
from mbuild.work.beside import Beside
from mbuild.work.cancel import Cancel


def forever(cancel: Cancel) -> None:
    """Work that only a cancel ends."""
    while True:
        cancel.check()


def threads_named(name: str) -> list[threading.Thread]:
    """The threads of that name that are alive."""
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_the_value_is_there_after_the_wait() -> None:
    """The work runs on a thread of its own, and its value can be asked for again."""
    with Beside(lambda cancel: threading.current_thread().name, "beside-test") as beside:
        assert beside.wait() == beside.wait() == "beside-test"


def test_nothing_is_a_value_too() -> None:
    """Work without a result gives None."""
    with Beside(lambda cancel: None, "beside-test") as beside:
        assert beside.wait() is None


def test_an_error_of_the_work_is_raised_by_the_wait() -> None:
    """The error itself, not a copy of it."""
    error = ValueError("x")

    def fail(cancel: Cancel) -> None:
        raise error

    with Beside(fail, "beside-test") as beside:
        with pytest.raises(ValueError) as caught:
            beside.wait()
        assert caught.value is error


def test_leaving_the_block_ends_work_that_nobody_waited_for() -> None:
    """No thread is left behind, and the work's own end by the token is no error of the block."""
    with Beside(forever, "beside-left"):
        assert threads_named("beside-left")
    assert not threads_named("beside-left")


def test_an_error_of_the_block_ends_the_work() -> None:
    """What is raised in the block comes out of it."""
    with pytest.raises(ZeroDivisionError), Beside(forever, "beside-error"):
        raise ZeroDivisionError
    assert not threads_named("beside-error")


def test_a_tick_that_raises_ends_the_waiting() -> None:
    """That is how Ctrl-C and a stopped build reach the work."""
    ticks = []

    def tick() -> None:
        ticks.append(1)
        if len(ticks) == 2:
            raise CancelledError("stopped")

    with pytest.raises(CancelledError), Beside(forever, "beside-tick") as beside:
        beside.wait(tick)
    assert len(ticks) == 2 and not threads_named("beside-tick")


def test_stopping_what_never_began_does_nothing() -> None:
    """Whoever cleans up need not know how far it came."""
    Beside(forever, "beside-never").stop()
