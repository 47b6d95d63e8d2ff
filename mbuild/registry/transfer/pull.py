"""Pull: from a registry into the store, blobs first, the manifest last."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from mbuild import __version__
from mbuild.core.digest import Digest
from mbuild.core.errors import AbsentError, RegistryError, UnreachableError
from mbuild.core.transfers import (
    BlobDone,
    BlobProgress,
    Direction,
    LeftOut,
    Phase,
    PhaseStarted,
    TransferEvent,
    Transferred,
)
from mbuild.core.values import NamedTuple
from mbuild.registry.client.registry import Registry, pull_scope
from mbuild.registry.dialects.received import document
from mbuild.registry.dialects.table import read
from mbuild.registry.dialects.values import LocalManifest
from mbuild.registry.transfer.attached import fetch_documents
from mbuild.registry.transfer.download import Download
from mbuild.registry.transfer.mounting import remember
from mbuild.registry.transfer.moving import move, registry_of
from mbuild.registry.transfer.partial import OtherBytesError, PartialBlob
from mbuild.registry.transfer.passing import PassingBlob
from mbuild.registry.transfer.queueing import RangeQueue
from mbuild.store.manifest import Manifest
from mbuild.store.records import ADOPTED, MANIFEST
from mbuild.work.cancel import Cancel

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.registry.client.access import Access
    from mbuild.registry.dialects.values import Reading
    from mbuild.registry.reference import ModelReference
    from mbuild.store import Store
    from mbuild.store.manifest import Blob
    from mbuild.work.spread import Part

_WAIT_SECONDS = 0.1
_ATTEMPTS = 2  # a blob whose bytes were wrong is fetched once more from its first byte
_PULL = Direction.PULL


def look(registry: Registry, reference: ModelReference) -> Reading:
    """What a registry has under a name; raises :class:`RegistryError` for what is no model."""
    received = registry.manifest(reference, (pull_scope(reference.path),))
    return read(document(received, reference), reference, registry.small_blob)


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
    reference: ModelReference,
    name: ModelName,
    store: Store,
    access: Access,
    pinned: Digest | None = None,
    *,
    work: str = "pull",
) -> Generator[TransferEvent, None, None]:
    """As :func:`pull`, for a caller that holds the store.

    ``pinned``: the id that the model has to have, whatever its tag names by now. ``work`` is
    what the user asked for: ``pull`` or ``build``.
    """
    cancel = Cancel("the pull was stopped")
    with registry_of(reference, access, cancel) as registry:
        yield PhaseStarted(_PULL, Phase.READING_MANIFEST)
        found = _pinned(registry, reference, pinned) if pinned else look(registry, reference)
        sizes, moved = _sizes(found), 0
        made = _adopted(found, store, pinned)
        if made is None:
            moved = yield from bring(sizes, registry, store, cancel, work=work)
            yield PhaseStarted(_PULL, Phase.VERIFYING)
            made = finished(found, store, pinned)
        else:
            for digest, size in sizes.items():
                yield BlobDone(_PULL, digest, size, 0)
        remember(sizes, reference, store)
        yield PhaseStarted(_PULL, Phase.WRITING_MANIFEST)
        target, data = store.manifests.resolve(name), made.data
        replaced = None
        if store.manifests.read_bytes(target) != data:
            replaced = store.replace(target, data)
        size = store.manifests.read(target).size
        if left_out := (*found.left_out, *made.left_out):
            yield LeftOut(_PULL, left_out)
        yield from fetch_documents(registry, reference, Digest.of(data), store)
        yield Transferred(_PULL, str(target), Digest.of(data), size, moved, replaced)


def _pinned(registry: Registry, reference: ModelReference, pinned: Digest) -> Reading:
    """The model of that id; one in another dialect is found only by its tag."""
    try:
        return look(registry, reference._replace(digest=pinned))
    except AbsentError:
        found = look(registry, reference)
        if found.is_ollama:
            raise
        return found


def _adopted(found: Reading, store: Store, pinned: Digest | None) -> LocalManifest | None:
    """The manifest of the model that another tool's files became before, if all of it is here.

    Their archives are not: they were unpacked, and need not come again. So of their names
    nothing is said a second time.
    """
    if found.foreign is None:
        return None
    identity = store.cache.get(ADOPTED, _adopted_key(found.foreign))
    data = None if identity is None else store.cache.get(MANIFEST, identity.hex)
    if data is None or Digest.of(data) != identity or pinned not in (None, identity):
        return None
    blobs = Manifest.decode(data, "the manifest").blobs()
    whole = all(store.blobs.bring(each.digest, each.size) for each in blobs)
    return LocalManifest(data) if whole else None


def _adopted_key(foreign: Digest) -> str:
    return f"{foreign} {__version__}"


def finished(found: Reading, store: Store, pinned: Digest | None = None) -> LocalManifest:
    """The store's manifest; blobs that it does not name are not kept, nor any if there is none."""
    brought = {layer.digest for layer in found.layers}
    try:
        made = found.finish(store)
        data = made.data
        if pinned not in (None, Digest.of(data)):
            raise RegistryError(
                f"the registry has a different model from the one that is locked, {pinned}",
                hint="to take the new one, pull it and update the lock",
            )
    except RegistryError:
        store.discard(brought)
        raise
    named = {layer.digest for layer in Manifest.decode(data, "the manifest").blobs()}
    if not_needed := brought - named:
        store.discard(not_needed)
    if found.foreign is not None:
        store.database.put(MANIFEST, Digest.of(data).hex, data)
        store.cache.put(ADOPTED, _adopted_key(found.foreign), Digest.of(data))
    return made


