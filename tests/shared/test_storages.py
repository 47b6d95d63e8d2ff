"""Every kind of storage does what a shared cache asks of it, on real servers where possible."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes_store import MemoryStore
from registries import docker_registry
from shared_storages import KINDS, LEASING, storage

from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import DeniedError, RegistryError, UnreachableError, UsageError
from mbuild.shared.cache import TeamCache
from mbuild.shared.disk import amounts, clear
from mbuild.shared.folder import FolderStorage
from mbuild.shared.locations import CacheOptions, Location
from mbuild.shared.naming import blob_name, lease_name, record_name
from mbuild.shared.objects import ObjectStorage
from mbuild.shared.registry import RegistryStorage
from mbuild.shared.storages import STORAGES, open_storage
from mbuild.shared.tags import name_of, tag_of
from mbuild.shared.web import WebStorage
from mbuild.store import records
from mbuild.store.shared import SharedStorage

DATA = os.urandom(3 << 20)
DIGEST = Digest.of(DATA)
SMALL = b"bytes of a piece"


@pytest.fixture(scope="module", params=KINDS)
def opened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, SharedStorage]]:
    """A kind's name, and an empty storage of it."""
    folder = tmp_path_factory.mktemp("storage")
    with (
        storage(request.param, folder) as (url, environment),
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in environment.items():
            patch.setenv(name, value)
        patch.setenv("NO_PROXY", "127.0.0.1")
        found = open_storage(Location.parse(url), writes=True)
        yield request.param, found
        found.close()


CLASSES: dict[str, type] = {
    "folder": FolderStorage,
    "s3": ObjectStorage,
    "registry": RegistryStorage,
    "serve": WebStorage,
    "plain-http": WebStorage,
    "sftp": ObjectStorage,
}


def test_each_url_has_its_own_module(opened: tuple[str, SharedStorage]) -> None:
    """A scheme is a row of the table, and messages call the storage by its URL."""
    kind, found = opened
    assert isinstance(found, CLASSES[kind]) and CLASSES.keys() == set(KINDS)
    assert found.can_lease == (kind != "registry")
    assert "test" not in found.place.rpartition("/")[2]
    assert "@" not in found.place or kind == "sftp"


def test_small_objects(opened: tuple[str, SharedStorage]) -> None:
    """Written, read many at once, written over; others are left out."""
    _, found = opened
    names = [record_name(records.STEP, f"{number:064x}") for number in range(20)]
    assert found.read_many(names) == {}
    found.write_many({name: f'{{"{name}": "é"}}'.encode() for name in names[:15]})
    read = found.read_many(names)
    assert read == {name: f'{{"{name}": "é"}}'.encode() for name in names[:15]}
    found.write_many({names[0]: b"{}"})
    assert found.read_many(names[:1]) == {names[0]: b"{}"}
    long = record_name(records.SOURCE_RANGES, "e" * 64)
    found.write_many({long: b"x" * 300_000})
    assert found.read_many([long])[long] == b"x" * 300_000


def test_blobs(opened: tuple[str, SharedStorage], tmp_path: Path) -> None:
    """Sent from a file, asked for their sizes, read whole and in ranges."""
    kind, found = opened
    path, name = tmp_path / "blob", blob_name(DIGEST)
    path.write_bytes(DATA)
    piece = blob_name(Digest.of(SMALL))
    absent = blob_name(Digest("0" * 64))
    assert found.sizes([name, piece]) == {}
    assert b"".join(found.stream(absent, 5)) == b""
    assert found.read_range(absent, 0, 5) is None
    told: list[int] = []
    found.upload(name, path, told.append)
    found.write_many({piece: SMALL})
    assert told and max(told) == len(DATA)
    assert found.sizes([name, piece, absent]) == {name: len(DATA), piece: len(SMALL)}
    assert b"".join(found.stream(name, len(DATA))) == DATA
    assert found.read_range(piece, 0, len(SMALL)) == SMALL
    assert found.read_range(name, 0, 1000) == DATA[:1000]
    ranges = None if kind == "plain-http" else DATA[1_000_001:1_000_101]
    assert found.read_range(name, 1_000_001, 100) == ranges
    assert len(found.read_range(name, len(DATA) - 10, 100) or b"") in (10, 0)
    record = record_name(records.STEP, "d" * 64)
    found.write_many({record: b"{}"}, {record: {DIGEST: len(DATA)}})
    assert found.read_many([record]) == {record: b"{}"}


def test_one_of_many_creates_a_name(opened: tuple[str, SharedStorage]) -> None:
    """Eight at once, five times: one wins where the storage knows who was first."""
    kind, found = opened
    for attempt in range(5):
        name = lease_name(f"lease {attempt}")
        won: list[bool] = []
        ready = threading.Barrier(8)

        def create(
            name: str = name, won: list[bool] = won, ready: threading.Barrier = ready
        ) -> None:
            ready.wait()
            won.append(found.create(name, b'{"a": 1}'))

        threads = [threading.Thread(target=create) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 8
        assert won.count(True) == 1 if kind in (*LEASING, "sftp") else won.count(True) >= 1
        assert found.read_many([name]) == {name: b'{"a": 1}'}
        if kind != "plain-http":
            assert not found.create(name, b"{}")
        found.remove([name])
        assert not found.read_many([name]).get(name)
        found.remove([name])


def test_what_lies_there_is_counted_and_removed(opened: tuple[str, SharedStorage]) -> None:
    """By age, records before blobs; bazel-remote says what to do instead."""
    kind, found = opened
    if kind == "plain-http":
        with pytest.raises(RegistryError) as caught:
            amounts(found)
        assert "as only mbuild serve --cache does" in caught.value.message
        assert "/status" in caught.value.hint
        return
    record, piece = record_name(records.STEP, "f" * 64), Digest.of(SMALL)
    found.write_many({blob_name(piece): SMALL})
    found.write_many({record: b"{}"}, {record: {piece: len(SMALL)}})
    counted = amounts(found)
    assert counted["records"].objects >= 1 and counted["layers and pieces"].size >= len(SMALL)
    assert clear(found, 3600).removed.objects == 0
    total = sum(each.objects for each in counted.values())
    assert clear(found, -3600, dry_run=True).removed.objects == total
    assert sum(each.objects for each in amounts(found).values()) == total
    done = clear(found, -3600)
    assert done.removed.objects == done.found.objects == total
    assert sum(each.objects for each in amounts(found).values()) == 0
    assert found.read_many([record]) == {} == found.sizes([blob_name(piece)])
    found.write_many({record: b"{}"})
    assert found.read_many([record]) == {record: b"{}"}, "what was removed can be put again"


def test_a_registry_that_removes_nothing_says_so(tmp_path: Path) -> None:
    """As docker-registry comes: leases end all the same, what is old stays, with a remedy."""
    with docker_registry(tmp_path) as host:
        found = open_storage(Location.parse(f"oci://{host}/team/cache"), writes=True)
        record, lease = record_name(records.STEP, "a" * 64), lease_name("x")
        found.write_many({record: b"{}", lease: b"{}"})
        assert amounts(found)["records"].objects == amounts(found)["leases"].objects == 1
        found.remove([lease])
        assert not found.read_many([lease])
        with pytest.raises(RegistryError, match="lets nobody remove") as caught:
            clear(found, -3600)
        assert "REGISTRY_STORAGE_DELETE_ENABLED" in caught.value.hint
        assert found.read_many([record]) == {record: b"{}"}
        found.close()


def test_a_registry_needs_no_folder_for_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every disk is full there is none for temporary files: what is sent arrives."""

    def full() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", full)
    warnings = list[str]()
    with docker_registry(tmp_path) as host:
        found = open_storage(Location.parse(f"oci://{host}/team/cache"), writes=True)
        store = MemoryStore(tmp_path / "store")
        cache = TeamCache([], found, store.blobs, warn=warnings.append)
        cache.put_piece("1" * 64, SMALL, Digest.of(SMALL, BLAKE3))
        list(cache.drain())
        assert found.read_range(blob_name(Digest.of(SMALL)), 0, 100) == SMALL
        assert cache.writes and warnings == []
        cache.close()


def test_the_blobs_of_a_record_keep_as_long_as_it_does(tmp_path: Path) -> None:
    """In a registry a record's manifest has them as layers, and a piece's record its piece."""
    with docker_registry(tmp_path) as host:
        found = open_storage(Location.parse(f"oci://{host}/team/cache"), writes=True)
        cache = TeamCache([], found, MemoryStore(tmp_path / "store").blobs)
        cache.put_piece("1" * 64, SMALL, Digest.of(SMALL, BLAKE3))
        list(cache.drain())
        held = {each.name: each for each in found.objects()}
        assert {name.partition("/")[0] for name in held} == {"record", "blob"}
        assert held[blob_name(Digest.of(SMALL))].size == len(SMALL)
        assert len({each.modified for each in held.values()}) == 1
        cache.close()


def test_tags_are_names_of_objects() -> None:
    """Both ways; what else lies in the repository is none of a cache's."""
    for name in (record_name(records.SOURCE_RANGES, "a" * 64), lease_name("x")):
        assert name_of(tag_of(name)) == name
    for tag in ("latest", "v1", "record-step", f"record-{'a' * 64}", f"blob-{'a' * 64}", "lease-x"):
        assert name_of(tag) == ""


# URLs.


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@bucket/path",
        "s3://bucket/path?X-Amz-Signature=secret",
        "https://user:secret@host/cache",
        "https://secret@host/cache",
        "oci://user:secret@host/path",
        "sftp://user:secret@host/path",
        "http://host/cache#secret",
        "gs://secret@bucket/path",
    ],
)
def test_no_secret_stands_in_a_url(url: str) -> None:
    """It is refused with where a login goes, and is not repeated."""
    with pytest.raises(UsageError) as caught:
        Location.parse(url)
    assert "secret" not in caught.value.message.replace("may be a secret", "")
    assert caught.value.hint


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders and URLs, read back as they were written."""
    monkeypatch.setenv("HOME", "/home/mario")
    assert Location.parse("~/cache") == Location("file", "/home/mario/cache")
    assert Location.parse("file:///srv/cache/") == Location("file", "/srv/cache")
    for url in ("s3://bucket/a/b", "oci://host:5000/team/cache", "sftp://me@host/srv"):
        assert str(Location.parse(url)) == url
    for bad in ("", "  ", "s3://", "s3:///"):
        with pytest.raises(UsageError):
            Location.parse(bad)


def test_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """``MBUILD_CACHE`` is read, and written only where that is allowed and nothing else named."""
    place = Location("s3", "bucket/x")
    monkeypatch.setenv("MBUILD_CACHE", str(place))
    assert CacheOptions.of((), None, ()) == CacheOptions((place,))
    assert CacheOptions.of(("a",), "b", ()) == CacheOptions(
        (Location("file", "a"), place), Location("file", "b")
    )
    monkeypatch.setenv("MBUILD_CACHE_WRITE", "1")
    assert CacheOptions.of((), None, ()) == CacheOptions((), place)
    assert CacheOptions.of((), "b", ()) == CacheOptions((place,), Location("file", "b"))
    monkeypatch.setenv("MBUILD_CACHE_WRITE", "yes")
    with pytest.raises(UsageError, match="neither 0 nor 1"):
        CacheOptions.of((), None, ())


def test_unknown_schemes_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are wrong usage, with what to do."""
    with pytest.raises(UsageError) as caught:
        open_storage(Location.parse("s3x://bucket/x"))
    assert caught.value.hint == "did you mean s3?"
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(UsageError) as caught:
        open_storage(Location.parse("s3://bucket/x"))
    assert "mbuild-models[cache]" in caught.value.hint
    assert {row.module for row in STORAGES.values()} >= {"mbuild.shared.folder"}


def test_a_token_does_not_travel_in_the_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over http it goes to one's own network only."""
    monkeypatch.setenv("MBUILD_CACHE_TOKEN", "t")
    found = open_storage(Location.parse("http://93.184.216.34/cache"))
    with pytest.raises(DeniedError, match="over http"):
        found.read_many([lease_name("x")])


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """One to read has to be there; one to write is made, unless its drive is missing."""
    with pytest.raises(UnreachableError):
        open_storage(Location.parse(str(tmp_path / "none"))).read_many(["x"])
    assert open_storage(Location.parse(str(tmp_path / "new")), writes=True).create("lease/x", b"1")
    with pytest.raises(UnreachableError):
        deep = Location.parse(str(tmp_path / "unmounted" / "cache"))
        open_storage(deep, writes=True).write_many({"x": b""})
    assert not (tmp_path / "unmounted").exists()


def test_a_folder_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There names are created exclusively."""

    def no_links(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    found = open_storage(Location.parse(str(tmp_path / "new")), writes=True)
    monkeypatch.setattr(os, "link", no_links)
    assert found.create("lease/x", b"1") and not found.create("lease/x", b"2")
    assert found.read_many(["lease/x"]) == {"lease/x": b"1"}
