"""Waiting for a lease of somebody else: free, held, no longer renewed."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes_shared import MemoryStorage
from fakes_store import MemoryBlobs

from mbuild.shared import lease_wait
from mbuild.shared.cache import TeamCache
from mbuild.shared.lease_wait import LeaseWait
from mbuild.shared.naming import lease_name

KEY = "ab" * 32
OTHERS = b'{"holder": "elsewhere (process 7)", "life": 30.0}'


class Clock:
    """The waiter's clock: monotonic, whatever the time of day is said to be."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Only the waiting uses it: leases are renewed by the real one."""
    found = Clock()
    monkeypatch.setattr(lease_wait, "time", found)
    return found


@pytest.fixture
def storage() -> MemoryStorage:
    """An empty storage."""
    return MemoryStorage()


@pytest.fixture
def cache(storage: MemoryStorage, tmp_path: Path) -> TeamCache:
    """This machine's view of it."""
    return TeamCache([], storage, MemoryBlobs(tmp_path))


def test_a_free_lease_is_taken(storage: MemoryStorage, cache: TeamCache) -> None:
    """At once, from nobody."""
    waiting = LeaseWait(cache, KEY)
    assert not waiting.is_held()
    assert waiting.attempt() is not None and waiting.holder == ""
    assert lease_name(KEY) in storage.held
    cache.close()


def test_a_lease_is_taken_over_when_it_was_not_renewed_for_its_life(
    storage: MemoryStorage, cache: TeamCache, clock: Clock
) -> None:
    """Each renewal begins its life anew, by the clock of whoever waits."""
    storage.held[lease_name(KEY)] = OTHERS
    waiting = LeaseWait(cache, KEY)
    for renewal in range(5):
        storage.held[lease_name(KEY)] = OTHERS + b" " * renewal
        assert waiting.attempt() is None and waiting.is_held()
        assert waiting.holder == "elsewhere (process 7)"
        clock.now += 29.0
    clock.now += 2.0
    assert waiting.attempt() is not None
    cache.close()


@pytest.mark.parametrize("skew", [-86_400.0, 3 * 3600.0, 1e9])
def test_clocks_that_differ_by_hours_do_not_matter(
    skew: float, storage: MemoryStorage, cache: TeamCache, clock: Clock
) -> None:
    """No lease has a time of day, and whoever waits uses none: only how long it has waited."""
    storage.held[lease_name(KEY)] = OTHERS
    clock.now += skew
    waiting = LeaseWait(cache, KEY)
    clock.now += 29.0
    assert waiting.attempt() is None
    clock.now += 31.0
    assert waiting.attempt() is not None
    assert str(2026) not in storage.held[lease_name(KEY)].decode()
    cache.close()


def test_a_lease_that_nobody_goes_on_with_is_removed(
    storage: MemoryStorage, cache: TeamCache, clock: Clock
) -> None:
    """Who only asks whether it is held leaves none behind."""
    storage.held[lease_name(KEY)] = b"\x00 garbage \xff"
    waiting = LeaseWait(cache, KEY)
    assert waiting.is_held()
    clock.now += 31.0
    assert not waiting.is_held()
    list(cache.drain())
    assert lease_name(KEY) not in storage.held
    cache.close()
