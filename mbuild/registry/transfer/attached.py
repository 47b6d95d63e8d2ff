"""Documents about a model on their way: pushed behind the model, fetched after it.

A registry need not take them, and a model is none the worse for that: nothing that goes wrong here
ends a push or a pull.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import (
    AbsentError,
    MbuildError,
    RegistryError,
    StoreError,
    UnreachableError,
)
from mbuild.core.transfers import Direction, DocumentsMoved, TransferEvent
from mbuild.registry.client.answers import drained, read_limited
from mbuild.registry.client.referrers import Referrer, announce
from mbuild.registry.client.registry import Received, Registry, pull_scope, push_scope
from mbuild.registry.documents import (
    ARTIFACT_TYPES,
    SUFFIXES,
    DocumentManifest,
    documents_in,
    placed,
    rows_of,
    tag_of,
)
from mbuild.registry.reference import HUB_HOSTS, OLLAMA_HOSTS
from mbuild.registry.transfer.moving import move
from mbuild.registry.transfer.upload import Upload
from mbuild.store.attached import (
    ENVELOPE,
    KINDS,
    MOST,
    PROVENANCE,
    SBOM,
    SIGNATURE,
    AttachedDocument,
    attach,
    documents,
)
from mbuild.store.manifest import MANIFEST_TYPE, MAX_MANIFEST_BYTES, Layer

if TYPE_CHECKING:
    from mbuild.registry.reference import ModelReference
    from mbuild.store import Store
    from mbuild.store.attached import DocumentKind
    from mbuild.work.cancel import Cancel
    from mbuild.work.spread import Part


_SAID: Mapping[DocumentKind, str] = {
    PROVENANCE: "the statement about how it was built",
    SBOM: "the bill of materials",
    ENVELOPE: "the signed statements",
    SIGNATURE: "the signatures",
}
"""What messages call each kind of document."""

_KIND_OF = {artifact: kind for kind, artifact in ARTIFACT_TYPES.items()}

_PAGE = 20
"""Tags that are asked for at once: more than one model's documents have."""


def push_documents(
    registry: Registry, reference: ModelReference, data: bytes, store: Store, cancel: Cancel
) -> Generator[TransferEvent, None, None]:
    """Push what the store has about the model whose manifest's bytes are ``data``.

    What the registry refuses keeps nothing else back.
    """
    subject = Layer(MANIFEST_TYPE, Digest.of(data), len(data))
    pushed = _Pushed()
    try:
        found = list(documents(store, subject.digest))
        if not found or reference.host.lower() in OLLAMA_HOSTS:
            return
        manifests = list(_manifests_of(found, subject, registry, reference, pushed))
        _send_blobs(manifests, registry, store, cancel, pushed)
        _give_names(manifests, registry, reference, subject.digest, pushed)
    except MbuildError as error:
        pushed.problems.append(error.message)
    yield DocumentsMoved(Direction.PUSH, pushed.number, "; ".join(pushed.problems))


class _Pushed:
    """How many documents have arrived, and why others have not.

    ``unsent``: the blobs that were refused.
    """

    def __init__(self) -> None:
        self.number = 0
        self.problems: list[str] = []
        self.unsent: dict[Digest, MbuildError] = {}

    @contextmanager
    def each(self, kind: DocumentKind) -> Iterator[None]:
        """Note why documents of a kind are refused; a registry that is gone ends it all."""
        try:
            yield
        except UnreachableError:
            raise
        except (RegistryError, StoreError) as error:
            self.problems.append(f"{_SAID[kind]}: {error.message}")


def _manifests_of(
    found: Sequence[AttachedDocument],
    subject: Layer,
    registry: Registry,
    reference: ModelReference,
    pushed: _Pushed,
) -> Iterator[DocumentManifest]:
    """The manifests of documents; signatures that others have pushed stay in them."""
    for kind in KINDS:
        if not (own := [each for each in found if each.kind is kind]):
            continue
        with pushed.each(kind):
            tag = tag_of(kind, subject.digest)
            there = {tag: _layers_there(registry, reference, tag)} if tag else {}
            yield from list(placed(own, subject, there))


def _layers_there(registry: Registry, reference: ModelReference, tag: str) -> list[Any]:
    """The signatures that others have pushed: ours are added to them."""
    scopes = (push_scope(reference.path),)
    try:
        return rows_of(registry.manifest(reference._replace(tag=tag, digest=None), scopes).data)
    except AbsentError:
        return []


def _send_blobs(
    manifests: Sequence[DocumentManifest],
    registry: Registry,
    store: Store,
    cancel: Cancel,
    pushed: _Pushed,
) -> None:
    """Send every blob once, noting those that are refused."""
    layers: dict[Digest, Layer] = {}
    contents: dict[Digest, bytes] = {}
    for each in manifests:
        layers |= {layer.digest: layer for layer in each.written.layers}
        contents |= each.written.contents

    def send(upload: Upload, part: Part) -> None:
        try:
            upload.run(part)
        except UnreachableError:
            raise
        except RegistryError as error:
            pushed.unsent[upload.digest] = error

    uploads = [
        Upload(registry, store, layer, "", cancel, contents[digest])
        for digest, layer in layers.items()
    ]
    for _ in move(Direction.PUSH, send, uploads, uploads, registry):
        pass  # of a few kilobytes nobody needs to hear


