"""What a build gives to a shared cache: blobs, then the records that name them, beside the work."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError, StoreError
from mbuild.shared.naming import blob_name, content_of, record_name
from mbuild.store.files import remedy
from mbuild.store.records import PLACE, RangePlace
from mbuild.work.cancel import Cancel
from mbuild.work.queues import Queues

if TYPE_CHECKING:
    from pathlib import Path

    from typing_extensions import Buffer

    from mbuild.shared.envelope import Seal
    from mbuild.shared.guard import Guard
    from mbuild.store.ports import BlobStore
    from mbuild.store.records import RecordKind
    from mbuild.store.shared import SharedStorage

_QUEUES = 8
_IN_FLIGHT = 256 << 20
"""Bytes of pieces that may wait in memory."""

_RECORDS_AT_ONCE = 64


class Sender:
    """The way to one storage, which is done without once it fails, or what is sent cannot be read.

    Nothing here raises but :meth:`check`.
    """

    def __init__(self, guard: Guard, blobs: BlobStore, seal: Seal) -> None:
        self._guard = guard
        self._blobs = blobs
        self._seal = seal
        self._queues = Queues("mbuild-send", _QUEUES)
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._in_flight = 0
        self._of_blob: dict[Digest, threading.Lock] = {}
        self._there: set[Digest] = set()
        self._bad: set[Digest] = set()
        self._places: dict[str, RangePlace] = {}
        self._pieces: dict[str, RangePlace] = {}
        self._recording = threading.Lock()  # held until what was taken out of them is written
        self._cancel = Cancel("the build has ended")
        self._finished = 0
        self._moving: dict[Digest, int] = {}
        self.total = 0

    @property
    def done(self) -> int:
        """Bytes that have gone."""
        with self._lock:
            return self._finished + sum(self._moving.values())

    @property
    def waiting(self) -> int:
        """How many things are on their way."""
        return self._queues.waiting

    def after_all(self, task: Callable[[], object]) -> None:
        """Do something once all that was put before has arrived."""
        self._flush()
        self._queues.after_all(task)

    def check(self) -> None:
        """Raise what nobody knew how to go on after."""
        self._queues.check()

    def put(self, kind: RecordKind[Any], key: str, value: Any, blobs: Mapping[Digest, int]) -> None:
        """A record, after the blobs that it names; then the places of what is in them."""
        data = {record_name(kind, key): self._seal.close(kind.table, key, kind.encode(value))}

        def send() -> None:
            if all(self._send_blob(*item) for item in blobs.items()):
                named = dict.fromkeys(data, blobs)
                self._guard.tell(lambda storage: storage.write_many(data, named), None)

        self._begin(send)
        named = {f"blobs/{digest.filename}" for digest in blobs}
        with self._lock:
            places = {key: place for key, place in self._places.items() if place.path in named}
            self._places = {k: place for k, place in self._places.items() if k not in places}
        self._send_places(places)

    def put_places(self, places: Mapping[str, RangePlace]) -> None:
        """Places in blobs of the store; they go with the record that names the blob, or at last."""
        with self._lock:
            self._places.update(places)

    def put_piece(self, key: str, data: Buffer, digest: Digest) -> None:
        """A piece that is in no blob; its record goes with those of others."""
        piece = memoryview(data).cast("B")
        with self._room:
            while self._in_flight and self._in_flight + len(piece) > _IN_FLIGHT:
                self._room.wait()
            self._in_flight += len(piece)
            self.total += len(piece)
        place = RangePlace("", 0, len(piece), digest)

        def send() -> None:
            try:
                whole = digest  # which is a BLAKE3, and known
                if not self._guard.storage.any_digest:
                    whole = Digest(hashlib.sha256(piece).hexdigest())
                name = blob_name(whole)
                if self._guard.sizes([name]).get(name) != len(piece):
                    self._guard.tell(lambda storage: storage.write_many({name: piece}), None)
                self._add_piece(key, place._replace(path=f"blobs/{whole.filename}"))
            finally:
                with self._room:
                    self._in_flight -= len(piece)
                    self._finished += len(piece)
                    self._room.notify_all()

        self._begin(send)

    def distrust(self, digest: Digest) -> None:
        """What lies there under that name is something else: the blob is sent whatever its size."""
        self._bad.add(digest)

    def give_up(self) -> None:
        """Let what is on its way stop there."""
        self._cancel.cancel()

    def close(self) -> None:
        """Drop what has not gone, and wait for the end of what stops."""
        self._queues.stop()

    def _begin(self, send: Callable[[], object]) -> None:
        """Send something beside the build, which an error of this machine's disks does not end."""

        def run() -> None:
            try:
                send()
            except StoreError as error:
                self._guard.write_no_more(error)
            except OSError as error:
                self._guard.write_no_more(StoreError(str(error), hint=remedy(error)))

        self._queues.put(run)

    def _add_piece(self, key: str, place: RangePlace) -> None:
        """Record a piece, with others while many wait: who is killed then has lost few."""
        with self._lock:
            self._pieces[key] = place
            if len(self._pieces) < _RECORDS_AT_ONCE and self._queues.waiting > _QUEUES:
                return
        self._record_pieces()

    def _record_pieces(self) -> None:
        """Write the records of all pieces that have arrived; wait for those that others write."""
        with self._recording:
            with self._lock:
                pieces, self._pieces = self._pieces, {}
            self._write_places(pieces)

    def _flush(self) -> None:
        """Send what waits for company, once all that it is about has arrived."""
        with self._lock:
            places, self._places = self._places, {}
        self._send_places(places)
        self._queues.after_all(self._record_pieces)

    def _send_places(self, places: Mapping[str, RangePlace]) -> None:
        by_blob: dict[Digest, dict[str, RangePlace]] = {}
        for key, place in places.items():
            digest = Digest.parse(place.path.removeprefix("blobs/"))
            by_blob.setdefault(digest, {})[key] = place
        for digest, own in by_blob.items():
            self._begin(partial(self._after_blob, digest, own))

    def _after_blob(self, digest: Digest, places: Mapping[str, RangePlace]) -> None:
        size = self._blobs.size(digest)
        if size is not None and self._send_blob(digest, size):
            self._write_places(places, size)

    def _write_places(self, places: Mapping[str, RangePlace], size: int | None = None) -> None:
        """Write where pieces lie: in a blob of ``size`` bytes, or each in one of its own."""
        records: dict[str, bytes] = {}
        named: dict[str, Mapping[Digest, int]] = {}
        for key, place in places.items():
            name = record_name(PLACE, key)
            records[name] = self._seal.close(PLACE.table, key, place.encode())
            blob = content_of(place.path.removeprefix("blobs/"))
            assert blob is not None
            named[name] = {blob: place.size if size is None else size}
        if records:
            self._guard.tell(lambda storage: storage.write_many(records, named), None)

    def _send_blob(self, digest: Digest, size: int) -> bool:
        """Bring a blob of the store there, unless it is; whether it is there then."""
        with self._lock:
            own = self._of_blob.setdefault(digest, threading.Lock())
        with own:
            if digest in self._there:
                return True
            name = blob_name(digest)
            there = digest not in self._bad and self._guard.sizes([name]).get(name) == size
            sent = there or self._upload(digest, size, name)
            if sent:
                self._there.add(digest)
            return sent

    def _upload(self, digest: Digest, size: int, name: str) -> bool:
        def report(done: int) -> None:
            self._cancel.check()
            self._moving[digest] = min(done, size)

        with self._lock:
            self.total += size
            self._moving[digest] = 0
        try:
            with suppress(DamagedError, FileNotFoundError):  # it was removed meanwhile
                path = self._blobs.local_path(digest)
                return self._guard.tell(
                    lambda storage: _uploaded(storage, name, path, report), False
                )
            return False
        finally:
            with self._lock:
                del self._moving[digest]
                self._finished += size


def _uploaded(
    storage: SharedStorage, name: str, path: Path, report: Callable[[int], object]
) -> bool:
    storage.upload(name, path, report)
    return True
