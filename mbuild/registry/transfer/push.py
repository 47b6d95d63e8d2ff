"""Push: from the store to a registry, blobs first, the manifest last."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, NamedTuple

from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError
from mbuild.core.transfers import (
    BlobDone,
    BlobProgress,
    Direction,
    Phase,
    PhaseStarted,
    TransferEvent,
    Transferred,
)
from mbuild.registry.client.registry import Registry, push_scope
from mbuild.registry.dialects import ollama
from mbuild.registry.transfer.upload import Upload, mount_source
from mbuild.work.cancel import Cancel
from mbuild.work.spread import Part, ticking

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.registry.client.access import Access
    from mbuild.registry.reference import ModelReference
    from mbuild.store import Layer, Manifest, Store

CONNECTIONS = 4
"""Blobs that are sent side by side."""

_PUSH = Direction.PUSH


def push(
    name: ModelName, reference: ModelReference, store: Store, access: Access
) -> Generator[TransferEvent, None, None]:
    """Bring a model of the store to a registry; the events tell how far it is.

    Raises :class:`NameNotFoundError`, :class:`DamagedError` for a model that is not whole, and
    :class:`RegistryError`. Closing the iterator stops the push.
    """
    cancel = Cancel("the push was stopped")
    yield PhaseStarted(_PUSH, Phase.READING_MANIFEST)
    with store.reading():
        stored = store.manifests.read(name)
        data = store.manifests.read_bytes(stored.name)
        assert data is not None
        for layer in stored.manifest.blobs():
            if not store.blobs.bring(layer.digest, layer.size):
                raise DamagedError(
                    f"blob {layer.digest} of model '{stored.name}' is missing or damaged",
                    hint="build or pull that model again",
                )
        registry = Registry(reference, access, cancel)
        try:
            moved = yield from _blobs(stored.manifest, reference, registry, store, cancel)
            yield PhaseStarted(_PUSH, Phase.WRITING_MANIFEST)
            scopes = (push_scope(reference.path),)
            registry.put_manifest(reference, data, ollama.MEDIA_TYPE, scopes)
        finally:
            registry.web.close()
    yield Transferred(_PUSH, str(reference), Digest.of(data), stored.size, moved)


class Unsent(NamedTuple):
    """What a push would do: all blobs of the model, once each, and those that would be sent."""

    reference: ModelReference
    layers: tuple[Layer, ...]
    missing: frozenset[Digest]


def would_send(name: ModelName, reference: ModelReference, store: Store, access: Access) -> Unsent:
    """Ask a registry which blobs of a model it does not have; raises as :func:`push`."""
    cancel = Cancel("the push was stopped")
    manifest = store.manifests.read(name).manifest
    layers = {layer.digest: layer for layer in (*manifest.layers, manifest.config)}
    registry = Registry(reference, access, cancel)
    try:
        missing = {
            digest
            for digest, layer in layers.items()
            if not Upload(registry, store, layer, "", cancel).is_there()
        }
    finally:
        registry.web.close()
    return Unsent(reference, tuple(layers.values()), frozenset(missing))


def _blobs(
    manifest: Manifest, reference: ModelReference, registry: Registry, store: Store, cancel: Cancel
) -> Generator[TransferEvent, None, int]:
    """Send what the registry does not have, telling how far each blob is; the bytes sent."""
    layers = {layer.digest: layer for layer in (*manifest.layers, manifest.config)}
    uploads = [
        Upload(registry, store, layer, mount_source(layer, reference), cancel)
        for layer in layers.values()
    ]
    finished: set[Digest] = set()
    told: dict[Digest, int] = {}

    def send(upload: Upload, part: Part) -> None:
        upload.run(part)
        finished.add(upload.layer.digest)

    def news() -> Iterator[TransferEvent]:
        for upload in uploads:
            digest, size = upload.layer.digest, upload.layer.size
            if digest in finished and told.get(digest) != -1:
                told[digest] = -1
                yield BlobDone(_PUSH, digest, size, upload.moved)
            elif digest not in finished and upload.done and told.get(digest) != upload.done:
                told[digest] = upload.done
                yield BlobProgress(_PUSH, digest, upload.done, size)

    ticks = ticking(
        send, uploads, name="mbuild-push", threads=CONNECTIONS, stop=registry.web.interrupt
    )
    try:
        for _ in ticks:
            yield from news()
        yield from news()
    finally:
        ticks.close()
    return sum(upload.moved for upload in uploads)
