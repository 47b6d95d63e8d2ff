"""What a build needs of a store, whoever stands behind it: ports, and what holds them.

A port is a Protocol. Here the cache is a SQLite file and the blobs are a folder
(:class:`mbuild.store.database.Database`, :class:`mbuild.store.blobs.Blobs`). What several
machines have in common is a port of its own (:mod:`mbuild.store.shared`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO, Protocol, Self, TypeVar

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from typing_extensions import Buffer

    from mbuild.core.digest import Digest
    from mbuild.store.copying import OpenFile
    from mbuild.store.manifest import Blob
    from mbuild.store.records import RangePlace, RecordKind
    from mbuild.store.shared import SharedCache
    from mbuild.work.limits import Limits

ValueT = TypeVar("ValueT")


class ActionCache(Protocol):
    """Records: what steps came to, and all else that is a pure function of its key.

    A record may vanish at any time, which costs a rebuild. One that is damaged counts as
    missing. Only kinds of record whose row says so are shared with other machines. Safe
    for many threads.
    """

    def get(self, kind: RecordKind[ValueT], key: str) -> ValueT | None:
        """The value recorded under a key, None where there is none."""

    def get_many(self, kind: RecordKind[ValueT], keys: Collection[str]) -> dict[str, ValueT]:
        """The values recorded under these keys; those that are not there are left out."""

    def put(self, kind: RecordKind[ValueT], key: str, value: ValueT) -> None:
        """Record a value; it is found at once, and durable after :meth:`flush`."""

    def places(self, keys: Collection[str]) -> dict[str, list[RangePlace]]:
        """Where the bytes of quantized ranges lie, by the ranges' keys; each may lie at several."""

    def add_place(self, key: str, place: RangePlace) -> None:
        """Record one more place of a range; it is found after :meth:`flush`."""

    def drop_place(self, key: str, place: RangePlace) -> None:
        """Forget a place at which nothing is left."""

    def flush(self) -> None:
        """Write what was recorded; a cache that cannot be written is done without."""


class Writer(Protocol):
    """A blob under construction: write its bytes in order, then commit.

    A context manager: what is not committed leaves nothing behind, but for the saved part
    of a named one when the build was stopped.
    """

    @property
    def size(self) -> int:
        """Bytes written so far."""

    @property
    def digest(self) -> Digest:
        """The SHA-256 of what was written so far."""

    @property
    def limits(self) -> Limits:
        """What held the writing up so far."""

    def write(self, data: Buffer) -> None:
        """Append bytes."""

    def save(
        self, then: Callable[[str, int], object], *, durable: bool = True, begun: bool = True
    ) -> None:
        """Make what was written so far durable, and call ``then``, both on another thread.

        It is given the path for :class:`RangePlace`, and how many bytes are durable there, or
        without ``durable`` outlive this process. Without ``begun`` some of the last bytes may
        not be among them.
        """

    def wait(self) -> None:
        """Wait until everything is durable that was to be saved."""

    def finish(self) -> None:
        """All bytes were given: hold as little as can be until :meth:`commit`, which may be late.

        Raises :class:`StoreError` (disk full, ...).
        """

    def commit(self) -> Blob:
        """Publish the blob under its digest; raises :class:`StoreError` (disk full, ...)."""

    def __enter__(self) -> Self:
        """The writer itself."""

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        """Discard or keep what was not committed."""


class BlobStore(Protocol):
    """Content by its digest.

    Nothing has a digest's name that has not its content. What is not here may be
    brought (:meth:`bring`): from what the cache keeps, or from another machine.
    """

    def size(self, digest: Digest) -> int | None:
        """Bytes of a blob that is here, None for one that is not."""

    def has(self, digest: Digest, size: int) -> bool:
        """Whether a blob is here with that size; its content is not read."""

    def missing(self, sizes: Mapping[Digest, int]) -> set[Digest]:
        """Of blobs and their sizes those that are neither here nor can be brought."""

    def bring(self, digest: Digest, size: int) -> bool:
        """Make sure that a blob is here; False when nobody has it."""

    def keep(self, digest: Digest) -> None:
        """Let a blob that a step made outlive the models that name it."""

    def read(self, digest: Digest, limit: int) -> bytes:
        """A small blob's content; raises :class:`DamagedError` when it is gone or longer."""

    def open(self, digest: Digest) -> BinaryIO:
        """A blob's content as a stream; raises :class:`DamagedError` when it is gone."""

    def local_path(self, digest: Digest) -> Path:
        """A file with a blob's content, for whoever maps it or hands it to another process.

        It is fetched first where it lies elsewhere. Raises :class:`DamagedError` when it
        is gone.
        """

    def read_at(self, place: RangePlace) -> bytes | None:
        """The bytes at a place; None when the file is gone. They are not checked."""

    def put(self, data: bytes) -> Blob:
        """Store bytes that are in memory."""

    def writer(self, partial: str = "") -> Writer:
        """Start a new blob; with ``partial`` its unfinished file outlives a kill."""

    def scratch(self) -> BinaryIO:
        """A new file without a name, unbuffered, for what does not fit into memory."""

    def check_room(self, size: int) -> None:
        """Raise :class:`StoreError` if blobs of so many bytes do not fit."""

    def ingest(self, source: OpenFile, *, link: bool, progress: Callable[[int, int], None]) -> Blob:
        """Bring a user's file in, reading it once."""

    def named(self, path: Path, info: os.stat_result) -> Digest | None:
        """The digest of a file with that ``stat`` that is a blob of this very store, else None."""


class FileDigests(Protocol):
    """Digests of this machine's files, by their ``stat`` and by each other."""

    def file_digest(self, info: os.stat_result) -> Digest | None:
        """The digest of the file with that ``stat``, if it cannot have changed since."""

    def content_known(self, size: int, digest: Digest | None = None) -> bool:
        """Whether a file of that size, or of that very content, was read before."""

    def remember_file(self, info: os.stat_result, digest: Digest, hashed_ns: int) -> None:
        """Record a digest; ``info`` is the file's ``stat`` at ``hashed_ns``."""

    def remember_linked(
        self, before: os.stat_result, now: os.stat_result, digest: Digest, hashed_ns: int
    ) -> None:
        """As :meth:`remember_file`, of a file that this process has hard-linked since."""

    def remember_content(self, size: int, digest: Digest) -> None:
        """Record that such a content was read, whoever has it."""

    def alias(self, digest: Digest) -> Digest | None:
        """The other digest of the content with that one: BLAKE3 for SHA-256, and back."""

    def remember_alias(self, one: Digest, other: Digest) -> None:
        """Record that two digests are of the very same bytes."""


class BuildStore(Protocol):
    """What steps and the engine use of a store."""

    @property
    def cache(self) -> ActionCache:
        """The records."""

    @property
    def blobs(self) -> BlobStore:
        """The blobs."""

    @property
    def files(self) -> FileDigests:
        """The digests of files that have not changed."""

    @property
    def shared(self) -> SharedCache | None:
        """What it has in common with other machines; None where nothing is configured."""
