"""A shared cache over a storage: what it gives was checked, what it takes arrives in order."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes_shared import MemoryStorage
from fakes_store import MemoryBlobs

from mbuild.core.digest import BLAKE3, SHA256, Digest
from mbuild.shared import leases
from mbuild.shared.cache import TeamCache
from mbuild.shared.naming import blob_name, is_name, lease_name, record_name
from mbuild.store import records
from mbuild.store.records import RangePlace
from mbuild.store.shared import SharedCache

KEY = "ab" * 32
DATA = bytes(range(256)) * 40
DIGEST = Digest.of(DATA)
RESULT = json.dumps({"facts": {}, "layers": []})


class Machine:
    """A store of its own, and a cache that it shares."""

    def __init__(self, folder: Path, storage: MemoryStorage, *, writes: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.blobs = MemoryBlobs(folder)
        self.warnings: list[str] = []
        sources = [] if writes else [storage]
        target = storage if writes else None
        self.cache: SharedCache = TeamCache(
            sources, target, self.blobs, warn=self.warnings.append, life=0.3
        )

    def sent(self) -> int:
        """Wait until all has arrived."""
        return max((done for done, _ in self.cache.drain()), default=0)


@pytest.fixture
def storage() -> MemoryStorage:
    """An empty storage."""
    return MemoryStorage()


@pytest.fixture
def ours(tmp_path: Path, storage: MemoryStorage) -> Iterator[Machine]:
    """A machine that writes."""
    machine = Machine(tmp_path / "ours", storage)
    yield machine
    machine.cache.close()


@pytest.fixture
def theirs(tmp_path: Path, storage: MemoryStorage) -> Iterator[Machine]:
    """A machine that only reads."""
    machine = Machine(tmp_path / "theirs", storage, writes=False)
    yield machine
    machine.cache.close()


def test_a_record_comes_after_the_blobs_that_it_names(
    ours: Machine, theirs: Machine, storage: MemoryStorage
) -> None:
    """Whoever sees a record can have its blobs, which are sent once."""
    blob = ours.blobs.put(DATA)
    for kind in (records.STEP, records.DESCRIPTION):
        value: Any = RESULT if kind is records.STEP else {"kind": "x"}
        ours.cache.put(kind, KEY, value, {blob.digest: blob.size})
    assert ours.sent() == len(DATA)
    blobs = [name for name in storage.written if name.startswith("blob/")]
    assert blobs == [blob_name(DIGEST)]
    assert storage.written.index(blobs[0]) < storage.written.index(record_name(records.STEP, KEY))
    assert theirs.cache.get_many(records.STEP, [KEY]) == {KEY: RESULT}
    assert theirs.cache.missing({DIGEST: len(DATA)}) == set()
    told: list[int] = []
    assert theirs.cache.fetch(DIGEST, len(DATA), told.append)
    assert theirs.blobs.here == {DIGEST: DATA} and told[-1] == len(DATA)


def test_many_keys_are_asked_for_at_once_and_only_once(
    ours: Machine, theirs: Machine, storage: MemoryStorage
) -> None:
    """A thousand look-ups are one request; what was not there is asked again where that is said."""
    keys = [f"{number:064x}" for number in range(1000)]
    assert theirs.cache.get_many(records.STEP, keys) == {}
    assert [(what, len(names)) for what, names in storage.asked] == [("read", 1000)]
    ours.cache.put(records.STEP, keys[7], RESULT)
    ours.sent()
    storage.asked.clear()
    assert theirs.cache.get_many(records.STEP, keys) == {}
    assert storage.asked == []
    assert theirs.cache.get_many(records.STEP, keys, again=True) == {keys[7]: RESULT}


def test_a_piece_is_put_and_found_by_its_key(ours: Machine, theirs: Machine) -> None:
    """A worker's bytes that are in no layer: content-addressed, checked when they are read."""
    pieces = {f"{number:064x}": bytes([number]) * 1000 for number in range(200)}
    for key, data in pieces.items():
        ours.cache.put_piece(key, data, Digest.of(data, BLAKE3))
    ours.sent()
    places = theirs.cache.places([*pieces, "f" * 64])
    assert places.keys() == pieces.keys()
    assert {key: theirs.cache.read_piece(place) for key, place in places.items()} == pieces


def test_a_range_of_a_layer_is_a_piece(
    ours: Machine, theirs: Machine, storage: MemoryStorage
) -> None:
    """Its bytes are stored once, in the layer; unfinished files of one store are not shared."""
    blob = ours.blobs.put(DATA)
    digest = Digest.of(DATA[256:512], BLAKE3)
    place = RangePlace(f"blobs/{blob.digest.filename}", 256, 256, digest)
    partial = RangePlace("partial/tmp-1", 0, 256, digest)
    ours.cache.put_places({KEY: place, "cd" * 32: partial})
    ours.sent()
    assert theirs.cache.places([KEY, "cd" * 32]) == {KEY: place}
    assert theirs.cache.read_piece(place) == DATA[256:512]
    assert [name for name in storage.held if name.startswith("blob/")] == [blob_name(DIGEST)]


