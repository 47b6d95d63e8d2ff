"""Memory for weights: used again, but never while anybody looks into it."""

from __future__ import annotations

import threading

import numpy as np

from mbuild.gguf.memory import SMALL, reused, room


def address(array: np.ndarray) -> int:  # type: ignore[type-arg]
    """Where an array's memory begins."""
    return int(array.__array_interface__["data"][0])


def test_memory_serves_again() -> None:
    """What one tensor lay in serves the next, smaller one."""
    with reused():
        first = room(4 * SMALL)
        place = address(first)
        del first
        assert address(room(2 * SMALL)) == place


def test_memory_in_use_is_not_given_away() -> None:
    """A view, a view of a view and a memoryview all hold it."""
    with reused():
        for look in (
            lambda array: array[10:20],
            lambda array: array.view(np.uint16).reshape(2, -1).T,
            lambda array: memoryview(array)[5:],
            lambda array: np.frombuffer(memoryview(array), np.uint8),
        ):
            array = room(2 * SMALL)
            array[:] = 7
            held = look(array)
            place = address(array)
            del array
            other = room(2 * SMALL)
            assert address(other) != place
            other[:] = 9
            assert int(np.asarray(held).reshape(-1)[0]) in (7, 0x0707)
            del held, other


def test_nothing_is_kept_when_nobody_holds_it() -> None:
    """After a build its memory is the system's again."""
    from mbuild.gguf.memory import _pool

    with reused():
        del_me = room(4 * SMALL)
        del del_me
        assert _pool._returned
    assert not _pool._returned
    assert not _pool._free


def test_threads_never_share_memory() -> None:
    """Each sees what it wrote, however many there are."""
    wrong: list[int] = []

    def work(number: int) -> None:
        for round_ in range(200):
            array = room(SMALL + 4096 * (round_ % 3))
            array[::4096] = number
            if not (array[::4096] == number).all():
                wrong.append(number)

    with reused():
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not wrong
