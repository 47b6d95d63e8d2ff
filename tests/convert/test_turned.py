"""Large matrices that are transposed: in strips, each stored byte read once, little held."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np
import pytest

from mbuild.convert.read import once, turned
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.once import waiting_in
from mbuild.convert.read.safetensors import DType

ROWS, COLUMNS = 37, 23


class Stored:
    """Matrices that note which of their values are read, and how many at once."""

    def __init__(self, *shape: int) -> None:
        self.values = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
        self.counts = np.zeros(self.values.size, np.int32)
        self.most = 0
        self._lock = threading.Lock()

    def part(self, start: int, stop: int) -> np.ndarray:
        """Values between two places."""
        with self._lock:
            self.counts[start:stop] += 1
            self.most = max(self.most, stop - start)
        return self.values.reshape(-1)[start:stop].copy()

    def lazy(self, grain: int = 1) -> Lazy:
        """The tensor as a file gives it."""
        return Lazy(
            DType.BF16,
            self.values.shape,
            lambda: self.part(0, self.values.size).reshape(self.values.shape),
            "the matrix",
            part=self.part,
            grain=grain,
        )


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large here: a matrix of 64 values, of which four rows make a strip."""
    monkeypatch.setattr(turned, "LARGE", 64)
    monkeypatch.setattr(turned, "STRIP", 4 * ROWS)
    monkeypatch.setattr(once, "GRAIN", 5 * COLUMNS)


def taken(lazy: Lazy, step: int) -> np.ndarray:
    """All of a tensor, so many values at once."""
    assert lazy.part is not None
    return np.concatenate(
        [lazy.part(at, min(at + step, lazy.size)) for at in range(0, lazy.size, step)]
    )


@pytest.mark.parametrize("room", [0, 500, 1 << 20])
def test_each_value_is_read_once(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the other strips wait in memory, in a file, or some here and some there."""
    monkeypatch.setattr(once, "IN_MEMORY", room)
    stored = Stored(ROWS, COLUMNS)
    lazy = stored.lazy().transpose(1, 0)
    assert lazy.shape == (COLUMNS, ROWS) and lazy.grain == 4 * ROWS
    assert np.array_equal(taken(lazy, lazy.grain), stored.values.T.reshape(-1))
    assert set(stored.counts) == {1}
    assert stored.most == 5 * COLUMNS  # a band, and never the whole matrix


@pytest.mark.parametrize("step", [1, ROWS, 5 * ROWS + 3, COLUMNS * ROWS])
def test_any_part_can_be_asked_for(step: int) -> None:
    """Parts need not be strips, nor come in their order."""
    stored = Stored(ROWS, COLUMNS)
    lazy = stored.lazy().transpose(1, 0)
    assert np.array_equal(taken(lazy, step), stored.values.T.reshape(-1))
    assert lazy.part is not None
    assert np.array_equal(lazy.part(3, 90), stored.values.T.reshape(-1)[3:90])
    assert np.array_equal(lazy.load(), stored.values.T)


def test_threads_make_strips_side_by_side() -> None:
    """Six of them; each value is read once all the same."""
    stored = Stored(ROWS, COLUMNS)
    lazy = stored.lazy().transpose(1, 0)
    assert lazy.part is not None
    part, step = lazy.part, lazy.grain
    starts = range(0, lazy.size, step)
    gate = threading.Barrier(len(starts))

    def make(start: int) -> np.ndarray:
        gate.wait(30)
        return part(start, min(start + step, lazy.size))

    with ThreadPoolExecutor(len(starts)) as pool:
        made = np.concatenate(list(pool.map(make, starts)))
    assert np.array_equal(made, stored.values.T.reshape(-1))
    assert set(stored.counts) == {1}


def test_experts_are_turned_one_by_one() -> None:
    """Strips lie within one of them, so their width divides the columns."""
    stored = Stored(3, ROWS, 24)
    lazy = stored.lazy().transpose(0, 2, 1)
    assert lazy.grain == 4 * ROWS
    assert np.array_equal(taken(lazy, lazy.grain), stored.values.transpose(0, 2, 1).reshape(-1))
    assert np.array_equal(taken(lazy, 1000), stored.values.transpose(0, 2, 1).reshape(-1))


def test_where_nothing_can_be_written_bands_are_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full disk makes the work longer, and nothing else."""
    monkeypatch.setattr(once, "IN_MEMORY", 0)

    def full() -> BinaryIO:
        raise OSError(28, "No space left on device")

    stored = Stored(ROWS, COLUMNS)
    with waiting_in(full):
        lazy = stored.lazy().transpose(1, 0)
    assert np.array_equal(taken(lazy, lazy.grain), stored.values.T.reshape(-1))
    assert set(stored.counts) == {6} and stored.most == 5 * COLUMNS


def test_small_ones_and_torn_rows_are_turned_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As are axes that are exchanged otherwise; all of that has the values that it should."""
    stored = Stored(ROWS, COLUMNS)
    assert stored.lazy(grain=2).transpose(1, 0).part is None
    three = Stored(4, ROWS, COLUMNS).lazy()
    assert np.array_equal(three.transpose(2, 0, 1).load(), three.load().transpose(2, 0, 1))
    monkeypatch.setattr(turned, "LARGE", ROWS * COLUMNS + 1)
    lazy = stored.lazy().transpose(1, 0)
    assert lazy.part is None
    assert np.array_equal(lazy.load(), stored.values.T)
