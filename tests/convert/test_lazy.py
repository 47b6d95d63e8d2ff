"""Tensors on their way: what parts give is what the whole gives, however values are moved."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest

from mbuild.convert.read import lazy as lazy_module
from mbuild.convert.read import once
from mbuild.convert.read.joining import stack
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.read.safetensors import DType
from mbuild.convert.rows.rules import rotary

READ: list[tuple[int, int]] = []
"""The parts that were asked of the file, by flat indices."""


def stored(*shape: int) -> Lazy:
    """A tensor of a file, each value its place."""
    values = np.arange(math.prod(shape), dtype=np.float32)

    def part(start: int, stop: int) -> np.ndarray:
        READ.append((start, stop))
        return values[start:stop].copy()

    return Lazy(DType.F32, shape, lambda: values.reshape(shape).copy(), "a tensor", part=part)


def in_parts(lazy: Lazy, step: int) -> np.ndarray:
    """The tensor's values, part by part."""
    assert lazy.part is not None
    starts = range(0, lazy.size, step)
    return np.concatenate([lazy.part(at, min(at + step, lazy.size)) for at in starts])


def some_move(rnd: random.Random, lazy: Lazy) -> Lazy:
    """One more move that the tensor's shape allows."""
    shape = lazy.shape
    axis = rnd.randrange(len(shape))
    start = rnd.randrange(shape[axis])
    moves: list[Callable[[], Lazy]] = [
        lambda: lazy.transpose(0, *rnd.sample(range(1, len(shape)), len(shape) - 1)),
        lambda: lazy.slice(axis, start, rnd.randrange(start + 1, shape[axis] + 1)),
        lambda: lazy.slice(axis, start, step=rnd.choice((1, 2, 3))),
        lambda: lazy.reshape(-(-lazy.size // math.prod(shape[1:])), *reversed(shape[1:])),
        lambda: lazy.compute(lambda values: values * 2),
        lambda: rnd.choice(lazy.split(axis, (start, shape[axis] - start))) if start else lazy,
    ]
    return rnd.choice(moves)()


@pytest.mark.parametrize("run", [1, 1 << 16])
@pytest.mark.parametrize("seed", range(60))
def test_parts_are_the_whole(seed: int, run: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After up to three moves, drawn at random, in parts of any size."""
    monkeypatch.setattr(lazy_module, "_LONG_RUN", run)
    rnd = random.Random(seed)
    lazy = stored(*(rnd.randrange(2, 9) for _ in range(rnd.randrange(2, 5))))
    for _ in range(rnd.randrange(1, 4)):
        lazy = some_move(rnd, lazy)
    whole = lazy.load()
    assert whole.shape == lazy.shape
    if lazy.part is not None:
        for step in (1, 3, lazy.grain, 2 * lazy.grain, lazy.size):
            np.testing.assert_array_equal(in_parts(lazy, step), whole.reshape(-1))


def test_fused_experts_are_read_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gate and up of one tensor, transposed: an expert is read for the first, by itself, and no
    more for the second."""
    monkeypatch.setattr(once, "GRAIN", 1)
    fused = stored(4, 6, 10)
    READ.clear()
    for half in (part.transpose(0, 2, 1) for part in fused.split(2, (5, 5))):
        assert half.grain == half.size // 4 and half.part is not None
        half.part(half.grain, 2 * half.grain)
        assert READ == [(60, 120)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_second_position_is_read_with_the_others(
    axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three tensors of one, interleaved: the values are right and each byte is read once."""
    monkeypatch.setattr(once, "GRAIN", 1)
    lazy = stored(6, 9, 12)
    READ.clear()
    for first, each in enumerate(lazy.every(axis, 3)):
        cut = tuple(slice(first, None, 3) if n == axis else slice(None) for n in range(3))
        values = np.arange(6 * 9 * 12, dtype=np.float32).reshape(6, 9, 12)[cut]
        assert each.shape == values.shape
        np.testing.assert_array_equal(in_parts(each, each.grain), values.reshape(-1))
    assert len(READ) == len(set(READ)) == (6 if axis else 0)  # of the first axis: whole, by load()


def test_rows_in_another_order_are_read_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of rows, each by itself."""
    monkeypatch.setattr(lazy_module, "_LONG_RUN", 1)
    lazy = stored(6, 5).in_order((2, 0, 1), 2)
    READ.clear()
    np.testing.assert_array_equal(in_parts(lazy, 10), lazy.load().reshape(-1))
    assert READ == [(20, 30), (0, 10), (10, 20)]


def test_a_stack_is_read_as_its_tensors_are() -> None:
    """In turn, also when its axes are moved afterwards."""
    lazy = stack([stored(4, 6), stored(4, 6)]).transpose(0, 2, 1)
    READ.clear()
    np.testing.assert_array_equal(in_parts(lazy, lazy.grain), lazy.load().reshape(-1))
    assert READ == [(0, 24), (0, 24)]


def test_halves_that_lie_together_are_read_without_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows of each expert: gate and up read every byte once between them."""
    monkeypatch.setattr(lazy_module, "_LONG_RUN", 1)
    READ.clear()
    for half in stored(3, 8, 5).split(1, (3, 5)):
        in_parts(half, half.size)
    places = sorted(at for start, stop in READ for at in range(start, stop))
    assert places == list(range(120))


def test_a_rotated_projection_is_read_head_by_head() -> None:
    """So that it need not be in memory whole."""
    lazy = rotary(stored(4 * 6, 10), 4)
    assert lazy.grain == 6 * 10 and lazy.part is not None
    READ.clear()
    lazy.part(60, 120)
    assert READ == [(60, 120)]
    np.testing.assert_array_equal(in_parts(lazy, 60), lazy.load().reshape(-1))


def test_rows_of_a_tensor_are_read_without_the_others() -> None:
    """Where one tensor becomes several by its rows, each byte is read once."""
    READ.clear()
    for part in stored(9, 4).split(0, (2, 3, 4)):
        in_parts(part, part.size)
    assert READ == [(0, 8), (8, 20), (20, 36)]


def test_what_is_mixed_has_no_parts() -> None:
    """The first axis elsewhere, every second row, an unknown move, a stack with such a tensor."""
    lazy = stored(4, 6)
    assert lazy.transpose(1, 0).part is None
    assert lazy.slice(0, 0, step=2).part is None
    assert lazy.move((4, 6), lambda values: values).part is None
    assert stack([lazy, lazy.move((4, 6), lambda values: values)]).part is None
