"""What several tensors are made of is read once: what waits, where, and for how long."""

from __future__ import annotations

import gc
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
import pytest

from mbuild.convert.read import once
from mbuild.convert.read.once import Apart, LoadedOnce, waiting_in

COUNT, WIDTH = 12, 600
VALUES = np.arange(COUNT * WIDTH, dtype=np.uint16).reshape(COUNT, WIDTH)


class Source:
    """Rows that note who reads them; ``parts`` of each go to tensors of their own."""

    def __init__(self, parts: int = 3) -> None:
        self.read: list[int] = []
        self.parts = parts

    def cut(self, first: int, last: int) -> np.ndarray:
        """Some rows."""
        self.read += range(first, last)
        return VALUES[first:last].copy()

    def apart(self) -> Apart:
        """The tensors: every column with one remainder."""
        changes = [lambda rows, n=n: rows[:, n :: self.parts] for n in range(self.parts)]
        return Apart(self.cut, changes, COUNT, WIDTH)


def right(apart: Apart, which: int, first: int, last: int) -> bool:
    """Whether a tensor has there what it should."""
    expected = VALUES[first:last, which::3].reshape(-1)
    return bool(np.array_equal(apart.take(which, first, last), expected))


@pytest.fixture(params=[1, 2500])
def step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """One row at a time, or four."""
    monkeypatch.setattr(once, "GRAIN", request.param)
    return max(1, int(request.param) // WIDTH)


@pytest.mark.parametrize("room", [0, 3000, 1 << 20])
def test_rows_are_read_for_all_at_once(
    room: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the others wait in memory, in a file, or some here and some there."""
    monkeypatch.setattr(once, "IN_MEMORY", room)
    source = Source()
    apart = source.apart()
    assert apart.step == step
    for which in range(3):
        for first in range(0, COUNT, 4):
            assert right(apart, which, first, first + 4)
    assert source.read == list(range(COUNT))


def test_what_is_asked_for_again_is_read_again(step: int) -> None:
    """And it is the same; whoever comes first, the others need not read."""
    source = Source()
    apart = source.apart()
    for which in (2, 2, 0, 1, 1, 0, 2):
        assert right(apart, which, 4, 8)
    assert source.read == [4, 5, 6, 7] * 3


def test_threads_that_want_the_same_rows_wait_for_one(step: int) -> None:
    """Three tensors on six threads: the rows are read once for the three."""
    source, apart = Source(), Source().apart()
    apart = source.apart()
    gate = threading.Barrier(6)

    def take(number: int) -> bool:
        gate.wait(30)
        rows: Sequence[int] = range(number // 3 * 4, COUNT, 8)
        return all(right(apart, number % 3, first, first + 4) for first in rows)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(take, range(6)))
    assert sorted(source.read) == list(range(COUNT))


def test_where_nothing_can_be_written_rows_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk makes the work longer, and nothing else."""
    monkeypatch.setattr(once, "GRAIN", 1)
    monkeypatch.setattr(once, "IN_MEMORY", 0)

    def full() -> BinaryIO:
        raise OSError(28, "No space left on device")

    source = Source()
    with waiting_in(full):
        apart = source.apart()
    assert all(right(apart, which, 0, COUNT) for which in range(3))
    assert sorted(source.read) == sorted([*range(COUNT)] * 3)


def test_a_file_is_there_as_long_as_something_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made when memory is full, and closed with the last that is taken."""
    monkeypatch.setattr(once, "GRAIN", 1)
    monkeypatch.setattr(once, "IN_MEMORY", 0)
    made = []

    def scratch() -> BinaryIO:
        made.append(tempfile.TemporaryFile(buffering=0))  # noqa: SIM115
        return made[-1]

    with waiting_in(scratch):
        apart = Source().apart()
    assert made == []
    assert right(apart, 0, 0, COUNT) and right(apart, 1, 0, COUNT)
    assert len(made) == 1
    made.clear()
    assert apart._file is not None
    assert right(apart, 2, 0, COUNT)
    assert apart._file is None


def test_what_nobody_takes_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more tensors than a build works on at once the first ones are forgotten."""
    monkeypatch.setattr(once, "GRAIN", 1)
    sources = [Source() for _ in range(once._TENSORS + 1)]
    tensors = [source.apart() for source in sources]
    for apart in tensors:
        assert right(apart, 0, 0, COUNT)
    for apart in reversed(tensors):
        assert right(apart, 1, 0, COUNT)
    assert [len(source.read) for source in sources] == [2 * COUNT] + [COUNT] * once._TENSORS


def test_a_small_tensor_is_loaded_once_for_all() -> None:
    """By however many threads it is wanted at once."""
    loads, gate = [], threading.Barrier(5)

    def load() -> np.ndarray:
        loads.append(1)
        return np.arange(5)

    whole = LoadedOnce(load)

    def ask(number: int) -> int:
        gate.wait(30)
        return int(whole()[number])

    with ThreadPoolExecutor(5) as pool:
        assert list(pool.map(ask, range(5))) == [0, 1, 2, 3, 4]
    assert loads == [1]


def test_of_many_those_that_were_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a number of bytes; none of a model that is gone."""
    monkeypatch.setattr(once, "WHOLE", 3000)
    gc.collect()
    once._recent.clear()
    loads: list[int] = []

    def tensor(number: int) -> LoadedOnce:
        return LoadedOnce(lambda: (loads.append(number), np.zeros(1000, np.uint8))[1])

    tensors = [tensor(number) for number in range(4)]
    for number in (0, 1, 2, 0, 3, 0, 1):
        assert tensors[number]().size == 1000
    assert loads == [0, 1, 2, 3, 1]
    assert len(once._recent) == 3
    tensors.clear()
    gc.collect()
    assert len(once._recent) == 0
