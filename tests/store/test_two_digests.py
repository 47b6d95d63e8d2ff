"""One content, two digests: both from the same bytes, each leads to the other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from live_server import serving_here

from mbuild.core.digest import BLAKE3, Digest, DigestError
from mbuild.store import Store
from mbuild.store.blocks import BLOCK, Blocks
from mbuild.store.copying import OpenFile, hash_twice
from mbuild.work.cores import use_threads

SIZES = (0, 1, 4096, BLOCK - 1, BLOCK, 2 * BLOCK + 4096 + 5)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with its folders."""
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def content(size: int) -> bytes:
    """Bytes that are different in every place of every block."""
    return (b"".join(number.to_bytes(4, "little") for number in range(1 << 16)) * 64)[:size]


def both(data: bytes) -> tuple[Digest, Digest]:
    """The digests of some bytes, each taken by itself."""
    return Digest.of(data), Digest.of(data, BLAKE3)


@pytest.mark.parametrize("size", SIZES)
def test_a_file_is_hashed_twice_in_one_reading(tmp_path: Path, size: int) -> None:
    """Whatever its size; the progress is that of the bytes."""
    data = content(size)
    (tmp_path / "file").write_bytes(data)
    told: list[int] = []
    with OpenFile.open(tmp_path / "file", "file") as file:
        found = hash_twice(file.fd, file.size, lambda done, total: told.append(done))
    assert found == both(data)
    assert told[-1:] == ([size] if size else [])


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_an_import_knows_both(store: Store, tmp_path: Path, size: int, link: bool) -> None:
    """Of a copy and of a hard link, and of a file whose blob is there already."""
    data = content(size)
    (tmp_path / "file").write_bytes(data)
    for existed in (False, True):
        with OpenFile.open(tmp_path / "file", "file") as file:
            blob = store.blobs.ingest(file, link=link, progress=lambda done, total: None)
        assert (blob.digest, blob.blake3) == both(data)
        assert blob.existed is existed
    assert store.blobs.path(blob.digest).read_bytes() == data


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("size", SIZES)
def test_an_upload_knows_both(store: Store, size: int, threads: int) -> None:
    """With cores to spare and without; other blobs are not hashed a second time."""
    data = content(size)
    use_threads(threads)
    try:
        for twice in (True, False):
            with store.blobs.writer(twice=twice) as writer:
                for start in range(0, size, 1_000_003):
                    writer.write(data[start : start + 1_000_003])
                assert writer.digest == Digest.of(data)
                blob = writer.commit()
            assert (blob.digest, blob.blake3) == (Digest.of(data), both(data)[1] if twice else None)
    finally:
        use_threads(None)


def test_every_pair_of_eyes_sees_every_byte_in_order(tmp_path: Path) -> None:
    """Before it is written, each on a thread of its own."""
    data = content(3 * BLOCK + 17)
    seen: tuple[list[bytes], list[bytes]] = ([], [])
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    blocks = Blocks(fd, *(lambda view, one=one: one.append(bytes(view)) for one in seen))
    for start in range(0, 3 * BLOCK, BLOCK):
        block = blocks.take()
        block[:] = data[start : start + BLOCK]
        blocks.put(block, BLOCK)
    block = blocks.take()
    block[:17] = data[3 * BLOCK :]
    blocks.finish(block, 17)
    blocks.stop()
    os.close(fd)
    assert b"".join(seen[0]) == b"".join(seen[1]) == data
    assert (tmp_path / "file").read_bytes() == data


def test_an_alias_leads_both_ways(store: Store) -> None:
    """From SHA-256 to BLAKE3 and back, also for the process that reads the cache next."""
    sha256, blake3 = both(b"content")
    assert store.database.alias(sha256) is None
    store.database.remember_alias(sha256, blake3)
    store.database.flush()
    for database in (store.database, Store(store.root).database):
        assert (database.alias(sha256), database.alias(blake3)) == (blake3, sha256)


def test_a_blob_that_was_sent_is_known_by_both(tmp_path: Path) -> None:
    """The server remembers them when it has the bytes; so it does the content as read before."""
    data = content(BLOCK + 5)
    with serving_here(tmp_path / "store") as server:
        server.upload(data)
        sha256, blake3 = both(data)
        database = server.store.database
        assert database.alias(sha256) == blake3
        assert database.content_known(len(data), blake3)


@pytest.mark.parametrize(
    "text", ["", "blake3", "blake3:", "blake3:" + "g" * 64, "blake3-" + "0" * 64, "md5:" + "0" * 64]
)
def test_texts_that_are_no_digest(text: str) -> None:
    """Nor is one of another kind, or in another spelling, read as if it were."""
    with pytest.raises(DigestError):
        Digest.parse_any(text)


def test_digests_are_read_as_they_are_written() -> None:
    """Either kind; and only a SHA-256 names a blob."""
    for digest in both(b"x"):
        assert Digest.parse_any(str(digest)) == digest
    with pytest.raises(DigestError):
        Digest.parse(str(both(b"x")[1]))
