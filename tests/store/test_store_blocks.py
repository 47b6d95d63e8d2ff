"""Files written block by block: the bytes, the durable part, and errors on the way."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakSet

import pytest

from mbuild.core.errors import CancelledError, StoreError
from mbuild.store import Store, blocks
from mbuild.store.blocks import BLOCK, Blocks

SIZES = (0, 1, 4095, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 6 * BLOCK, 6 * BLOCK + 4096 + 5)


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """A new file, open."""
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


def content(size: int) -> bytes:
    """Bytes that are different in every place of every block."""
    return (b"".join(number.to_bytes(4, "little") for number in range(1 << 16)) * 128)[:size]


def store_in(folder: Path) -> Store:
    """A store with its folders."""
    store = Store(folder)
    store.begin()
    return store


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_a_blob_is_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, direct: bool
) -> None:
    """Whatever the pieces, past the page cache or through it."""
    if not direct:
        monkeypatch.setattr(blocks, "_DIRECT", 0)
    store, data = store_in(tmp_path / "store"), content(size)
    with store.blobs.writer() as writer:
        for start in range(0, size, 1_000_003):
            writer.write(data[start : start + 1_000_003])
        blob = writer.commit()
    assert blob.size == size
    assert store.blobs.path(blob.digest).read_bytes() == data
    store.end()


def test_what_was_saved_is_in_the_file_to_the_byte(tmp_path: Path) -> None:
    """Also the beginning of a block, which does not harm what follows."""
    store, data = store_in(tmp_path / "store"), content(BLOCK + 70_001)
    seen: list[bytes] = []

    def look(place: str, written: int) -> None:
        seen.append((store.root / place).read_bytes())
        assert len(seen[-1]) == written

    with store.blobs.writer("part-") as writer:
        for end in (10, 5000, BLOCK - 1, BLOCK + 1, len(data)):
            writer.write(data[writer.size : end])
            writer.save(look)
            writer.wait()
            assert seen[-1] == data[:end]
        assert store.blobs.path(writer.commit().digest).read_bytes() == data
    store.end()


def test_a_file_system_without_direct_writes(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes the flag and refuses the write is written to through the cache."""
    refused: list[int] = []
    real = blocks.write_all

    def refuse_once(to: int, data: memoryview) -> None:
        if not refused:
            refused.append(len(data))
            raise OSError(errno.EINVAL, "Invalid argument")
        real(to, data)

    monkeypatch.setattr(blocks, "write_all", refuse_once)
    writing = Blocks(fd)
    writing._direct = True  # also where the test's own file system has none
    block = writing.take()
    block[:] = content(BLOCK)
    writing.put(block, BLOCK)
    writing.finish(None, 0)
    writing.stop()
    assert refused == [BLOCK]
    assert os.pread(fd, BLOCK + 1, 0) == content(BLOCK)


def test_an_error_reaches_the_one_who_fills(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk ends the writing: blocks come back, and the next put raises."""

    def full(to: int, data: memoryview) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blocks, "write_all", full)
    writing = Blocks(fd)
    with pytest.raises(OSError, match="No space left"):
        for _ in range(20):
            writing.put(writing.take(), BLOCK)
    with pytest.raises(OSError, match="No space left"):
        writing.wait()
    writing.stop()


@pytest.mark.parametrize("where", ["a block", "a task between blocks"])
def test_who_waits_for_a_block_hears_of_an_error(
    fd: int, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """All blocks wait to be written when the writing ends: none of them comes back ever."""
    filled, raised = threading.Event(), []

    def full(*arguments: object) -> None:
        filled.wait(10)
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill() -> None:
        for _ in range(2):  # were the failed block handed out, the second would wait for ever
            try:
                writing.take()
            except OSError as error:
                raised.append(error.errno)

    if where == "a block":
        monkeypatch.setattr(blocks, "write_all", full)
    writing = Blocks(fd)
    if where != "a block":
        writing.then(b"", full)
    for _ in range(blocks._BLOCKS):
        writing.put(writing.take(), BLOCK)
    filler = threading.Thread(target=fill, daemon=True)
    filler.start()
    filled.set()
    filler.join(10)
    writing.stop()
    assert raised == [errno.ENOSPC] * 2


def test_the_error_of_a_blob_is_the_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to do, and leaves no file behind."""

    def full(to: int, data: memoryview) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(blocks, "write_all", full)
    store = store_in(tmp_path / "store")
    with pytest.raises(StoreError, match="No space left") as error, store.blobs.writer() as writer:
        writer.write(content(3 * BLOCK))
        writer.commit()
    assert "free space" in error.value.hint
    assert not list((tmp_path / "store/.mbuild/tmp").iterdir())
    store.end()


def test_stopping_wakes_who_waits_for_a_block(fd: int) -> None:
    """Nobody waits forever for a block that will not come back."""
    writing = Blocks(fd)
    for _ in range(4):
        writing.take()
    writing.stop()
    with pytest.raises(CancelledError):
        writing.take()


@pytest.mark.parametrize(("files", "most"), [(1, 6), (3, 6), (8, 3), (40, 2)])
def test_of_many_files_at_once_each_has_fewer_blocks(
    files: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that thirty variants take no more memory than a few; two are enough to go on."""
    monkeypatch.setattr(blocks, "_writing", WeakSet())
    fds = [os.open(tmp_path / str(n), os.O_RDWR | os.O_CREAT, 0o600) for n in range(files)]
    several = [Blocks(fd) for fd in fds]
    try:
        taken = [each.take() for each in several]
        for each in several:
            taken += [each.take() for _ in range(most - 1)]
            assert each._made == most
            each.put(taken[-1], BLOCK)
            each.take()  # the one that was written: there is no further one
            assert each._made == most
    finally:
        for each, fd in zip(several, fds, strict=True):
            each.stop()
            os.close(fd)
    assert not {*several} & {*blocks._writing}


@pytest.mark.parametrize("size", [0, 1, 4096, 2 << 20, (2 << 20) + 1, (5 << 20) + 4097])
@pytest.mark.parametrize("direct", [True, False])
def test_any_length_goes_past_the_cache(
    size: int, direct: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any memory, aligned or not; also where the system has no direct writes."""
    data = bytes(1) + os.urandom(size)
    monkeypatch.setattr(blocks, "_DIRECT", blocks._DIRECT if direct else 0)
    with (tmp_path / "file").open("wb") as file:
        blocks.write_past_cache(file.fileno(), memoryview(data)[1:])
    assert (tmp_path / "file").read_bytes() == data[1:]


def test_a_direct_write_that_is_refused_is_an_ordinary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems take the flag and refuse the first write, or one after some."""
    data, calls = os.urandom((4 << 20) + 7), iter([True, False, True])
    write = blocks.write_all

    def refusing(fd: int, piece: memoryview) -> None:
        if not next(calls):
            raise OSError(errno.EINVAL, "no direct writes here")
        write(fd, piece)

    monkeypatch.setattr(blocks, "write_all", refusing)
    with (tmp_path / "file").open("wb") as file:
        blocks.write_past_cache(file.fileno(), memoryview(data))
    assert (tmp_path / "file").read_bytes() == data
