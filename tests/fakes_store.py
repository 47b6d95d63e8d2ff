"""A store in memory: the ports of a build with nothing behind them."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import DamagedError
from mbuild.store.copying import OpenFile
from mbuild.store.manifest import Blob
from mbuild.store.records import PLACE, RangePlace, RecordKind
from mbuild.store.shared import SharedCache
from mbuild.work.limits import Limits

ValueT = TypeVar("ValueT")


class MemoryCache:
    """An action cache that keeps what a remote one would get: texts by table and key.

    ``asked`` counts the look-ups, however many keys each was for.
    """

    def __init__(self) -> None:
        self.texts: dict[tuple[str, str], str] = {}
        self.asked = 0

    def get(self, kind: RecordKind[ValueT], key: str) -> ValueT | None:
        """One value."""
        return self.get_many(kind, [key]).get(key)

    def get_many(self, kind: RecordKind[ValueT], keys: Collection[str]) -> dict[str, ValueT]:
        """The values that are there and can be read."""
        self.asked += 1
        found = {key: kind.read(self.texts.get((kind.table, key))) for key in keys}
        return {key: value for key, value in found.items() if value is not None}

    def put(self, kind: RecordKind[ValueT], key: str, value: ValueT) -> None:
        """Record a value."""
        self.texts[kind.table, key] = kind.encode(value)

    def places(self, keys: Collection[str]) -> dict[str, list[RangePlace]]:
        """Where ranges lie."""
        self.asked += 1
        found: dict[str, list[RangePlace]] = {}
        for (table, name), text in self.texts.items():
            key = name.partition(" ")[0]
            place = PLACE.read(text) if table == PLACE.table and key in keys else None
            if place is not None:
                found.setdefault(key, []).append(place)
        return found

    def add_place(self, key: str, place: RangePlace) -> None:
        """One more place."""
        self.put(PLACE, f"{key} {place.path}", place)

    def drop_place(self, key: str, place: RangePlace) -> None:
        """One place less."""
        self.texts.pop((PLACE.table, f"{key} {place.path}"), None)

    def flush(self) -> None:
        """Nothing waits."""


class MemoryWriter:
    """A blob under construction."""

    def __init__(self, blobs: MemoryBlobs) -> None:
        self._blobs = blobs
        self._data = bytearray()
        self.limits = Limits()

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return len(self._data)

    @property
    def digest(self) -> Digest:
        """The digest of what was written so far."""
        return Digest.of(bytes(self._data))

    def write(self, data: Any) -> None:
        """Append bytes."""
        self._data += memoryview(data).cast("B")

    def save(
        self, then: Callable[[str, int], object], *, durable: bool = True, begun: bool = True
    ) -> None:
        """Memory is never durable."""

    def wait(self) -> None:
        """Nothing waits."""

    def finish(self) -> None:
        """Nothing is held but the bytes."""

    def commit(self) -> Blob:
        """Publish the bytes."""
        return self._blobs.put(bytes(self._data))

    def __enter__(self) -> MemoryWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        """What was not committed is gone."""


class MemoryBlobs:
    """Blobs in a dict; ``far`` are those that :meth:`bring` fetches from somewhere else.

    Files for :meth:`local_path` are made in ``folder`` when they are asked for.
    """

    def __init__(self, folder: Path) -> None:
        self.here: dict[Digest, bytes] = {}
        self.far: dict[Digest, bytes] = {}
        self.kept: set[Digest] = set()
        self.fetched: list[Digest] = []
        self._folder = folder

    def size(self, digest: Digest) -> int | None:
        """Bytes of a blob that is here."""
        return len(self.here[digest]) if digest in self.here else None

    def has(self, digest: Digest, size: int) -> bool:
        """Whether a blob is here."""
        return self.size(digest) == size

    def missing(self, sizes: Mapping[Digest, int]) -> set[Digest]:
        """What is neither here nor far away."""
        everything = {**self.far, **self.here}
        return {d for d, size in sizes.items() if len(everything.get(d, b"")) != size}

    def bring(self, digest: Digest, size: int) -> bool:
        """Fetch a blob, checked by its digest."""
        data = self.far.get(digest, b"")
        if not self.has(digest, size) and Digest.of(data) == digest:
            self.fetched.append(digest)
            self.here[digest] = data
        return self.has(digest, size)

    def keep(self, digest: Digest) -> None:
        """Note it."""
        self.kept.add(digest)

    def read(self, digest: Digest, limit: int) -> bytes:
        """The content of one that is not too long."""
        with self.open(digest) as file:
            data = file.read()
        if len(data) > limit:
            raise DamagedError(f"blob {digest} is longer than {limit} bytes")
        return data

    def open(self, digest: Digest) -> BinaryIO:
        """The content as a stream."""
        if digest not in self.here:
            raise DamagedError(f"blob {digest} cannot be read")
        return io.BytesIO(self.here[digest])

    def local_path(self, digest: Digest) -> Path:
        """The content in a file."""
        path = self._folder / digest.filename
        with self.open(digest) as file:
            path.write_bytes(file.read())
        return path

    def read_at(self, place: RangePlace) -> bytes | None:
        """Some bytes of a blob."""
        data = {f"blobs/{d.filename}": data for d, data in self.here.items()}.get(place.path)
        return None if data is None else data[place.offset : place.offset + place.size]

    def put(self, data: bytes) -> Blob:
        """Store bytes."""
        digest = Digest.of(data)
        existed = digest in self.here
        self.here[digest] = data
        return Blob(digest, len(data), existed)

    def writer(self, partial: str = "") -> MemoryWriter:
        """A new blob."""
        return MemoryWriter(self)

    def scratch(self) -> BinaryIO:
        """In memory, or where the system has room."""
        return tempfile.TemporaryFile(buffering=0)

    def check_room(self, size: int) -> None:
        """There is room."""

    def ingest(self, source: OpenFile, *, link: bool, progress: Callable[[int, int], None]) -> Blob:
        """Read a file."""
        data = os.pread(source.fd, source.size, 0)
        source.check_unchanged()
        progress(source.size, source.size)
        return self.put(data)._replace(blake3=Digest.of(data, BLAKE3))

    def named(self, path: Path, info: os.stat_result) -> Digest | None:
        """No file is a blob."""
        return None


class MemoryFiles:
    """Digests of files, never trusted later."""

    def __init__(self) -> None:
        self._aliases: dict[Digest, Digest] = {}

    def file_digest(self, info: os.stat_result) -> Digest | None:
        """Nothing is remembered."""
        return None

    def content_known(self, size: int, digest: Digest | None = None) -> bool:
        """Nothing was read before."""
        return False

    def remember_file(self, info: os.stat_result, digest: Digest, hashed_ns: int) -> None:
        """Forget it."""

    def remember_linked(
        self, before: os.stat_result, now: os.stat_result, digest: Digest, hashed_ns: int
    ) -> None:
        """Forget it."""

    def remember_content(self, size: int, digest: Digest) -> None:
        """Forget it."""

    def alias(self, digest: Digest) -> Digest | None:
        """The other digest."""
        return self._aliases.get(digest)

    def remember_alias(self, one: Digest, other: Digest) -> None:
        """Both ways."""
        self._aliases |= {one: other, other: one}


class MemoryStore:
    """What steps and the engine use of a store, in memory."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.cache = MemoryCache()
        self.blobs = MemoryBlobs(folder)
        self.files = MemoryFiles()
        self.shared: SharedCache | None = None
