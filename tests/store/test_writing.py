"""A blob under construction: its digests, what a stop leaves, and what an end removes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import CancelledError
from mbuild.store import Store
from mbuild.store.blocks import BLOCK
from mbuild.store.writing import BlobWriter


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def left(store: Store) -> list[str]:
    """Files under construction, on purpose or not."""
    return [p.name for p in store.private.rglob("*") if p.is_file() and "cache.db" not in p.name]


def random_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 12345])
def test_any_length_has_its_digests(store: Store, size: int) -> None:
    """Around the blocks in which it is written, in pieces of any length."""
    data = random_bytes(size)
    with BlobWriter(store.blobs, twice=True) as writer:
        for start in range(0, size, 777_777):
            writer.write(data[start : start + 777_777])
        blob = writer.commit()
    assert (blob.digest, blob.blake3) == (Digest.of(data), Digest.of(data, BLAKE3))
    assert (blob.size, writer.size) == (size, size)
    assert store.blobs.read(blob.digest, size) == data
    assert left(store) == []


def test_the_digest_so_far_is_that_of_what_was_written(store: Store) -> None:
    """It is asked for in the middle, and the writing goes on."""
    data = random_bytes(BLOCK + 99)
    with BlobWriter(store.blobs) as writer:
        writer.write(data[:50])
        assert writer.digest == Digest.of(data[:50])
        writer.write(data[50:])
        assert writer.digest == Digest.of(data)
        blob = writer.commit()
    assert blob.digest == Digest.of(data)
    assert blob.blake3 is None


def test_whoever_saves_is_told_where_it_lies(store: Store) -> None:
    """The place is below the store's root, and holds that many bytes by then."""
    told: list[tuple[str, int, bytes]] = []

    def then(path: str, written: int) -> None:
        told.append((path, written, (store.root / path).read_bytes()[:written]))

    with BlobWriter(store.blobs, "variant-") as writer:
        writer.write(b"saved")
        writer.save(then)
        writer.wait()
        ((path, written, content),) = told
        assert Path(path).parts[:2] == (".mbuild", "partial")
        assert (written, content) == (5, b"saved")


@pytest.mark.parametrize(
    ("saved", "error", "count"),
    [(True, CancelledError, 1), (False, CancelledError, 0), (True, ValueError, 0)],
)
def test_only_a_stop_leaves_what_was_saved(
    store: Store, saved: bool, error: type[Exception], count: int
) -> None:
    """A build that was stopped goes on from there; one that failed would fail again."""
    with pytest.raises(error), BlobWriter(store.blobs, "variant-") as writer:
        writer.write(b"half")
        if saved:
            writer.save(lambda path, written: None)
            writer.wait()
        raise error("the end")
    assert len(left(store)) == count
    assert list(store.blobs) == []


def test_the_end_removes_unfinished_files_of_its_name(store: Store) -> None:
    """Those of the same variant, and of no other."""
    for name in ("one-", "two-"):
        with pytest.raises(CancelledError), BlobWriter(store.blobs, name) as writer:
            writer.write(b"half")
            writer.save(lambda path, written: None)
            writer.wait()
            raise CancelledError("stopped")
    assert len(left(store)) == 2
    with BlobWriter(store.blobs, "one-") as writer:
        writer.write(b"whole")
        writer.commit()
    assert [name[:4] for name in left(store)] == ["two-"]


def test_the_same_blob_from_two_writers_is_one(store: Store) -> None:
    """The second one existed, and leaves nothing."""
    with BlobWriter(store.blobs) as one, BlobWriter(store.blobs) as two:
        one.write(b"same")
        two.write(b"same")
        assert [one.commit().existed, two.commit().existed] == [False, True]
    assert len(os.listdir(store.blobs.folder)) == 1
    assert left(store) == []
