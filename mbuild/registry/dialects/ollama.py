"""Ollama's manifests: Docker's type, Ollama's layers. In the registry as in the store, byte for
byte, so that a model keeps its id."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.core.errors import RegistryError
from mbuild.registry.dialects.files import PlainModel
from mbuild.registry.dialects.values import LocalManifest, Reading, WrittenManifest
from mbuild.store.manifest import CONFIG_TYPE, MANIFEST_TYPE, Manifest
from mbuild.store.media import PREFIX

if TYPE_CHECKING:
    from mbuild.registry.dialects.received import Document
    from mbuild.registry.reference import ModelReference


def fits(document: Document) -> bool:
    """Whether a manifest is Ollama's: some layer is of one of its types."""
    return any(layer.media_type.startswith(PREFIX) for layer in document.layers)


def manifest(document: Document, reference: ModelReference | str) -> Manifest:
    """The model; raises :class:`RegistryError` for a layer that is none of Ollama's."""
    if document.config.media_type != CONFIG_TYPE:
        raise RegistryError(
            f"{reference}: the config of the model is of an unknown type,"
            f" {document.config.media_type[:100]!r}"
        )
    for layer in document.layers:
        if not layer.media_type.startswith(PREFIX):
            raise RegistryError(
                f"{reference}: layer {layer.digest.short} is of an unknown type,"
                f" {layer.media_type[:100]!r}"
            )
    return Manifest(document.config, document.layers)


def read(document: Document, reference: ModelReference | str) -> Reading:
    """The blobs that the model needs; its manifest stays as it came."""
    layers = manifest(document, reference).blobs()
    return Reading(layers, lambda store: LocalManifest(document.data), is_ollama=True)


def written(model: PlainModel) -> WrittenManifest:
    """The manifest as it lies in the store."""
    return WrittenManifest(model.data, MANIFEST_TYPE, "", model.manifest.blobs(), {})
