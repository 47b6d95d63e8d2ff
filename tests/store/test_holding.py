"""Holding the store: what builds, deletes, uploads and readers do around their work."""

from __future__ import annotations

from pathlib import Path

import pytest
from stores import copy_tiny_store

from mbuild.core.errors import BusyError
from mbuild.core.names import ModelName
from mbuild.store import Store
from mbuild.store.locks import FileLock


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with one model."""
    return Store(copy_tiny_store(tmp_path / "store"))


def removing(store: Store) -> bool:
    """Whether somebody could remove blobs now."""
    lock = FileLock(store.private / "lock")
    alone = lock.acquire(exclusive=True, timeout=0)
    if alone:
        lock.release()
    return alone


@pytest.mark.parametrize("held", ["using", "reading"])
def test_nothing_is_removed_while_the_store_is_held(store: Store, held: str) -> None:
    """The lock is held in the block, by several at once, and let go after it."""
    with getattr(store, held)(), Store(store.root).using():
        assert not removing(store)
    assert removing(store)


@pytest.mark.parametrize("held", ["using", "reading"])
def test_an_error_in_the_block_lets_go(store: Store, held: str) -> None:
    """What is raised comes out, and nobody waits for a lock that nobody needs."""
    with pytest.raises(ZeroDivisionError), getattr(store, held)():
        raise ZeroDivisionError
    assert removing(store)


def test_the_end_of_use_removes_what_nothing_names(store: Store) -> None:
    """A removed model's blobs go when the last who held the store is done."""
    other = Store(store.root)
    with store.using():
        with other.using():
            digests = other.remove(ModelName.parse("tiny"))
        assert all(store.blobs.size(digest) is not None for digest in digests)
    assert all(store.blobs.size(digest) is None for digest in digests)


def test_whoever_gives_a_time_is_told_that_it_is_over(store: Store) -> None:
    """While somebody removes blobs nobody can begin; the store's own patience counts too."""
    store.prepare()
    lock = FileLock(store.private / "lock")
    assert lock.acquire(exclusive=True, timeout=0)
    try:
        with pytest.raises(BusyError, match="removing blobs"), store.using(timeout=0.01):
            pass
        with pytest.raises(BusyError), Store(store.root, patience=0.01).using():
            pass
    finally:
        lock.release()


def test_reading_a_store_that_is_not_there_makes_none(tmp_path: Path) -> None:
    """Neither a folder nor a lock appears because somebody looked."""
    with Store(tmp_path / "none").reading():
        pass
    assert not (tmp_path / "none").exists()
