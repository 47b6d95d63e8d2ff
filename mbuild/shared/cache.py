"""The shared cache of a build: some storages to read, at most one to write, and what is checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from mbuild.core.digest import BLAKE3, SHA256, Digest
from mbuild.shared.envelope import UNSIGNED, Seal
from mbuild.shared.guard import Guard, Warn
from mbuild.shared.leases import LIFE_SECONDS, Leases
from mbuild.shared.naming import blob_name, content_of, record_name
from mbuild.shared.sending import Sender
from mbuild.store.records import PLACE
from mbuild.work.pace import Pace

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from mbuild.shared.leases import Lease
    from mbuild.store.ports import BlobStore
    from mbuild.store.records import RangePlace, RecordKind
    from mbuild.store.shared import Held, SharedStorage

ValueT = TypeVar("ValueT")

_AT_ONCE = 1000  # names that a storage is asked about together
_PROBE = 4 << 20  # bytes that tell how fast a storage is
_LARGEST_PIECE = 1 << 32
_POLL_SECONDS = 0.1
_SMALL = 1 << 20  # bytes that take about as long as any request
_SHORT_SECONDS = 0.05  # what takes no longer to come is not compared with making it


class TeamCache:
    """See :class:`mbuild.store.shared.SharedCache`."""

    def __init__(
        self,
        sources: Sequence[SharedStorage],
        target: SharedStorage | None,
        blobs: BlobStore,
        *,
        seal: Seal = UNSIGNED,
        warn: Warn = lambda text: None,
        life: float = LIFE_SECONDS,
    ) -> None:
        """``target`` is read, too; ``life`` is that of leases, in seconds."""
        self._target = Guard(target, warn) if target is not None else None
        others = [Guard(storage, warn) for storage in sources]
        self._guards = [*([self._target] if self._target else []), *others]
        self._blobs = blobs
        self._seal = seal
        self._warn = warn
        self._known: dict[tuple[str, str], Any] = {}
        self._lying: set[Digest] = set()
        self._pace = Pace()
        self._sender: Sender | None = None
        self._leases: Leases | None = None
        if self._target is not None:
            self._sender = Sender(self._target, blobs, seal)
            self._leases = Leases(self._target, self._sender.after_all, life)

    @property
    def reads(self) -> bool:
        """Whether a storage still answers."""
        return any(guard.reads for guard in self._guards)

    @property
    def writes(self) -> bool:
        """Whether the target still takes something."""
        return self._target is not None and self._target.reads and self._target.writes

    @property
    def exclusive(self) -> bool:
        """Whether the target knows who was first."""
        return self._leases is not None and self._leases.exclusive

    # Records.

    def get_many(
        self, kind: RecordKind[ValueT], keys: Collection[str], *, again: bool = False
    ) -> dict[str, ValueT]:
        """The values recorded under these keys, from the first storage that has each."""
        asked = [
            key
            for key in dict.fromkeys(keys)
            if (kind.table, key) not in self._known
            or (again and self._known[kind.table, key] is None)
        ]
        missing = asked
        for guard in self._guards:
            found: dict[str, ValueT] = {}
            for start in range(0, len(missing), _AT_ONCE):
                found |= self._asked(guard, kind, missing[start : start + _AT_ONCE])
            self._known |= {(kind.table, key): value for key, value in found.items()}
            missing = [key for key in missing if key not in found]
        for key in missing:
            self._known.setdefault((kind.table, key), None)
        values = {key: self._known[kind.table, key] for key in keys}
        return {key: value for key, value in values.items() if value is not None}

    def _asked(
        self, guard: Guard, kind: RecordKind[ValueT], keys: Sequence[str]
    ) -> dict[str, ValueT]:
        names = {record_name(kind, key): key for key in keys}
        values = {}
        for name, data in guard.read_many(list(names)).items():
            if name in names:
                key = names[name]
                value = kind.read(self._seal.open(data, kind.table, key))
                if value is not None:
                    values[key] = value
        return values

    def put(
        self, kind: RecordKind[ValueT], key: str, value: ValueT, blobs: Mapping[Digest, int] = {}
    ) -> None:
        """Send a record after its blobs, unless it is known to be there."""
        if self._sender is not None and self.writes and kind.shared:
            if self._known.get((kind.table, key)) != value:
                self._sender.put(kind, key, value, blobs)
            self._known[kind.table, key] = value

    # Blobs.

    def missing(self, sizes: Mapping[Digest, int]) -> set[Digest]:
        """Of blobs and their sizes those that no storage has."""
        names = {blob_name(digest): digest for digest in sizes if digest not in self._lying}
        gone = set(sizes)
        for guard in self._guards:
            wanted = [name for name, digest in names.items() if digest in gone]
            if wanted:
                gone -= {
                    names[name]
                    for name, size in guard.sizes(wanted).items()
                    if name in names and sizes[names[name]] == size
                }
        return gone

    def fetch(self, digest: Digest, size: int, report: Callable[[int], object]) -> bool:
        """Bring a blob, from the first storage that gives its bytes."""
        self._blobs.check_room(size)
        return digest not in self._lying and any(
            self._fetched(guard, digest, size, report) for guard in self._guards if guard.reads
        )

    def _fetched(
        self, guard: Guard, digest: Digest, size: int, report: Callable[[int], object]
    ) -> bool:
        """Stream a blob into the store. What is not what its name says is left behind."""
        with self._blobs.writer() as writer:

            def take(storage: SharedStorage) -> bool:
                for piece in storage.stream(blob_name(digest), size):
                    if writer.size + len(piece) > size:
                        return False
                    writer.write(piece)
                    report(writer.size)
                return writer.size == size

            started = time.perf_counter()
            whole = guard.ask(take, False)
            if whole and writer.digest == digest:
                self._pace.add(size, time.perf_counter() - started)
                writer.commit()
                return True
            if writer.size:
                self._lying.add(digest)
                if guard is self._target and self._sender is not None:
                    self._sender.distrust(digest)
                self._warn(
                    f"the cache {guard.place} has other bytes for {digest.short}: they are not used"
                )
        return False

    def seconds(self, blobs: Mapping[Digest, int]) -> float:
        """By how fast the first bytes came."""
        if not self._pace.known and blobs:
            digest, size = max(blobs.items(), key=lambda item: item[1])
            self._probe(digest, min(size, _PROBE))
        return self._pace.seconds(sum(blobs.values()))

    def _probe(self, digest: Digest, size: int) -> None:
        for guard in self._guards:
            started = time.perf_counter()
            if guard.read_range(blob_name(digest), 0, size) is not None:
                self._pace.add(size, time.perf_counter() - started)
                return

    # Pieces.

    def places(self, keys: Collection[str], *, again: bool = False) -> dict[str, RangePlace]:
        """Where pieces lie: in blobs, which alone are asked for."""
        found = self.get_many(PLACE, keys, again=again)
        return {key: place for key, place in found.items() if _blob_of(place) is not None}

    def read_piece(self, place: RangePlace) -> bytes | None:
        """A piece's bytes from the first storage that gives the right ones."""
        digest = _blob_of(place)
        if digest is None or place.size > _LARGEST_PIECE:
            return None
        for guard in self._guards:
            started = time.perf_counter()
            data = guard.read_range(blob_name(digest), place.offset, place.size)
            if data is not None and Digest.of(data, BLAKE3) == place.digest:
                self._pace.add(len(data), time.perf_counter() - started)
                return data
        return None

    def piece_pays(self, size: int, seconds: float) -> bool:
        """Compare with how fast others came."""
        return size <= _SMALL or self._pace.seconds(size) <= max(seconds, _SHORT_SECONDS)

    def put_piece(self, key: str, data: Buffer, digest: Digest) -> None:
        """Send a piece of its own."""
        if self._sender is not None and self.writes:
            self._sender.put_piece(key, data, digest)

    def put_places(self, places: Mapping[str, RangePlace]) -> None:
        """Send where pieces lie in blobs of the store."""
        if self._sender is not None and self.writes:
            known = {key: self._known.get((PLACE.table, key)) for key in places}
            new = {key: place for key, place in places.items() if known[key] is None}
            self._sender.put_places(
                {key: place for key, place in new.items() if _store_blob_of(place) is not None}
            )

    # Single flight.

    def take(self, key: str) -> Lease | None:
        """A lease on the target."""
        return self.take_many([key]).get(key)

    def take_many(self, keys: Collection[str]) -> dict[str, Lease]:
        """Leases on the target."""
        assert self._leases is not None, "a cache that is not written has no leases"
        return self._leases.take_many(keys)

    def held(self, key: str) -> Held | None:
        """Who has it."""
        return self._leases.held(key) if self._leases is not None else None

    def take_over(self, key: str, stale: Held) -> Lease | None:
        """A lease in place of a stale one."""
        assert self._leases is not None, "a cache that is not written has no leases"
        return self._leases.take_over(key, stale)

    # The end.

    def drain(self) -> Iterator[tuple[int, int]]:
        """Wait until everything has gone."""
        if self._sender is None:
            return
        self._sender.after_all(lambda: None)
        while self._sender.waiting:
            yield self._sender.done, self._sender.total
            time.sleep(_POLL_SECONDS)
        self._sender.check()
        yield self._sender.done, self._sender.total

    def close(self) -> None:
        """Drop what has not gone, and let everything go."""
        if self._sender is not None:
            self._sender.give_up()
        if self._leases is not None:
            self._leases.close()
        for guard in self._guards:
            guard.storage.close()
        if self._sender is not None:
            self._sender.close()


def _store_blob_of(place: RangePlace) -> Digest | None:
    """The blob of the store that a place is in; None for what lies in no finished blob."""
    digest = _blob_of(place)
    return digest if digest is not None and digest.algorithm == SHA256 else None


def _blob_of(place: RangePlace) -> Digest | None:
    """The object that a place is in: a blob, or a piece under its own BLAKE3."""
    folder, _, name = place.path.partition("/")
    digest = content_of(name) if folder == "blobs" else None
    if digest is None or digest.algorithm == SHA256:
        return digest
    return digest if digest == place.digest and place.offset == 0 else None
