"""The port of a shared cache: what a build has in common with other machines.

``SharedCache`` is what builds and workers use; ``SharedStorage`` is all that it asks of a
place, one implementation for each kind of URL (``mbuild.shared.storages.STORAGES``).

A shared cache holds three kinds of objects, under these names:

======================== =======================================================================
``record/TABLE/KEY``     a record: what a key came to, with a check of its own, perhaps signed
``blob/sha256-DIGITS``   bytes by their SHA-256: a whole layer, or one piece of a tensor
``blob/blake3-DIGITS``   one piece of a tensor by its BLAKE3, where the storage takes such names
``lease/KEY``            who is making what a key stands for, while that lasts
======================== =======================================================================

**Pieces.** The unit of work on weights is a range of rows of a tensor
(:class:`mbuild.build.steps.ranges.Range`). Its result is found by a key:

* *quantized*: :meth:`mbuild.build.steps.ranges.RangeCache.key`, the digest of the source
  range's BLAKE3, both types, the importances and the kernels' version;
* *converted, and otherwise as it is*: :func:`mbuild.build.steps.ranges.converted_key`, the
  digest of the origin's fields (:meth:`Origin.fields`), the tensor's name, the first byte and the
  size. The same key leads from an origin to a source range's BLAKE3, so that a quantized
  range can be found without reading the source (:data:`mbuild.store.records.SOURCE_RANGE`).

Whoever has made a piece calls ``put_piece(key, data, digest)``; whoever wants it asks
``places(keys)``, many keys at once, and reads each with ``read_piece(place)``, which gives no
bytes but those of the place's digest. A worker needs no more than this: it puts the pieces of
its part, and an ordinary build finds them where it would have made them. The pieces of a layer
that an ordinary build has finished are ranges of the layer, and are not stored a second time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

    from typing_extensions import Buffer

    from mbuild.core.digest import Digest
    from mbuild.store.records import RangePlace, RecordKind

ValueT = TypeVar("ValueT")

LARGEST_SMALL = 16 << 20
"""Bytes of the largest object that is read into memory as a whole."""


class Held(NamedTuple):
    """Somebody's lease: who holds it, in words for people, and what was last read of it.

    ``content`` changes whenever the lease is renewed; ``life`` is in seconds. A lease that has not
    changed for its whole life, by the clock of whoever waits, is held by nobody. That of a process
    of this machine which is gone has no life.
    """

    holder: str
    life: float
    content: bytes


class SharedLease(Protocol):
    """The right, for a while, to be the only one that makes something. It saves work only.

    It is renewed on a thread beside. Whoever has lost it goes on: then the same bytes are
    made twice, never other ones.
    """

    def release(self) -> None:
        """Let it go once everything that was put before has arrived; never raises."""


class SharedCache(Protocol):
    """Records, blobs and pieces of tensors that several machines have in common.

    Safe for many threads. No call raises because of the storage: what cannot be reached has
    nothing and takes nothing, which is said in one warning. What is given is checked: a
    record by its own digest, its key and, if asked for, its signature, bytes by their digest.
    """

    @property
    def reads(self) -> bool:
        """Whether anything can be found in it (``--cache-from``)."""

    @property
    def writes(self) -> bool:
        """Whether what is made here goes there (``--cache-to``)."""

    @property
    def exclusive(self) -> bool:
        """Whether of several who want a lease at once one gets it for sure (tried once)."""

    def get_many(
        self, kind: RecordKind[ValueT], keys: Collection[str], *, again: bool = False
    ) -> dict[str, ValueT]:
        """The values recorded under these keys, asked for together; each key is asked for once.

        ``again``: also what was not there before.
        """

    def put(
        self, kind: RecordKind[ValueT], key: str, value: ValueT, blobs: Mapping[Digest, int] = {}
    ) -> None:
        """Send a record, beside the build, once the blobs of the store that it names are there.

        ``blobs`` are those, with their sizes.
        """

    def missing(self, sizes: Mapping[Digest, int]) -> set[Digest]:
        """Of blobs and their sizes those that are not there."""

    def fetch(self, digest: Digest, size: int, report: Callable[[int], object]) -> bool:
        """Bring a blob into the store, checked; False when it is not there or not what it says.

        ``report`` is told the bytes that have come, and may raise to stop it.
        """

    def seconds(self, blobs: Mapping[Digest, int]) -> float:
        """How long blobs take to come, by what came before.

        The first time some megabytes are fetched to see how fast they come.
        """

    def piece_pays(self, size: int, seconds: float) -> bool:
        """Whether a piece of so many bytes comes sooner than it is made, in so many seconds.

        The first one is fetched, whatever it takes.
        """

    def places(self, keys: Collection[str], *, again: bool = False) -> dict[str, RangePlace]:
        """Where pieces lie there, by their keys, asked for together.

        ``again``: also of those that were not there before.
        """

    def read_piece(self, place: RangePlace) -> bytes | None:
        """A piece's bytes, which have its digest; None when they are gone or others."""

    def put_piece(self, key: str, data: Buffer, digest: Digest) -> None:
        """Send a piece that is in no blob of the store, beside the build; its BLAKE3 is known.

        It waits while too many bytes are on their way. Nobody may change ``data`` afterwards.
        """

    def put_places(self, places: Mapping[str, RangePlace]) -> None:
        """Send word of pieces that are ranges of blobs of the store, after the blobs."""

    def take(self, key: str) -> SharedLease | None:
        """A lease on a key; None while somebody else has it (:meth:`held`).

        Where the storage cannot tell who was first, nearly always only one gets it.
        """

    def take_many(self, keys: Collection[str]) -> Mapping[str, SharedLease]:
        """The same of several keys together; those that somebody else has are left out."""

    def held(self, key: str) -> Held | None:
        """Who has the lease on a key."""

    def take_over(self, key: str, stale: Held) -> SharedLease | None:
        """A lease in place of one that nobody renews; None when somebody else was faster."""

    def drain(self) -> Iterator[tuple[int, int]]:
        """Wait until all that was put has arrived.

        Tells ten times a second how many bytes have gone, and how many there are; the last
        pair is what it took in its time.
        """

    def close(self) -> None:
        """Drop what has not arrived, let leases go."""


