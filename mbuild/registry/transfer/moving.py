"""Blobs on their way, in either direction: what runs side by side, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

from mbuild.core.transfers import BlobDone, BlobProgress, Direction, TransferEvent
from mbuild.registry.client.access import Nearness
from mbuild.registry.client.registry import Registry
from mbuild.work.cancel import Cancel
from mbuild.work.cores import cores
from mbuild.work.spread import Part, ticking

if TYPE_CHECKING:
    from mbuild.core.digest import Digest
    from mbuild.registry.client.access import Access
    from mbuild.registry.reference import ModelReference

CONNECTIONS = 4
"""Requests that run side by side: enough for most links, few enough for rate limits."""

NEAR_CONNECTIONS = 2
"""The same within this machine, where more are no faster: a kill loses what each has under way."""

_FEW_CORES = 2
"""Of so many a registry on this machine takes its part: one connection keeps the rest busy."""

ItemT = TypeVar("ItemT")


class MovingBlob(Protocol):
    """A blob on its way: its bytes in all, those that are where they go, those that travelled.

    ``ended``: nothing more happens to it.
    """

    moved: int
    ended: bool

    @property
    def digest(self) -> Digest:
        """What it is called."""

    @property
    def size(self) -> int:
        """Its bytes."""

    @property
    def done(self) -> int:
        """Bytes that are where they are to go."""


def connections(direction: Direction, near: Nearness) -> int:
    """How many requests run side by side."""
    if near is not Nearness.LOOPBACK:
        return CONNECTIONS
    return 1 if direction is Direction.PULL and cores() <= _FEW_CORES else NEAR_CONNECTIONS


@contextmanager
def registry_of(reference: ModelReference, access: Access, cancel: Cancel) -> Iterator[Registry]:
    """A registry for one transfer; its connections are closed in the end."""
    registry = Registry(reference, access, cancel)
    try:
        yield registry
    finally:
        registry.web.close()


def move(
    direction: Direction,
    work: Callable[[ItemT, Part], None],
    items: Sequence[ItemT],
    blobs: Sequence[MovingBlob],
    registry: Registry,
    watch: Callable[[], object] = lambda: None,
) -> Generator[TransferEvent, None, None]:
    """Do the work for every item on some connections, telling how far each blob is.

    ``watch`` is called ten times a second, also while nothing comes. What one raises ends the
    work for all; so does closing the iterator.
    """
    # Of a blob to push nobody knows whether it has to travel, until it does.
    told = dict.fromkeys((blob.digest for blob in blobs), 0 if direction is Direction.PUSH else -1)
    ended: set[Digest] = set()

    def news() -> Iterator[TransferEvent]:
        for blob in blobs:
            if blob.ended and blob.digest not in ended:
                ended.add(blob.digest)
                yield BlobDone(direction, blob.digest, blob.size, blob.moved)
            elif not blob.ended and told[blob.digest] != (now := blob.done):
                told[blob.digest] = now
                yield BlobProgress(direction, blob.digest, now, blob.size)

    name, stop = f"mbuild-{direction}", registry.web.interrupt
    threads = connections(direction, registry.near)
    ticks = ticking(work, items, name=name, threads=threads, stop=stop)
    try:
        for _ in ticks:
            watch()
            yield from news()
        yield from news()
    finally:
        ticks.close()