def _give_names(
    manifests: Sequence[DocumentManifest],
    registry: Registry,
    reference: ModelReference,
    subject: Digest,
    pushed: _Pushed,
) -> None:
    """Write the manifests whose blobs are there, also those behind one that is refused."""
    scopes = (push_scope(reference.path),)
    unlisted: list[Referrer] = []
    for tag, written in manifests:
        with pushed.each(_KIND_OF[written.artifact_type]):
            for layer in written.layers:
                if layer.digest in pushed.unsent:
                    raise pushed.unsent[layer.digest]
            digest = Digest.of(written.data)
            where = reference._replace(tag=tag, digest=None if tag else digest)
            if not registry.put_manifest(where, written.data, written.media_type, scopes):
                unlisted.append(Referrer(digest, len(written.data), written.artifact_type))
            pushed.number += len(written.layers) - 1  # one of them is the config
    if unlisted:
        announce(registry, reference, subject, unlisted, scopes)


# Back.


def fetch_documents(
    registry: Registry, reference: ModelReference, model: Digest, store: Store
) -> Generator[TransferEvent, None, None]:
    """Keep what a registry has about a model: of each kind what is known here, checked."""
    if reference.host.lower() in OLLAMA_HOSTS | HUB_HOSTS:  # which take none
        return
    count = 0
    try:
        for data in _manifests(registry, reference, model):
            for document in documents_in(data, model, registry.small_blob):
                attach(store, model, document.kind, document.data)
                count += 1
    except MbuildError as error:
        yield DocumentsMoved(Direction.PULL, count, error.message)
        return
    if count:
        yield DocumentsMoved(Direction.PULL, count)


def _manifests(registry: Registry, reference: ModelReference, model: Digest) -> Iterator[bytes]:
    """What refers to a model, then what cosign has put under its tags, each once."""
    scopes = (pull_scope(reference.path),)
    known = set(ARTIFACT_TYPES.values())
    rows = _referrers(registry, model, scopes)
    tags = _tags_there(registry, model, scopes)

    def tagged(tag: str) -> Iterator[Received]:
        if tags is None or tag in tags:
            with suppress(AbsentError):
                yield registry.manifest(reference._replace(tag=tag, digest=None), scopes)

    if rows is None:
        rows = [row for found in tagged(model.filename) for row in _rows(found.data, registry)]
    wanted = [row["digest"] for row in rows if str(row.get("artifactType")) in known]
    seen = set[Digest]()
    for text in wanted[: MOST * len(known)]:
        with suppress(DigestError, AbsentError):
            found = registry.manifest(reference._replace(digest=Digest.parse(text)), scopes)
            seen.add(found.digest)
            yield found.data
    for kind in SUFFIXES:
        for found in tagged(tag_of(kind, model)):
            if found.digest not in seen:
                yield found.data


def _referrers(
    registry: Registry, model: Digest, scopes: Sequence[str]
) -> list[dict[str, Any]] | None:
    """What the registry lists as referring to a model; None where it keeps no such lists."""
    answer = registry.ask("GET", registry.url(f"referrers/{model}"), scopes)
    if answer.status != 200:
        drained(answer)
        return None
    return _rows(read_limited(answer, MAX_MANIFEST_BYTES, registry.host), registry)


def _rows(data: bytes, registry: Registry) -> list[dict[str, Any]]:
    """The manifests of an index."""
    try:
        rows = json.loads(data)["manifests"]
        return [row for row in rows if isinstance(row, dict) and "digest" in row]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RegistryError(
            f"what {registry.host} lists about the model is not an index", hint="ask its operator"
        ) from None


def _tags_there(registry: Registry, model: Digest, scopes: Sequence[str]) -> set[str] | None:
    """The tags that begin with the model's digest; None where the list may lack one of them.

    One question in the place of one for each tag that there may be. A list is believed if it
    is whole, or sorted and goes on behind these tags: some registries know neither ``n`` nor
    ``last``, or sort by dates.
    """
    before = model.filename[:-1]
    answer = registry.ask("GET", registry.url(f"tags/list?n={_PAGE}&last={before}"), scopes)
    if answer.status != 200:
        drained(answer)
        return None
    try:
        tags = json.loads(read_limited(answer, MAX_MANIFEST_BYTES, registry.host))["tags"] or []
        in_order = tags == sorted(tags)
        ours = {tag for tag in tags if tag.startswith(model.filename)}
    except (RegistryError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    whole = "link" not in answer.headers and len(tags) != _PAGE
    passed = in_order and bool(tags) and before < tags[0] and tags[-1] > f"{model.filename}~"
    return ours if whole or passed else None
