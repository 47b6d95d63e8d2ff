"""Several jobs that quantize one source at the same time: each range is made by one of them.

A lease for a whole step does not help where they want different types that have most tensors in
common. A job that is alone makes its ranges without asking, and sends nothing but the
finished layer. When another one comes both ask before each range, send it as soon as it is
made, and wait for what the other one makes. What the first had made until then it sends at once.

Four leases tell them of each other: ``room`` is held by the first job of a source, ``guest`` by
another one that has come, ``joined`` by the first once it has seen that, ``ready`` once it has sent
what it had. As everywhere a lease that is lost costs work and no wrong byte.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from mbuild.core.digest import canonical_json
from mbuild.shared.lease_wait import LeaseWait
from mbuild.work.beside import Beside

if TYPE_CHECKING:
    from mbuild.build.steps.outputs import VariantFile
    from mbuild.build.steps.ranges import MadeRange, RangeCache
    from mbuild.store.ports import BlobStore
    from mbuild.store.records import RangePlace
    from mbuild.store.shared import SharedCache, SharedLease
    from mbuild.work.cancel import Cancel

    Make = Callable[[], MadeRange]

_LOOK_SECONDS = 0.5  # between two looks whether another job has come
_FIRST_WAIT, _LONGEST_WAIT = 0.05, 1.0  # between two looks for a range that another job makes
_NOTICE_SECONDS = 5.0  # what the first job may take to see that another one has come
_READY_SECONDS = 60.0  # and to send what it has made; on a slow line it is made again instead


def made_once(
    shared: SharedCache, cache: RangeCache, key: str, size: int, check: Callable[[], object]
) -> Callable[[Make], MadeRange]:
    """Makes a range of so many bytes unless another job does, whose range it waits for.

    What is made is sent at once. ``check`` is called while it waits, and ends that by raising.
    """

    def run(make: Make) -> MadeRange:
        waiting, pause = LeaseWait(shared, key), _FIRST_WAIT
        while True:
            lease = waiting.attempt()
            try:
                found = cache.find_sent(key, size)
                if found is not None:
                    return found
                if lease is not None or not shared.writes:
                    made = make()
                    assert made.digest is not None
                    shared.put_piece(key, made.data, made.digest)
                    return made
            finally:
                if lease is not None:
                    lease.release()
            check()
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST_WAIT)

    return run


class Flight(Protocol):
    """Whoever knows of other jobs."""

    def make(self, key: str, size: int, check: Callable[[], object], make: Make) -> MadeRange:
        """Make a range of so many bytes, or have it from another job."""


class TogetherAlways:
    """Parts of a build, which send at once what they make in any case."""

    def __init__(self, shared: SharedCache, cache: RangeCache) -> None:
        self._shared = shared
        self._cache = cache

    def make(self, key: str, size: int, check: Callable[[], object], make: Make) -> MadeRange:
        """See :class:`Flight`."""
        return made_once(self._shared, self._cache, key, size, check)(make)


class PieceFlight:
    """One job among those of a source, while it makes ranges; for many threads."""

    def __init__(
        self, shared: SharedCache, cache: RangeCache, blobs: BlobStore, source: str
    ) -> None:
        self._shared = shared
        self._cache = cache
        self._blobs = blobs
        self._names = {
            what: hashlib.sha256(f"{what} {source}".encode()).hexdigest()
            for what in ("room", "guest", "joined", "ready")
        }
        self._lock = threading.Lock()
        self._together = False
        self._unwritten: set[str] = set()  # ranges that were begun without asking
        self._leases: dict[str, SharedLease] = {}  # on those of them that others may want
        self._held: list[SharedLease] = []
        self.files: Sequence[VariantFile] = ()
        """Where what was made is written."""

    # What is asked by those who make and write ranges.

    def make(self, key: str, size: int, check: Callable[[], object], make: Make) -> MadeRange:
        """See :class:`Flight`."""
        with self._lock:
            if not self._together:
                self._unwritten.add(key)
        if key in self._unwritten:
            return make()
        return made_once(self._shared, self._cache, key, size, check)(make)

    def written(self, made: MadeRange) -> None:
        """A range is about to be written; others get it now if it was begun before they came."""
        with self._lock:
            if made.key not in self._unwritten:
                return
            self._unwritten.discard(made.key)
            lease = self._leases.pop(made.key, None)
            together = self._together
        if together and made.digest is not None:
            self._shared.put_piece(made.key, made.data, made.digest)
        if lease is not None:
            lease.release()

    # Who is there.

    @contextmanager
    def present(self, check: Callable[[], object]) -> Iterator[PieceFlight]:
        """While it makes ranges; ``check`` raises when the build was stopped."""
        own = LeaseWait(self._shared, self._names["room"]).attempt()
        try:
            if own is None:
                self._together = True
                self._hold(self._shared.take(self._names["guest"]))
                self._wait_until_ready(check)
            else:
                self._hold(own)
            with Beside(self._watch, "mbuild-others"):
                yield self
        finally:
            for lease in (*self._leases.values(), *self._held):
                lease.release()

    def _hold(self, lease: SharedLease | None) -> None:
        if lease is not None:
            self._held.append(lease)

    def _wait_until_ready(self, check: Callable[[], object]) -> None:
        """Give the first job a moment to notice, and to send what it has."""
        start, noticed = time.monotonic(), False
        room = LeaseWait(self._shared, self._names["room"])
        while room.is_held():
            if self._shared.held(self._names["ready"]) is not None:
                return
            noticed = noticed or self._shared.held(self._names["joined"]) is not None
            limit = _READY_SECONDS if noticed else _NOTICE_SECONDS
            if time.monotonic() - start > limit:
                return
            check()
            time.sleep(_FIRST_WAIT)

    def _watch(self, cancel: Cancel) -> None:
        """See another job come; or take the place of the first one when that has ended."""
        guest = LeaseWait(self._shared, self._names["guest"])
        room = LeaseWait(self._shared, self._names["room"])
        while not cancel.cancelled and self._shared.writes:
            if self._together:
                lease = room.attempt()
                if lease is not None:
                    self._hold(lease)
                    return
            elif guest.is_held():
                self._join(cancel)
                return
            for _ in range(10):
                if not cancel.cancelled:
                    time.sleep(_LOOK_SECONDS / 10)

    def _join(self, cancel: Cancel) -> None:
        """From now on ask before each range; send what there is."""
        self._hold(self._shared.take(self._names["joined"]))
        with self._lock:
            self._together = True
            self._leases = dict(self._shared.take_many(self._unwritten))
        written: list[tuple[str, RangePlace]] = []
        handed: list[VariantFile] = []

        def hand(file: VariantFile, places: Sequence[tuple[str, RangePlace]]) -> None:
            written.extend(places)
            handed.append(file)

        for file in self.files:
            file.hand_out(hand)
        while not cancel.cancelled and not all(file.ended or file in handed for file in self.files):
            time.sleep(_FIRST_WAIT)
        for key, place in written:
            data = self._blobs.read_at(place)
            if data is not None and not cancel.cancelled:
                self._shared.put_piece(key, data, place.digest)
        for _ in self._shared.drain():
            if cancel.cancelled:
                return
        self._hold(self._shared.take(self._names["ready"]))


def flight_of(cache: RangeCache, blobs: BlobStore) -> PieceFlight | None:
    """The flight of a job over a source; None where no other job can be told of it.

    That is without a shared cache that is written and knows who was first, and while the
    source's digests are not known.
    """
    shared, origin = cache.shared, cache.origin
    if shared is None or origin is None or not shared.writes or not shared.exclusive:
        return None
    return PieceFlight(shared, cache, blobs, canonical_json(origin))
