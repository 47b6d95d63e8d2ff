"""Values that lie here and there: which parts are asked for, and what comes of them."""

from __future__ import annotations

import numpy as np
import pytest

from mbuild.convert.read.runs import Pieces, SpreadRuns

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
