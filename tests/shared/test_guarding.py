"""A storage that fails, leases on one that lies, and what is sent beside a build."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fakes_shared import MemoryStorage
from fakes_store import MemoryBlobs, MemoryStore

from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import CancelledError, DeniedError, StoreError
from mbuild.shared.attach import attached, seal_of
from mbuild.shared.cache import TeamCache
from mbuild.shared.envelope import UNSIGNED
from mbuild.shared.files import SharedFiles
from mbuild.shared.guard import Guard
from mbuild.shared.leases import Leases
from mbuild.shared.locations import CacheOptions, Location
from mbuild.shared.naming import RECORD, blob_name, lease_name, record_name
from mbuild.shared.sending import Sender
from mbuild.store import Store
from mbuild.store.records import ALIAS, PLACE

if TYPE_CHECKING:
    from typing_extensions import Buffer

KEY = "12" * 32


def test_who_may_not_write_still_reads() -> None:
    """A refusal of what is written is one warning, and no reason to stop reading."""
    storage, warnings = MemoryStorage(), list[str]()
    guard = Guard(storage, warnings.append)

    def refuse(found: object) -> bool:
        raise DeniedError("read-only", hint="ask for more")

    assert guard.tell(refuse, False) is False
    assert guard.tell(refuse, False) is False
    assert warnings == ["nothing is put into the cache memory://test: read-only; ask for more"]
    assert guard.reads and not guard.writes
    storage.held["blob/x"] = b"1"
    assert guard.read_many(["blob/x"]) == {"blob/x": b"1"}


@pytest.mark.parametrize("error", [StoreError("full"), CancelledError("stopped")])
def test_errors_of_this_side_are_not_the_storages(error: Exception) -> None:
    """A full disk and Ctrl-C go on to whoever asked."""
    guard = Guard(MemoryStorage(), lambda text: None)

    def fail(found: object) -> None:
        raise error

    with pytest.raises(type(error)):
        guard.ask(fail, None)
    assert guard.reads


def _leases(storage: MemoryStorage) -> Leases:
    return Leases(Guard(storage, lambda text: None), lambda task: task(), life=30.0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"null",
        b"[]",
        b"{}",
        b'{"life": "x"}',
        b'{"holder": null}',
        b"[" * 50_000,
        b"\xff",
    ],
)
def test_a_damaged_lease_ends_like_any_other(content: bytes) -> None:
    """Somebody has it, in words for people, until its life is over; an empty
    one is free where names cannot be removed."""
    storage = MemoryStorage(can_lease=bool(content))
    storage.held[lease_name(KEY)] = content
    held = _leases(storage).held(KEY)
    assert (held is None) == (content == b"")
    if held is not None:
        assert held.life == 30.0 and held.holder in ("another build", "None")
        assert _leases(storage).take_over(KEY, held) is not None


def test_what_a_lease_says_is_fit_for_a_terminal() -> None:
    """A holder's name is a line of limited length, and its life is bounded."""
    storage = MemoryStorage()
    value = {"holder": "\x1b[2J" + "m" * 1000 + "\n", "life": 1e300}
    storage.held[lease_name(KEY)] = json.dumps(value).encode()
    held = _leases(storage).held(KEY)
    assert held is not None
    assert held.holder.isprintable() and len(held.holder) <= 200 and held.life == 600.0


def test_a_blob_that_is_gone_takes_its_record_with_it(tmp_path: Path) -> None:
    """What cannot be sent is not promised to others."""
    storage, blobs = MemoryStorage(), MemoryBlobs(tmp_path)
    sender = Sender(Guard(storage, lambda text: None), blobs, UNSIGNED)
    sender.put(ALIAS, "k", Digest("0" * 64, BLAKE3), {Digest("1" * 64): 5})
    while sender.waiting:
        pass
    sender.close()
    assert storage.held == {}


class _Gated(MemoryStorage):
    """The first records, and one blob, arrive when they are let through."""

    def __init__(self, slow: str) -> None:
        super().__init__()
        self.slow = slow
        self.records, self.blob = threading.Event(), threading.Event()
        self.begun = threading.Event()

    def write_many(
        self, objects: Mapping[str, Buffer], blobs: Mapping[str, Mapping[Digest, int]] = {}
    ) -> None:
        """Write, some of it late."""
        if any(name.startswith(RECORD) for name in objects) and not self.begun.is_set():
            self.begun.set()
            assert self.records.wait(10)
        if self.slow in objects:
            assert self.blob.wait(10)
        super().write_many(objects, blobs)


