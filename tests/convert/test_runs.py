"""Values that lie here and there: which parts are asked for, and what comes of them."""

from __future__ import annotations

import numpy as np
import pytest

from mbuild.convert.read.runs import MovedBytes, Pieces, SpreadRuns
from mbuild.gguf.types import GGMLType

VALUES = np.arange(100)
ASKED: list[tuple[int, int]] = []


def cut(start: int, stop: int) -> np.ndarray:
    """Values by their places."""
    ASKED.append((start, stop))
    return VALUES[start:stop]


@pytest.mark.parametrize(
    ("start", "stop", "asked"),
    [
        (0, 4, [(20, 24)]),
        (1, 3, [(21, 23)]),
        (2, 6, [(22, 24), (0, 2)]),
        (3, 12, [(23, 24), (0, 4), (50, 54)]),
    ],
)
def test_runs_are_read_where_they_lie(start: int, stop: int, asked: list[tuple[int, int]]) -> None:
    """In their own order, no value beside them, also from the middle of one."""
    ASKED.clear()
    runs = SpreadRuns(cut, 4, (20, 0, 50))
    whole = np.r_[20:24, 0:4, 50:54]
    np.testing.assert_array_equal(runs(start, stop), whole[start:stop])
    assert asked == ASKED


def test_pieces_are_read_from_those_that_have_them() -> None:
    """One behind the other; a part within one asks no other."""
    ASKED.clear()
    pieces = Pieces((cut, lambda start, stop: -cut(start, stop)), (6, 10))
    np.testing.assert_array_equal(pieces(4, 9), [4, 5, 0, -1, -2])
    np.testing.assert_array_equal(pieces(7, 9), [-1, -2])
    assert ASKED == [(4, 6), (0, 3), (1, 3)]


def test_bytes_are_moved_position_by_position() -> None:
    """Rows of each position in another order, as halves; places within a position are refused."""
    halves = np.arange(24, dtype="<f2").reshape(4, 3, 2)

    def made(start: int, stop: int, type_: GGMLType) -> np.ndarray | None:
        return halves.reshape(-1)[start:stop].view("u1") if type_ is GGMLType.F16 else None

    moved = MovedBytes(made, (3, 2), 6, lambda values: values[:, ::-1])
    found = moved(6, 18, GGMLType.F16)
    assert found is not None and found.tobytes() == halves[1:3, ::-1].tobytes()
    assert moved(6, 18, GGMLType.BF16) is None
    assert moved(3, 18, GGMLType.F16) is None and moved(6, 17, GGMLType.F16) is None
