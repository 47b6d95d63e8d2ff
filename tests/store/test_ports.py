"""The ports: whatever stands behind them, a build sees the same."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fakes_store import MemoryStore

from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import DamagedError
from mbuild.store import Store, records
from mbuild.store.copying import OpenFile
from mbuild.store.ports import BuildStore
from mbuild.store.records import RangePlace

NOT_THERE = Digest("0" * 64)
ANY = Digest("0" * 64, BLAKE3)


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BuildStore:
    """One of the two implementations, empty."""
    if request.param == "memory":
        return MemoryStore(tmp_path / "files")
    local = Store(tmp_path / "store")
    local.prepare()
    return local


def local_store(tmp_path: Path) -> Store:
    """The implementation on disk, as the type checker is to accept it for the port."""
    store: BuildStore = Store(tmp_path / "store")
    assert isinstance(store, Store)
    store.prepare()
    return store


# Records.


def test_a_record_is_found_at_once_and_after_the_flush(store: BuildStore) -> None:
    """A step that has just run is cached for the next one, written or not."""
    cache = store.cache
    value: Mapping[str, Any] = {"a": [1, {"b": None}]}
    cache.put(records.DESCRIPTION, "k", value)
    for _ in range(2):
        assert cache.get(records.DESCRIPTION, "k") == value
        assert cache.get_many(records.DESCRIPTION, ["k", "l"]).keys() == {"k"}
        assert cache.get(records.TEXT, "k") is None
        cache.flush()


def test_a_range_can_lie_at_several_places(store: BuildStore) -> None:
    """In the files of two variants; where one is gone the other one counts."""
    one, two = RangePlace("blobs/sha256-1", 0, 5, ANY), RangePlace("blobs/sha256-2", 7, 5, ANY)
    for place in (one, two, one):
        store.cache.add_place("k", place)
    store.cache.add_place("kk", one)
    store.cache.flush()
    found = store.cache.places(["k", "other"])
    assert found.keys() == {"k"} and sorted(found["k"]) == [one, two]
    store.cache.drop_place("k", one)
    store.cache.flush()
    assert store.cache.places(["k", "kk"]) == {"k": [two], "kk": [one]}


# Blobs.


def test_what_is_put_is_there_by_its_digest(store: BuildStore) -> None:
    """Its size, its content, as a stream and as a file; the second time it existed."""
    blob = store.blobs.put(b"hello")
    assert (blob.digest, blob.size, blob.existed) == (Digest.of(b"hello"), 5, False)
    assert store.blobs.put(b"hello").existed
    assert store.blobs.size(blob.digest) == 5
    assert store.blobs.has(blob.digest, 5) and not store.blobs.has(blob.digest, 4)
    assert store.blobs.read(blob.digest, 5) == b"hello"
    with store.blobs.open(blob.digest) as file:
        assert file.read(2) + file.read() == b"hello"
    assert store.blobs.local_path(blob.digest).read_bytes() == b"hello"


def test_what_is_gone_is_damage_that_names_the_digest(store: BuildStore) -> None:
    """Reading, opening and asking for a file say the same."""
    assert store.blobs.size(NOT_THERE) is None and not store.blobs.has(NOT_THERE, 0)
    assert not store.blobs.bring(NOT_THERE, 5)
    for ask in (store.blobs.open, store.blobs.local_path, lambda d: store.blobs.read(d, 9)):
        with pytest.raises(DamagedError, match=f"blob {NOT_THERE} cannot be read"):
            ask(NOT_THERE)


def test_a_blob_longer_than_the_limit_is_not_read(store: BuildStore) -> None:
    """Small blobs have a limit, so that nothing fills the memory."""
    blob = store.blobs.put(b"hello")
    with pytest.raises(DamagedError, match="longer than 4 bytes"):
        store.blobs.read(blob.digest, 4)


def test_many_blobs_are_asked_for_at_once(store: BuildStore) -> None:
    """Those of another size are missing, too."""
    a, b = store.blobs.put(b"a").digest, store.blobs.put(b"bb").digest
    assert store.blobs.missing({a: 1, b: 2}) == set()
    assert store.blobs.missing({a: 1, b: 3, NOT_THERE: 1}) == {b, NOT_THERE}


def test_a_written_blob_is_there_only_once_it_is_committed(store: BuildStore) -> None:
    """Left without a commit it leaves nothing."""
    digest = Digest.of(b"one two")
    with store.blobs.writer() as writer:
        writer.write(b"one ")
        writer.write(memoryview(b"two"))
        assert writer.size == 7
    assert store.blobs.size(digest) is None
    with store.blobs.writer("quantize-") as writer:
        writer.write(b"one two")
        assert writer.commit().digest == digest
    assert store.blobs.read(digest, 7) == b"one two"


def test_a_users_file_is_brought_in_by_its_content(store: BuildStore, tmp_path: Path) -> None:
    """And is no blob itself, whatever it is called."""
    path = tmp_path / Digest.of(b"weights").filename
    path.write_bytes(b"weights")
    seen = []
    with OpenFile.open(path, "file") as source:
        assert store.blobs.named(path, source.info) is None
        blob = store.blobs.ingest(source, link=False, progress=lambda *at: seen.append(at))
    assert (blob.digest, seen[-1]) == (Digest.of(b"weights"), (7, 7))
    assert store.blobs.read(blob.digest, 7) == b"weights"


def test_bytes_at_a_place_of_a_blob(store: BuildStore) -> None:
    """As many as lie there; of a file that is gone none."""
    blob = store.blobs.put(b"0123456789")
    path = f"blobs/{blob.digest.filename}"
    assert store.blobs.read_at(RangePlace(path, 3, 4, ANY)) == b"3456"
    assert store.blobs.read_at(RangePlace(path, 8, 4, ANY)) == b"89"
    assert store.blobs.read_at(RangePlace(f"blobs/{NOT_THERE.filename}", 0, 1, ANY)) is None


# What only the store on disk has.


def test_a_kept_blob_is_brought_back(tmp_path: Path) -> None:
    """A blob that a step made outlives its name; it is not missing, and is whole again."""
    store = local_store(tmp_path)
    blob = store.blobs.put(b"made")
    store.blobs.keep(blob.digest)
    store.blobs.path(blob.digest).unlink()
    place = RangePlace(f"blobs/{blob.digest.filename}", 1, 2, ANY)
    assert store.blobs.size(blob.digest) is None
    assert store.blobs.missing({blob.digest: 4}) == set()
    assert store.blobs.read_at(place) == b"ad"
    assert store.blobs.bring(blob.digest, 4)
    assert store.blobs.read(blob.digest, 4) == b"made"


def test_a_blob_of_the_store_is_known_by_its_file(tmp_path: Path) -> None:
    """By its own path and by a link to it; a file of that name with other bytes is none."""
    store = local_store(tmp_path)
    digest = store.blobs.put(b"made").digest
    path = store.blobs.path(digest)
    link = tmp_path / digest.filename
    link.symlink_to(path)
    assert store.blobs.named(path, path.stat()) == digest
    assert store.blobs.named(link, link.stat()) == digest
    link.unlink()
    link.write_bytes(b"made")
    assert store.blobs.named(link, link.stat()) is None
    assert store.blobs.named(tmp_path / "model.gguf", os.stat(path)) is None


@pytest.mark.parametrize(
    "path", ["../secret", "/etc/passwd", "blobs/../../secret", "..", "blobs/", "", "secret\0"]
)
def test_no_place_leads_out_of_the_store(tmp_path: Path, path: str) -> None:
    """A record of a cache that others write can name no other file."""
    store = local_store(tmp_path)
    (tmp_path / "secret").write_bytes(b"secret")
    assert store.blobs.read_at(RangePlace(path, 0, 6, ANY)) is None
