"""Telling work to end."""

from __future__ import annotations

import pytest

from mbuild.core.errors import CancelledError
from mbuild.work.cancel import Cancel


def test_work_goes_on_until_it_is_cancelled() -> None:
    """A check does nothing before, and raises ever after, with the reason that was given."""
    cancel = Cancel("the build was stopped")
    cancel.check()
    assert not cancel.cancelled
    cancel.cancel()
    cancel.cancel()
    for _ in range(2):
        with pytest.raises(CancelledError, match="the build was stopped"):
            cancel.check()
    assert cancel.cancelled


def test_what_is_around_the_work_ends_it_too() -> None:
    """A part ends with the whole; the whole goes on when a part ends."""
    whole = Cancel("all of it")
    one, two = Cancel("one", whole), Cancel("two", whole)
    one.cancel()
    assert (whole.cancelled, one.cancelled, two.cancelled) == (False, True, False)
    whole.check()
    whole.cancel()
    assert two.cancelled
    with pytest.raises(CancelledError, match="all of it"):
        two.check()