class StoredObject(NamedTuple):
    """An object of a storage: its name, bytes, and when it was last written (Unix seconds)."""

    name: str
    size: int
    modified: float


class SharedStorage(Protocol):
    """Named objects in a place, all that a shared cache asks of one. Safe for many threads.

    Names are those of the module's table. Everything raises
    :class:`mbuild.core.errors.UnreachableError` where no answer comes within a bounded time, and
    another :class:`mbuild.core.errors.RegistryError` for a refusal.
    """

    @property
    def place(self) -> str:
        """The URL for messages, without anything secret."""

    @property
    def any_digest(self) -> bool:
        """Whether pieces may be named by their BLAKE3, which is known, and not by a SHA-256."""

    @property
    def can_lease(self) -> bool:
        """Whether :meth:`create` is atomic, as far as is known before it was tried."""

    def read_many(self, names: Collection[str]) -> dict[str, bytes]:
        """Small objects that are there, asked for at once; a larger one counts as absent."""

    def read_range(self, name: str, offset: int, size: int) -> bytes | None:
        """Some bytes of an object, fewer where it ends; None when it is not there."""

    def stream(self, name: str, size: int) -> Iterator[bytes]:
        """An object of so many bytes from its first one on; nothing where it is not there."""

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Bytes of the objects that are there, asked for at once."""

    def write_many(
        self, objects: Mapping[str, Buffer], blobs: Mapping[str, Mapping[Digest, int]] = {}
    ) -> None:
        """Write small objects, each whole or not at all.

        ``blobs`` are those that an object of that name names: a storage may tie them together.
        """

    def create(self, name: str, data: bytes) -> bool:
        """Write a small object if there is none of that name; False when there is."""

    def upload(self, name: str, path: Path, report: Callable[[int], object]) -> None:
        """Write an object from a file; ``report`` is told the bytes that have gone."""

    def remove(self, names: Collection[str]) -> None:
        """Remove objects; those that are not there are no error."""

    def objects(self) -> Iterator[StoredObject]:
        """Everything of this cache that lies there, in no particular order."""

    def close(self) -> None:
        """Let connections go."""
