"""Push: from the store to a registry, blobs first, then the manifests, Ollama's before others."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING

from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError
from mbuild.core.transfers import (
    Direction,
    ManifestPut,
    Phase,
    PhaseStarted,
    TransferEvent,
    Transferred,
)
from mbuild.core.values import NamedTuple
from mbuild.registry.client.referrers import Referrer, announce
from mbuild.registry.client.registry import Registry, push_scope
from mbuild.registry.dialects.files import PlainModel
from mbuild.registry.dialects.table import DIALECTS, Dialect, write
from mbuild.registry.transfer.attached import push_documents
from mbuild.registry.transfer.mounting import mount_sources, remember
from mbuild.registry.transfer.moving import move, registry_of
from mbuild.registry.transfer.upload import Upload
from mbuild.work.cancel import Cancel

if TYPE_CHECKING:
    from mbuild.core.names import ModelName
    from mbuild.registry.client.access import Access
    from mbuild.registry.dialects.values import WrittenManifest
    from mbuild.registry.reference import ModelReference
    from mbuild.store import Layer, Store, StoredManifest
    from mbuild.work.spread import Part

_PUSH = Direction.PUSH


class Wanted(NamedTuple):
    """A form of manifest to push, and its tag; "" for the usual one."""

    dialect: Dialect
    tag: str = ""


AS_OLLAMA = (Wanted(DIALECTS[0]),)


class _Put(NamedTuple):
    """A manifest to be given its name."""

    dialect: Dialect
    reference: ModelReference
    written: WrittenManifest


def push(
    name: ModelName,
    reference: ModelReference,
    store: Store,
    access: Access,
    wanted: Sequence[Wanted] = AS_OLLAMA,
) -> Generator[TransferEvent, None, None]:
    """Bring a stored model to a registry; the events tell how far it is.

    Raises :class:`NameNotFoundError`, :class:`DamagedError` for a model that is not whole, and
    :class:`RegistryError`. Closing the iterator stops the push.
    """
    cancel = Cancel("the push was stopped")
    yield PhaseStarted(_PUSH, Phase.READING_MANIFEST)
    with store.reading():
        stored, data = _whole(name, store)
        puts = _puts(data, stored, reference, store, wanted)
        with registry_of(reference, access, cancel) as registry:
            uploads = list(_uploads(puts, stored, reference, registry, store, cancel))
            yield from move(_PUSH, _send, uploads, uploads, registry)
            remember([upload.digest for upload in uploads], reference, store)
            yield PhaseStarted(_PUSH, Phase.WRITING_MANIFEST)
            _give_names(puts, reference, registry, stored.id)
            yield from push_documents(registry, reference, data, store, cancel)
    for put in puts:
        digest = Digest.of(put.written.data)
        yield ManifestPut(_PUSH, put.dialect.name, str(put.reference), digest)
    first, moved = puts[0], sum(upload.moved for upload in uploads)
    identity = Digest.of(first.written.data)
    yield Transferred(_PUSH, str(first.reference), identity, stored.size, moved)


class Unsent(NamedTuple):
    """What a push would do: the blobs that it needs, those that it would send, and the names."""

    layers: tuple[Layer, ...]
    missing: frozenset[Digest]
    references: tuple[ModelReference, ...]


def would_send(
    name: ModelName,
    reference: ModelReference,
    store: Store,
    access: Access,
    wanted: Sequence[Wanted] = AS_OLLAMA,
) -> Unsent:
    """Ask a registry which blobs of a model it does not have; raises as :func:`push`."""
    cancel = Cancel("the push was stopped")
    with store.reading():
        stored, data = _whole(name, store)
        puts = _puts(data, stored, reference, store, wanted)
        with registry_of(reference, access, cancel) as registry:
            uploads = list(_uploads(puts, stored, reference, registry, store, cancel))
            missing = frozenset(each.digest for each in uploads if not each.is_there())
    layers = tuple(upload.layer for upload in uploads)
    return Unsent(layers, missing, tuple(put.reference for put in puts))


def _send(upload: Upload, part: Part) -> None:
    upload.run(part)


def _whole(name: ModelName, store: Store) -> tuple[StoredManifest, bytes]:
    """A model of which every blob is there, and its manifest's bytes."""
    stored = store.manifests.read(name)
    data = store.manifests.read_bytes(stored.name)
    assert data is not None
    for layer in stored.manifest.blobs():
        if not store.blobs.bring(layer.digest, layer.size):
            raise DamagedError(
                f"blob {layer.digest} of model '{stored.name}' is missing or damaged",
                hint="build or pull that model again",
            )
    return stored, data


def _puts(
    data: bytes,
    stored: StoredManifest,
    reference: ModelReference,
    store: Store,
    wanted: Sequence[Wanted],
) -> list[_Put]:
    """The manifests, in the table's order, so that what others refer to is there first."""
    model = PlainModel(store.blobs, data, str(stored.name))
    ordered = sorted(wanted, key=lambda each: DIALECTS.index(each.dialect))
    return [
        _Put(
            dialect,
            reference._replace(tag=tag or f"{reference.tag}{dialect.suffix}"),
            write(dialect, model),
        )
        for dialect, tag in ordered
    ]


def _uploads(
    puts: Sequence[_Put],
    stored: StoredManifest,
    reference: ModelReference,
    registry: Registry,
    store: Store,
    cancel: Cancel,
) -> Iterator[Upload]:
    """Every blob that some manifest names, once."""
    origins = {layer.digest: layer for layer in stored.manifest.blobs()}
    layers: dict[Digest, Layer] = {}
    contents: dict[Digest, bytes] = {}
    for put in puts:
        layers |= {layer.digest: layer for layer in put.written.layers}
        contents |= put.written.contents
    wanted = [origins.get(digest, layer) for digest, layer in layers.items()]
    sources = mount_sources(wanted, reference, store)
    for digest, layer in layers.items():
        source = sources.get(digest, "")
        yield Upload(registry, store, layer, source, cancel, contents.get(digest))


def _give_names(
    puts: Sequence[_Put], reference: ModelReference, registry: Registry, subject: Digest
) -> None:
    """Write the manifests; those that refer to Ollama's can then be found by its digest."""
    scopes = (push_scope(reference.path),)
    unlisted: list[Referrer] = []
    for put in puts:
        data = put.written.data
        listed = registry.put_manifest(put.reference, data, put.written.media_type, scopes)
        if put.dialect.form is not None and not listed:
            artifact = put.written.artifact_type
            unlisted.append(Referrer(Digest.of(data), len(data), artifact))
    if unlisted:
        announce(registry, reference, subject, unlisted, scopes)
