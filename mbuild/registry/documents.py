"""Documents about a model as a registry keeps them: artifacts that refer to its manifest.

A statement or a bill of materials is an artifact of OCI 1.1 whose one layer it is. Signatures lie
where cosign puts them: all of a model's in one image manifest, under the tag ``sha256-<id>.sig``
for signed ids and ``.att`` for signed statements (cosign's specs/SIGNATURE_SPEC.md and
ATTESTATION_SPEC.md). These name the model as their subject, too, so that a list of
referrers has them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import Digest, DigestError
from mbuild.core.values import NamedTuple
from mbuild.registry.client.registry import OCI_MANIFEST
from mbuild.registry.dialects.values import WrittenManifest
from mbuild.registry.dialects.writing import as_json
from mbuild.store.attached import (
    ENVELOPE,
    KINDS,
    MAX_BYTES,
    PROVENANCE,
    SBOM,
    SIGNATURE,
    AttachedDocument,
    contained,
    is_about,
    parsed,
)
from mbuild.store.manifest import Layer

if TYPE_CHECKING:
    from mbuild.store.attached import DocumentKind

EMPTY_CONFIG = Layer("application/vnd.oci.empty.v1+json", Digest.of(b"{}"), 2)
"""The config of an artifact that has none (OCI's image specification 1.1)."""

IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
SIGNATURE_KEY = "dev.cosignproject.cosign/signature"
PREDICATE_KEY = "in-toto.io/predicate-type"

ARTIFACT_TYPES: Mapping[DocumentKind, str] = {
    PROVENANCE: PROVENANCE.media_type,
    SBOM: SBOM.media_type,
    SIGNATURE: "application/vnd.dev.cosign.artifact.sig.v1+json",
    ENVELOPE: "application/vnd.dev.cosign.artifact.att.v1+json",
}
"""What a list of referrers says of each kind; cosign's own where it has some."""

SUFFIXES: Mapping[DocumentKind, str] = {SIGNATURE: ".sig", ENVELOPE: ".att"}
"""What follows the digest in the tags that cosign looks under."""

MOST_LAYERS = 64
"""Signatures of one model that are looked at."""

Fetch = Callable[[Layer, int], bytes]
"""Gets a small blob: at most so many bytes, checked by digest and size."""


class DocumentManifest(NamedTuple):
    """A manifest of documents, and the tag that it has, if it has one."""

    tag: str
    written: WrittenManifest

    @property
    def digest(self) -> Digest:
        """The manifest's digest."""
        return Digest.of(self.written.data)


def tag_of(kind: DocumentKind, model: Digest) -> str:
    """The tag under which cosign looks for a kind of signature, "" for what has no tag."""
    return f"{model.filename}{SUFFIXES[kind]}" if kind in SUFFIXES else ""


def placed(
    documents: Sequence[AttachedDocument], subject: Layer, there: Mapping[str, Sequence[Any]] = {}
) -> Iterator[DocumentManifest]:
    """The manifests of all documents about the model whose manifest is ``subject``.

    ``there``: the layers that the manifest of a tag has already, which it keeps.
    """
    for document in documents:
        if document.kind not in SUFFIXES:
            yield DocumentManifest("", _artifact(document, subject))
    for kind in SUFFIXES:
        own = [document for document in documents if document.kind is kind]
        if own:
            tag = tag_of(kind, subject.digest)
            yield DocumentManifest(tag, _signatures(kind, own, subject, there.get(tag, ())))


def _artifact(document: AttachedDocument, subject: Layer) -> WrittenManifest:
    """A statement or a bill of materials."""
    layer = Layer(document.kind.media_type, document.digest, len(document.data))
    row = layer.to_json()
    if document.kind is PROVENANCE:
        row["annotations"] = {PREDICATE_KEY: str(parsed(document.data).get("predicateType", ""))}
    contents = {layer.digest: document.data, EMPTY_CONFIG.digest: b"{}"}
    return _manifest(document.kind, EMPTY_CONFIG, [row], subject, (layer,), contents)


def _signatures(
    kind: DocumentKind, documents: Sequence[AttachedDocument], subject: Layer, there: Sequence[Any]
) -> WrittenManifest:
    """All signatures of one kind, as layers of one image, behind those that are there."""
    rows, layers, contents = list(there), [], {}
    for document in documents:
        data, annotations = _layer_of(document)
        layer = Layer(kind.media_type, Digest.of(data), len(data))
        row = {**layer.to_json(), "annotations": annotations}
        if row not in rows:
            rows.append(row)
        layers.append(layer)
        contents[layer.digest] = data
    # What cosign reads has a config of an image, whose layers are not compressed.
    root = {"type": "layers", "diff_ids": [row["digest"] for row in rows]}
    config = as_json({"architecture": "", "os": "", "config": {}, "rootfs": root})
    config_layer = Layer(IMAGE_CONFIG, Digest.of(config), len(config))
    contents[config_layer.digest] = config
    return _manifest(kind, config_layer, rows, subject, layers, contents)


def _layer_of(document: AttachedDocument) -> tuple[bytes, dict[str, str]]:
    """The bytes of a signature's layer, and its annotations."""
    value = parsed(document.data)
    if document.kind is SIGNATURE:
        return contained(value, "payload"), {SIGNATURE_KEY: str(value["signature"])}
    predicate = parsed(contained(value, "payload")).get("predicateType", "")
    return document.data, {SIGNATURE_KEY: "", "predicateType": str(predicate)}


def _manifest(
    kind: DocumentKind,
    config: Layer,
    rows: Sequence[Mapping[str, Any]],
    subject: Layer,
    layers: Sequence[Layer],
    contents: dict[Digest, bytes],
) -> WrittenManifest:
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": ARTIFACT_TYPES[kind],
        "config": config.to_json(),
        "layers": list(rows),
        "subject": subject.to_json(),
    }
    artifact = ARTIFACT_TYPES[kind]
    return WrittenManifest(as_json(value), OCI_MANIFEST, artifact, (*layers, config), contents)


# Back.


def rows_of(data: bytes) -> list[Any]:
    """The layers of a manifest as they stand there; none of what is no manifest."""
    with suppress(ValueError, RecursionError):
        value = json.loads(data)
        rows = value.get("layers") if isinstance(value, dict) else None
        if isinstance(rows, list):
            return rows[:MOST_LAYERS]
    return []


def documents_in(data: bytes, model: Digest, fetch: Fetch) -> Iterator[AttachedDocument]:
    """The documents about a model that a manifest holds; what is anything else is passed over.

    Raises what ``fetch`` raises.
    """
    for row in rows_of(data):
        try:
            layer = Layer.from_json(row)
        except (ValueError, DigestError):
            continue
        kind = next((each for each in KINDS if each.media_type == layer.media_type), None)
        if kind is None or layer.size > MAX_BYTES:
            continue
        content = fetch(layer, MAX_BYTES)
        if kind is SIGNATURE:
            notes = row.get("annotations")
            signature = notes.get(SIGNATURE_KEY) if isinstance(notes, dict) else None
            content = signature_document(content, str(signature))
        if is_about(kind, content, model):
            yield AttachedDocument(kind, Digest.of(content), content)


def signature_document(payload: bytes, signature: str) -> bytes:
    """A signed id as one document; ``signature`` is in base64."""
    return as_json({"payload": base64.b64encode(payload).decode(), "signature": signature})