def _sizes(found: Reading) -> Mapping[Digest, int]:
    """Every blob that a model needs, once, the largest first, with its size."""
    rows = {layer.digest: layer.size for layer in found.layers}
    return dict(sorted(rows.items(), key=lambda row: -row[1]))


class Places(NamedTuple):
    """Where contents are to be had that are no blobs of a registry, by their digests.

    ``found`` is given each one that came, with its BLAKE3. ``watch`` is called often, also
    while nothing comes, and may raise. ``begun`` is given the unfinished files once there is
    room for them: they are read meanwhile, which decides what comes first
    (:class:`~mbuild.registry.transfer.queueing.RangeQueue`). With ``hold``, which waits before
    each range, they only pass: nothing of them is kept.
    """

    urls: Mapping[Digest, str]
    found: Callable[[Blob], object] = lambda blob: None
    watch: Callable[[], object] = lambda: None
    begun: Callable[[Sequence[PartialBlob]], object] | None = None
    hold: Callable[[Part], object] | None = None


_BLOBS = Places({})


def bring(
    sizes: Mapping[Digest, int],
    registry: Registry,
    store: Store,
    cancel: Cancel,
    places: Places = _BLOBS,
    *,
    work: str = "build",
) -> Generator[TransferEvent, None, int]:
    """Bring blobs into the store, as far as they are not there; the bytes that travelled.

    The caller holds the store. A blob that another process is fetching is waited for.
    Raises :class:`StoreError` where the disk has no room for what ``work`` was asked for.
    """
    twice = bool(places.urls)
    kind = PartialBlob if places.hold is None else PassingBlob
    moved = 0
    with ExitStack() as stack:
        wanted: dict[Digest, PartialBlob] = {}
        for digest, size in sorted(sizes.items()):  # all in one order: none waits in a ring
            if not store.blobs.bring(digest, size):
                wanted[digest] = kind(store.blobs, digest, size, twice=twice)
        yield from _claimed(wanted, store, stack, places)
        for digest, size in sizes.items():
            if digest not in wanted:
                yield BlobDone(_PULL, digest, size, 0)
        order = [wanted[digest] for digest in sizes if digest in wanted]
        if places.hold is None:  # else only what is not read yet takes room
            store.blobs.check_room(sum(blob.size - blob.received for blob in order), work)
        for blob in order:
            blob.begin()
        attempts = _ATTEMPTS
        if places.begun is not None:
            for blob in order:
                blob.is_read = True
            places.begun(order)
            attempts = 1  # what was read is used already
        for left in reversed(range(attempts)):
            try:
                came, order = yield from _tried(order, registry, cancel, places, last=not left)
            except UnreachableError as error:
                if places.hold is None and any(blob.received for blob in order):
                    error.hint = "what arrived is kept: the same command goes on from there"
                raise
            moved += came
    return moved


def _tried(
    blobs: Sequence[PartialBlob],
    registry: Registry,
    cancel: Cancel,
    places: Places,
    *,
    last: bool,
) -> Generator[TransferEvent, None, tuple[int, list[PartialBlob]]]:
    """Fetch blobs; the bytes that travelled, and the blobs whose bytes were wrong.

    Those are an error at the ``last`` try, and nothing is kept of them.
    """
    downloads = [
        Download(registry, blob, cancel, places.urls.get(blob.digest, "")) for blob in blobs
    ]
    yield from _fetched(downloads, registry, places)
    wrong = []
    for download in downloads:
        blob = download.partial
        try:
            made = blob.finish()
        except OtherBytesError:
            if last:
                blob.discard()
                raise
            wrong.append(blob)
        else:
            places.found(made)
            yield BlobDone(_PULL, blob.digest, blob.size, download.moved)
    return sum(download.moved for download in downloads), wrong


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
) -> Generator[TransferEvent, None, None]:
    """Fetch the missing ranges of all blobs from one queue, telling how far each is."""
    queue = RangeQueue(downloads, early=places.begun is not None)

    def fetch(number: int, part: Part) -> None:
        if places.hold is not None:
            places.hold(part)
        download, (start, end) = queue.take()
        download.fetch(start, end, part)

    return move(_PULL, fetch, range(len(queue)), downloads, registry, places.watch)