def test_what_takes_longer_to_come_than_to_make_is_made(theirs: Machine) -> None:
    """Small things are fetched, others by how fast those before them came."""
    pace = vars(theirs.cache)["_pace"]
    large = {DIGEST: 100_000_000}
    assert theirs.cache.piece_pays(4 << 20, 0.0), "the first one tells how fast it is"
    pace.add(10_000_000, 1.0)
    assert theirs.cache.piece_pays(1 << 20, 0.0)
    assert theirs.cache.piece_pays(10_000_000, 1.1)
    assert not theirs.cache.piece_pays(10_000_000, 0.9)
    assert theirs.cache.seconds(large) == pytest.approx(10.0)


def test_records_of_one_store_do_not_leave_it(ours: Machine, storage: MemoryStorage) -> None:
    """What somebody wrote, and what is true of one machine only."""
    for kind in records.RECORDS:
        if not kind.shared:
            ours.cache.put(
                kind, KEY, kind.decode(kind.encode(True)) if kind.name == "made" else "x"
            )
    ours.sent()
    assert storage.held == {}


def test_who_only_reads_writes_nothing(theirs: Machine, storage: MemoryStorage) -> None:
    """``--cache-from`` alone leaves the storage as it is."""
    theirs.cache.put(records.STEP, KEY, RESULT)
    theirs.cache.put_piece(KEY, DATA, Digest.of(DATA, BLAKE3))
    theirs.cache.put_places({KEY: RangePlace(f"blobs/{DIGEST.filename}", 0, 1, DIGEST)})
    assert not theirs.cache.writes
    assert theirs.sent() == 0 and storage.held == {}


def test_a_storage_that_does_not_answer_is_one_warning(
    ours: Machine, storage: MemoryStorage
) -> None:
    """Every call has an answer, nobody is asked again, and nothing is raised."""
    storage.dead = True
    blob = ours.blobs.put(DATA)
    assert ours.cache.get_many(records.STEP, [KEY]) == {}
    asked = len(storage.asked)
    assert ours.cache.missing({DIGEST: 1}) == {DIGEST}
    assert not ours.cache.fetch(DIGEST, len(DATA), lambda done: None)
    assert ours.cache.places([KEY]) == {}
    place = RangePlace(f"blobs/{DIGEST.filename}", 0, 5, Digest.of(b"x", BLAKE3))
    assert ours.cache.read_piece(place) is None
    ours.cache.put(records.STEP, KEY, RESULT, {blob.digest: blob.size})
    ours.cache.put_piece(KEY, DATA, Digest.of(DATA, BLAKE3))
    lease = ours.cache.take(KEY)
    assert lease is not None
    lease.release()
    assert ours.sent() == 0
    assert not ours.cache.reads and not ours.cache.writes
    assert len(storage.asked) == asked
    assert (
        len(ours.warnings) == 1
        and "continuing without the cache memory://test" in (ours.warnings[0])
    )


def test_a_storage_that_dies_in_the_middle_is_one_warning(
    ours: Machine, storage: MemoryStorage
) -> None:
    """Eight senders fail at once; one of them says so."""
    for number in range(40):
        blob = ours.blobs.put(bytes([number]) * 5000)
        ours.cache.put(records.STEP, f"{number:064x}", RESULT, {blob.digest: blob.size})
        storage.dead = number > 10
    ours.sent()
    assert len(ours.warnings) == 1


def test_damage_is_repaired_by_who_makes_it_again(
    ours: Machine, theirs: Machine, storage: MemoryStorage
) -> None:
    """A blob of the right size with other bytes is found when it is fetched, and sent anew."""
    storage.held[blob_name(DIGEST)] = bytes(len(DATA))
    assert ours.cache.missing({DIGEST: len(DATA)}) == set()
    assert not ours.cache.fetch(DIGEST, len(DATA), lambda done: None)
    assert ours.cache.missing({DIGEST: len(DATA)}) == {DIGEST}, "it is not asked for again"
    assert len(ours.warnings) == 1 and "they are not used" in ours.warnings[0]
    blob = ours.blobs.put(DATA)
    ours.cache.put(records.STEP, KEY, RESULT, {blob.digest: blob.size})
    ours.sent()
    assert theirs.cache.fetch(DIGEST, len(DATA), lambda done: None)


