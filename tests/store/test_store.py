"""The store as a whole: who holds it, what replaces what, and what is removed when."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mbuild.core.digest import Digest
from mbuild.core.errors import BusyError, DamagedError, StoreError, UsageError
from mbuild.core.names import ModelName
from mbuild.store.locks import FileLock
from mbuild.store.manifest import CONFIG_TYPE, Layer, Manifest
from mbuild.store.media import SYSTEM
from mbuild.store.store import PRIVATE_FOLDER, Store

NAME, OTHER = ModelName.parse("mario"), ModelName.parse("luigi")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def model(store: Store, text: str) -> Manifest:
    """A model of two blobs; every model has the same config."""
    layers = []
    for media_type, data in ((CONFIG_TYPE, b"{}"), (SYSTEM, text.encode())):
        blob = store.blobs.put(data)
        layers.append(Layer(media_type, blob.digest, blob.size))
    return Manifest(layers[0], (layers[1],))


def test_what_is_mbuilds_own_lies_apart(store: Store) -> None:
    """Ollama's two folders, and one for everything else."""
    assert sorted(os.listdir(store.root)) == [PRIVATE_FOLDER, "blobs", "manifests"]


def test_replacing_a_model_drops_what_only_the_old_one_had(store: Store) -> None:
    """The config that both have stays; the id of the old one is returned."""
    old, new = model(store, "old"), model(store, "new")
    assert store.replace(NAME, old.encode()) is None
    assert store.replace(NAME, new.encode()) == Digest.of(old.encode())
    assert store.collect_garbage() == 1
    assert set(store.blobs) == {layer.digest for layer in new.blobs()}


def test_what_another_model_has_is_not_removed(store: Store) -> None:
    """Removing one of two models with the same layers removes no blob; the last one removes all."""
    same = model(store, "same")
    for name in (NAME, OTHER):
        store.replace(name, same.encode())
    assert store.remove(NAME) == {layer.digest for layer in same.blobs()}
    assert store.collect_garbage() == 0
    assert len(list(store.blobs)) == 2
    store.remove(OTHER)
    assert store.collect_garbage() == 2
    assert list(store.blobs) == []


def test_nothing_is_removed_while_a_manifest_is_unreadable(store: Store) -> None:
    """It might name the blobs; once it can be read again, or is gone, they go."""
    store.replace(NAME, model(store, "gone").encode())
    store.manifests.write(OTHER, b"{")
    store.remove(NAME)
    assert store.collect_garbage() == 0
    assert len(list(store.blobs)) == 2
    store.manifests.remove(OTHER)
    assert store.collect_garbage() == 2


def test_nothing_is_removed_while_somebody_builds(store: Store) -> None:
    """A build relies on what it found; its end removes what became unused meanwhile."""
    store.replace(NAME, model(store, "gone").encode())
    builder = Store(store.root)
    with builder.using():
        store.remove(NAME)
        assert store.collect_garbage() == 0
        assert len(list(store.blobs)) == 2
    assert list(store.blobs) == []


def test_two_can_build_at_once(store: Store) -> None:
    """Who uses the store shuts out who removes, and nobody else."""
    with store.using(), Store(store.root).using(timeout=0):
        pass


def test_whoever_waits_in_vain_is_told(store: Store) -> None:
    """While blobs are removed nobody begins; with a timeout the answer is no."""
    lock = FileLock(store.private / "lock")
    assert lock.acquire(exclusive=True, timeout=0)
    try:
        assert not store.begin(timeout=0)
        with pytest.raises(BusyError, match="another mbuild is removing blobs"):
            Store(store.root, patience=0).begin()
        with pytest.raises(BusyError), store.using(timeout=0):
            pass
    finally:
        lock.release()
    assert store.begin(timeout=0)
    store.end()


def test_a_budget_that_is_no_size_stops_a_build_before_it_begins(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable is named; the store is not held afterwards."""
    monkeypatch.setenv("MBUILD_KEEP", "much")
    with pytest.raises(UsageError, match="MBUILD_KEEP"):
        store.begin()
    monkeypatch.delenv("MBUILD_KEEP")
    store.replace(NAME, model(store, "x").encode())
    store.remove(NAME)
    assert store.collect_garbage() == 2


def test_leftovers_of_killed_builds_go_when_one_begins(store: Store) -> None:
    """Files under construction that nobody holds any more; what has another name stays."""
    stale, other = store.private / "tmp/tmp-123", store.private / "tmp/notes"
    for path in (stale, other):
        path.write_bytes(b"half")
    with store.using():
        assert (stale.exists(), other.exists()) == (False, True)


def test_a_list_has_an_error_in_place_of_what_cannot_be_read(store: Store) -> None:
    """The other models are listed all the same."""
    store.replace(NAME, model(store, "x").encode())
    store.manifests.write(OTHER, b"")
    found = list(store.list())
    errors = [each for each in found if isinstance(each, DamagedError)]
    names = [each.name for each in found if not isinstance(each, DamagedError)]
    assert names == [NAME]
    assert [error.message for error in errors] == ["the manifest of luigi:latest is empty"]


def test_earlier_models_are_known_by_their_ids(store: Store) -> None:
    """Present ones, replaced ones and removed ones, by the first digits."""
    texts = [model(store, text).encode() for text in ("one", "two")]
    for data in texts:
        store.replace(NAME, data)
    store.remove(NAME)
    for data in texts:
        identity = Digest.of(data).hex
        assert store.earlier(identity[:12]) == {identity: data}
    assert store.earlier("zz") == {}


def test_a_model_that_ollama_removed_is_known_too(store: Store) -> None:
    """It was remembered when it got its name: nobody tells mbuild that it goes."""
    data = model(store, "one").encode()
    store.replace(NAME, data)
    store.manifests.remove(NAME)
    assert store.earlier(Digest.of(data).hex) == {Digest.of(data).hex: data}


def test_reading_makes_no_store(tmp_path: Path) -> None:
    """Who only looks leaves no folder behind, and lists nothing."""
    store = Store(tmp_path / "absent")
    with store.reading():
        assert list(store.list()) == []
    assert not store.root.exists()


def test_a_file_is_no_store(tmp_path: Path) -> None:
    """The error names it, before anything is written."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="is a file, but a store is a folder"):
        Store(tmp_path / "file").prepare()