def test_who_waits_for_a_piece_waits_for_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when a later piece has taken it along: before that another job would make it again."""
    first, slow, later = (Digest.of(data, BLAKE3) for data in (b"1", b"2", b"3"))
    storage, found = _Gated(blob_name(slow)), list[bool]()
    sender = Sender(Guard(storage, lambda text: None), MemoryBlobs(tmp_path), UNSIGNED)
    key = "1" * 64
    with monkeypatch.context() as patch:
        patch.setattr("mbuild.shared.sending._QUEUES", 0)
        sender.put_piece(key, b"1", first)  # its record waits for company
        _until_sent(sender)
    sender.put_piece("2" * 64, b"2", slow)
    sender.after_all(lambda: found.append(record_name(PLACE, key) in storage.held))
    sender.put_piece("3" * 64, b"3", later)
    assert storage.begun.wait(10)  # both records are on their way
    storage.blob.set()
    time.sleep(0.2)
    assert found == []
    storage.records.set()
    _until_sent(sender)
    sender.close()
    assert found == [True]


def _until_sent(sender: Sender) -> None:
    end = time.monotonic() + 10
    while sender.waiting:
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device; free space"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory"), "No usable temporary"),
        (StoreError("this user may not read blobs"), "this user may not read blobs"),
    ],
)
def test_an_error_of_this_machine_ends_no_build_and_no_waiting(
    tmp_path: Path, error: Exception, said: str
) -> None:
    """A full disk here, say: the rest is given up with one warning, and reading goes on."""
    storage, store, warnings = MemoryStorage(), MemoryStore(tmp_path), list[str]()

    def fail(*arguments: object) -> None:
        raise error

    storage.write_many = fail  # type: ignore[method-assign]
    cache = TeamCache([], storage, store.blobs, warn=warnings.append)
    for number in range(40):  # several in each lane
        cache.put(ALIAS, f"{number}", Digest("0" * 64, BLAKE3))
        cache.put_piece(f"{number:064x}", b"piece", Digest.of(b"piece", BLAKE3))
    list(cache.drain())
    assert cache.reads and not cache.writes
    (warning,) = warnings
    assert warning.startswith("nothing is put into the cache memory://test: ") and said in warning
    cache.close()


def test_what_nobody_expects_is_raised_at_the_end(tmp_path: Path) -> None:
    """A fault of the program is told, and not waited for."""
    storage, store = MemoryStorage(), MemoryStore(tmp_path)

    def fail(*arguments: object) -> None:
        raise ZeroDivisionError

    storage.write_many = fail  # type: ignore[method-assign]
    cache = TeamCache([], storage, store.blobs)
    cache.put(ALIAS, "k", Digest("0" * 64, BLAKE3))
    with pytest.raises(ZeroDivisionError):
        list(cache.drain())
    cache.close()


def test_two_digests_of_one_content_are_known_to_all(tmp_path: Path) -> None:
    """One machine has read the bytes; the others know them by SHA-256 only."""
    storage = MemoryStorage()
    one, two = MemoryStore(tmp_path / "1"), MemoryStore(tmp_path / "2")
    sha256, blake3 = Digest("a" * 64), Digest("b" * 64, BLAKE3)
    first = TeamCache([], storage, one.blobs)
    SharedFiles(one.files, first).remember_alias(sha256, blake3)
    list(first.drain())
    first.close()
    second = TeamCache([storage], None, two.blobs)
    files = SharedFiles(two.files, second)
    assert files.alias(sha256) == blake3 and files.alias(blake3) == sha256
    assert two.files.alias(sha256) is None, "it counts as long as the cache is used"
    assert files.alias(Digest("c" * 64)) is None
    wrong = Digest("d" * 64)
    first = TeamCache([], storage, one.blobs)
    first.put(ALIAS, str(wrong), sha256)
    list(first.drain())
    first.close()
    assert files.alias(wrong) is None, "an alias is of the other kind"


def test_a_store_shares_while_a_cache_is_attached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards it is as before, also after an error."""
    store = Store(tmp_path / "store")
    options = CacheOptions((), Location("file", str(tmp_path / "shared")))
    with pytest.raises(ZeroDivisionError), attached(store, options, lambda text: None) as cache:
        assert store.shared is cache and cache.writes
        assert isinstance(store.files, SharedFiles)
        raise ZeroDivisionError
    assert store.shared is None and store.files is store.database
    assert seal_of(options) == UNSIGNED
    from mbuild.core.keys import make_key

    make_key(tmp_path / "key.pem")
    monkeypatch.setenv("MBUILD_CACHE_KEY", str(tmp_path / "key.pem"))
    seal = seal_of(options._replace(verify=(str(tmp_path / "key.pem.pub"),)))
    assert seal.signer is not None and len(seal.trusted) == 2
    assert seal_of(CacheOptions((Location("file", "x"),))) == UNSIGNED, "who only reads signs not"