def test_a_storage_that_never_answers_is_left(
    storage: MemoryStorage, theirs: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drive that hangs, a library that tries again for minutes: the first answer is bounded."""
    import threading

    from mbuild.shared import guard

    gate = threading.Event()
    monkeypatch.setattr(guard, "FIRST_SECONDS", 0.2)
    monkeypatch.setattr(storage, "read_many", lambda names: gate.wait(20) and {})
    assert theirs.cache.get_many(records.STEP, [KEY]) == {}
    gate.set()
    assert len(theirs.warnings) == 1 and "has not answered" in theirs.warnings[0]


# Single flight.


def test_one_of_several_gets_a_lease(ours: Machine, storage: MemoryStorage, tmp_path: Path) -> None:
    """The others learn who has it; once it is released the next one gets it."""
    other = Machine(tmp_path / "other", storage)
    lease = ours.cache.take(KEY)
    assert lease is not None
    assert other.cache.take(KEY) is None
    held = other.cache.held(KEY)
    assert held is not None and "process" in held.holder and held.life == pytest.approx(0.3)
    lease.release()
    ours.sent()
    assert lease_name(KEY) not in storage.held
    assert other.cache.held(KEY) is None
    assert other.cache.take(KEY) is not None
    other.cache.close()
    assert lease_name(KEY) not in storage.held


def test_a_lease_is_let_go_after_the_record_has_arrived(
    ours: Machine, storage: MemoryStorage
) -> None:
    """So whoever sees no lease any more finds the record."""
    lease = ours.cache.take(KEY)
    assert lease is not None
    blob = ours.blobs.put(DATA)
    ours.cache.put(records.STEP, KEY, RESULT, {blob.digest: blob.size})
    lease.release()
    ours.sent()
    order = [(what, names) for what, names in storage.asked if what in ("write", "remove")]
    record = order.index(("write", (record_name(records.STEP, KEY),)))
    assert order.index(("remove", (lease_name(KEY),))) > record


def test_a_lease_is_renewed_and_a_stale_one_is_taken_over(
    ours: Machine, storage: MemoryStorage, tmp_path: Path
) -> None:
    """What changes is held; what does not change for its life goes to one of those who wait."""
    import time

    lease = ours.cache.take(KEY)
    assert lease is not None
    seen = {storage.held[lease_name(KEY)]}
    end = time.monotonic() + 5
    while len(seen) < 3:
        assert time.monotonic() < end, "it is not renewed"
        seen.add(storage.held[lease_name(KEY)])
        time.sleep(0.02)
    other = Machine(tmp_path / "other", storage)
    held = other.cache.held(KEY)
    assert held is not None
    storage.held[lease_name(KEY)] = held.content
    taken = other.cache.take_over(KEY, held._replace(content=b"older"))
    assert taken is None, "it was renewed meanwhile"
    # The holder was killed: nobody renews any more.
    vars(ours.cache)["_leases"]._renewing.stop()
    held = other.cache.held(KEY)
    assert held is not None
    taken = other.cache.take_over(KEY, held)
    assert taken is not None
    assert ours.cache.take_over(KEY, held) is None, "two cannot take over the same lease"
    lease.release()
    ours.sent()
    assert lease_name(KEY) in storage.held, "a lost lease is not the old holder's to remove"
    other.cache.close()


def test_a_storage_that_only_says_it_is_atomic_is_found_out(
    tmp_path: Path,
) -> None:
    """A server that ignores the condition: leases are looked at first, and one still waits."""
    storage = MemoryStorage(can_lease=False)
    storage.can_lease = False
    one, two = (Machine(tmp_path / name, storage) for name in ("one", "two"))
    assert one.cache.take(KEY) is not None
    assert two.cache.take(KEY) is None
    one.cache.close()
    two.cache.close()


def test_of_two_who_write_at_once_the_last_one_has_it(tmp_path: Path) -> None:
    """Where nobody can tell who was first: both have looked and seen nothing, and both write."""
    storage, both = MemoryStorage(can_lease=False), threading.Barrier(2)
    reading = storage.read_many

    def read(names: Collection[str]) -> dict[str, bytes]:
        found = reading(names)
        if names == [lease_name(KEY)] and not found:
            both.wait(10)
        return found

    machines = [Machine(tmp_path / name, storage) for name in ("one", "two")]
    for machine in machines:
        assert not machine.cache.exclusive
    storage.read_many = read  # type: ignore[method-assign]
    taken: list[object] = []
    threads = [
        threading.Thread(target=lambda m=machine: taken.append(m.cache.take(KEY)))
        for machine in machines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    storage.read_many = reading  # type: ignore[method-assign]
    assert len(taken) == 2 and sum(lease is not None for lease in taken) == 1
    for machine in machines:
        machine.cache.close()
    assert lease_name(KEY) not in storage.held


def test_nobody_waits_for_a_process_of_this_machine_that_is_gone(
    ours: Machine, storage: MemoryStorage, tmp_path: Path
) -> None:
    """A lease tells who holds it; one that lives, and one of another machine, keep their time."""
    if not Path("/proc/self/ns/pid").exists():
        pytest.skip("only Linux tells processes apart for sure")
    code = "from mbuild.shared import leases; print(leases._process())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    dead, own = done.stdout.strip(), leases._process()
    assert leases._is_dead(dead) and not leases._is_dead(own)
    boot, *rest = dead.split()
    assert not leases._is_dead(" ".join([boot[::-1], *rest]))
    assert not any(map(leases._is_dead, ("", "x", 7, None, [], f"{boot} {rest[0]} x 1")))
    assert ours.cache.take(KEY) is not None
    other = Machine(tmp_path / "other", storage)
    held = other.cache.held(KEY)
    assert held is not None and held.life > 0
    said = json.loads(storage.held[lease_name(KEY)])
    vars(ours.cache)["_leases"]._renewing.stop()
    for process, life in ((dead, 0.0), ("", held.life)):
        storage.held[lease_name(KEY)] = json.dumps({**said, "process": process}).encode()
        now = other.cache.held(KEY)
        assert now is not None and now.life == life
    other.cache.close()


@pytest.mark.parametrize("life", ["NaN", "Infinity", "-1", '"x"', "[]", "1e999", "9" * 400])
def test_a_lease_with_any_life_ends(life: str, ours: Machine, storage: MemoryStorage) -> None:
    """Nobody waits for ever because of what somebody wrote."""
    storage.held[lease_name(KEY)] = f'{{"holder": "x", "life": {life}}}'.encode()
    held = ours.cache.held(KEY)
    assert held is not None and 0.0 <= held.life <= 600.0


def test_names_are_told_from_others() -> None:
    """What else lies in a folder is not the cache's to count or remove."""
    good = (record_name(records.STEP, KEY), record_name(records.ALIAS, "sha256:1"), lease_name("x"))
    assert all(map(is_name, (*good, blob_name(DIGEST))))
    for bad in ("blob/x", "blob/sha256-0", "record/step", "record/../x/" + KEY, "lease/x", "x"):
        assert not is_name(bad)
    assert not is_name("blob/sha256:" + "0" * 64)


def test_a_piece_is_under_the_digest_that_the_storage_takes(
    ours: Machine, theirs: Machine, storage: MemoryStorage
) -> None:
    """Its BLAKE3, which is known, or where names have to be SHA-256 that; it is read either way."""
    known = Digest.of(DATA, BLAKE3)
    for any_digest, algorithm in ((True, BLAKE3), (False, SHA256)):
        storage.any_digest = any_digest
        key = Digest.of(algorithm.encode()).hex
        ours.cache.put_piece(key, DATA, known)
        ours.sent()
        name = blob_name(Digest.of(DATA, algorithm))
        assert storage.held[name] == DATA and is_name(name)
        place = theirs.cache.places([key])[key]
        assert (place.path, place.digest) == (f"blobs/{algorithm}-{name[-64:]}", known)
        assert theirs.cache.read_piece(place) == DATA
        storage.held[name] = DATA[:-1] + b"?"
        assert theirs.cache.read_piece(place) is None


def test_a_piece_under_its_blake3_is_that_piece_alone(
    ours: Machine, theirs: Machine, storage: MemoryStorage
) -> None:
    """A record that names another piece, or a part of one, leads to no bytes."""
    known, other = Digest.of(DATA, BLAKE3), Digest.of(b"other", BLAKE3)
    storage.held[blob_name(known)] = DATA
    storage.held[blob_name(other)] = DATA
    part = Digest.of(DATA[1:], BLAKE3)
    for place in (
        RangePlace(f"blobs/{other.filename}", 0, len(DATA), known),
        RangePlace(f"blobs/{known.filename}", 1, len(DATA) - 1, part),
        RangePlace(f"blobs/{known.filename.upper()}", 0, len(DATA), known),
    ):
        ours.cache.put(records.PLACE, KEY, place)
        ours.sent()
        assert theirs.cache.places([KEY], again=True) == {}
        assert theirs.cache.read_piece(place) is None


def test_an_empty_lease_of_somebody_who_was_killed_ends(
    ours: Machine, storage: MemoryStorage
) -> None:
    """Some storages create a name before they have its content; nobody waits for ever."""
    storage.held[lease_name(KEY)] = b""
    assert ours.cache.take(KEY) is None
    held = ours.cache.held(KEY)
    assert held is not None and held.life == pytest.approx(0.3)
    assert ours.cache.take_over(KEY, held) is not None
