"""Pull: from a registry into the store, blobs first, the manifest last."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from mbuild.core.digest import Digest
from mbuild.core.errors import RegistryError
from mbuild.core.transfers import (
    BlobDone,
    BlobProgress,
    Direction,
    Phase,
    PhaseStarted,
    TransferEvent,
    Transferred,
)
from mbuild.registry.client.registry import Registry, pull_scope
from mbuild.registry.dialects import ollama
from mbuild.registry.dialects.received import document
from mbuild.registry.transfer.download import Download
from mbuild.registry.transfer.partial import OtherBytesError, PartialBlob
from mbuild.work.cancel import Cancel
from mbuild.work.spread import Part, ticking

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.registry.client.access import Access
    from mbuild.registry.client.registry import Received
    from mbuild.registry.reference import ModelReference
    from mbuild.store import Layer, Manifest, Store
    from mbuild.store.manifest import Blob

CONNECTIONS = 4
"""Ranges that are fetched side by side: enough for most links, few enough for rate limits."""

_WAIT_SECONDS = 0.1
_ATTEMPTS = 2  # a blob whose bytes were wrong is fetched once more from its first byte
_PULL = Direction.PULL


class Remote(NamedTuple):
    """A model that a registry has: its manifest, and the bytes that the store keeps of it."""

    data: bytes
    manifest: Manifest

    @property
    def id(self) -> Digest:
        """The model's id."""
        return Digest.of(self.data)

    @property
    def sizes(self) -> Mapping[Digest, int]:
        """Every blob that it needs, once, the largest first, with its size."""
        rows = {layer.digest: layer.size for layer in self.manifest.blobs()}
        return dict(sorted(rows.items(), key=lambda row: -row[1]))


def look(registry: Registry, reference: ModelReference) -> Remote:
    """What a registry has under a name; raises :class:`RegistryError` for what is no model."""
    received: Received = registry.manifest(reference, (pull_scope(reference.path),))
    found = document(received, reference)
    if ollama.fits(found):
        return Remote(received.data, ollama.manifest(found, reference))
    raise RegistryError(
        f"{reference} is not a model: its layers are {_types(found.layers)}",
        hint="only what Ollama or mbuild pushed can be pulled",
    )


def _types(layers: Sequence[Layer]) -> str:
    names = list(dict.fromkeys(layer.media_type[:100] for layer in layers))
    return ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")


def pull(
    reference: ModelReference, name: ModelName, store: Store, access: Access
) -> Generator[TransferEvent, None, None]:
    """Bring a model into the store under ``name``; the events tell how far it is.

    Raises :class:`RegistryError`, and :class:`StoreError` where the disk has no room. Closing
    the iterator stops the pull; what has arrived is kept for the next one.
    """
    with store.using():
        yield from bring_model(reference, name, store, access)


def bring_model(
    reference: ModelReference, name: ModelName, store: Store, access: Access
) -> Generator[TransferEvent, None, None]:
    """As :func:`pull`, for a caller that holds the store."""
    cancel = Cancel("the pull was stopped")
    registry = Registry(reference, access, cancel)
    try:
        yield PhaseStarted(_PULL, Phase.READING_MANIFEST)
        remote = look(registry, reference)
        moved = yield from bring(remote.sizes, registry, store, cancel)
        yield PhaseStarted(_PULL, Phase.VERIFYING)
        yield PhaseStarted(_PULL, Phase.WRITING_MANIFEST)
        target = store.manifests.resolve(name)
        replaced = None
        if store.manifests.read_bytes(target) != remote.data:
            replaced = store.replace(target, remote.data)
        size = sum(layer.size for layer in remote.manifest.blobs())
        yield Transferred(_PULL, str(target), remote.id, size, moved, replaced)
    finally:
        registry.web.close()


class Places(NamedTuple):
    """Where contents are to be had that are no blobs of a registry, by their digests.

    ``found`` is given each one that came, with its BLAKE3. ``watch`` is called often, also
    while nothing comes, and may raise.
    """

    urls: Mapping[Digest, str]
    found: Callable[[Blob], object] = lambda blob: None
    watch: Callable[[], object] = lambda: None


_BLOBS = Places({})


def bring(
    sizes: Mapping[Digest, int],
    registry: Registry,
    store: Store,
    cancel: Cancel,
    places: Places = _BLOBS,
) -> Generator[TransferEvent, None, int]:
    """Bring blobs into the store, as far as they are not there; the bytes that travelled.

    The caller holds the store. A blob that another process is fetching is waited for.
    """
    twice = bool(places.urls)
    moved = 0
    with ExitStack() as stack:
        wanted: dict[Digest, PartialBlob] = {}
        for digest, size in sorted(sizes.items()):  # all in one order: none waits in a ring
            if not store.blobs.bring(digest, size):
                wanted[digest] = PartialBlob(store.blobs, digest, size, twice=twice)
        yield from _claimed(wanted, store, stack, places)
        for digest, size in sizes.items():
            if digest not in wanted:
                yield BlobDone(_PULL, digest, size, 0)
        order = [wanted[digest] for digest in sizes if digest in wanted]
        store.blobs.check_room(sum(blob.size - blob.received for blob in order))
        for blob in order:
            blob.begin()
        for attempt in range(_ATTEMPTS):
            urls = [places.urls.get(blob.digest, "") for blob in order]
            downloads = [
                Download(registry, blob, cancel, url) for blob, url in zip(order, urls, strict=True)
            ]
            yield from _fetched(downloads, registry, places)
            moved += sum(download.moved for download in downloads)
            order = []
            for download in downloads:
                blob = download.partial
                try:
                    made = blob.finish()
                except OtherBytesError:
                    if attempt + 1 == _ATTEMPTS:
                        blob.discard()
                        raise
                    order.append(blob)
                else:
                    places.found(made)
                    yield BlobDone(_PULL, blob.digest, blob.size, download.moved)
    return moved


def _claimed(
    wanted: dict[Digest, PartialBlob], store: Store, stack: ExitStack, places: Places
) -> Iterator[TransferEvent]:
    """Take each blob's partial file; what turns out to be there is taken out of ``wanted``."""
    for digest, blob in list(wanted.items()):
        while not blob.claim():
            places.watch()
            yield BlobProgress(_PULL, digest, 0, blob.size)
            time.sleep(_WAIT_SECONDS)
        if store.blobs.has(digest, blob.size):  # whoever had the file has finished
            blob.discard()
            del wanted[digest]
        else:
            stack.callback(blob.leave)


def _fetched(
    downloads: Sequence[Download], registry: Registry, places: Places
) -> Iterator[TransferEvent]:
    """Fetch the missing ranges of all blobs from one queue, telling how far each is."""
    work = [(download, span) for download in downloads for span in download.ranges()]

    def fetch(item: tuple[Download, tuple[int, int]], part: Part) -> None:
        download, (start, end) = item
        download.fetch(start, end, part)

    told: dict[Digest, int] = {}

    def news() -> Iterator[TransferEvent]:
        for download in downloads:
            blob = download.partial
            if told.get(blob.digest) != (now := blob.received):
                told[blob.digest] = now
                yield BlobProgress(_PULL, blob.digest, now, blob.size)

    ticks = ticking(
        fetch, work, name="mbuild-pull", threads=CONNECTIONS, stop=registry.web.interrupt
    )
    try:
        for _ in ticks:
            places.watch()
            yield from news()
        yield from news()
    finally:
        ticks.close()
