"""From a manifest in another form to a model: one that mbuild wrote comes back as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import Digest
from mbuild.core.errors import DamagedError, RegistryError
from mbuild.registry.dialects.files import MANIFEST_FILE
from mbuild.registry.dialects.received import MAX_CONFIG
from mbuild.registry.dialects.roles import LEFT_OUT, PACKED
from mbuild.registry.dialects.values import Fetch, LocalManifest, ManifestForm, Reading
from mbuild.store.manifest import MAX_MANIFEST_BYTES, Layer, Manifest
from mbuild.store.media import GGUF

if TYPE_CHECKING:
    from mbuild.registry.dialects.received import Document
    from mbuild.registry.reference import ModelReference
    from mbuild.store import Store


def read(
    form: ManifestForm, document: Document, reference: ModelReference | str, fetch: Fetch
) -> Reading:
    """What a manifest of that form says; raises :class:`RegistryError` for what is no model."""
    named = list(zip(document.layers, document.paths, strict=True))
    for layer, path in named:
        if path == MANIFEST_FILE and layer.size <= MAX_MANIFEST_BYTES:
            return _restored(fetch(layer, MAX_MANIFEST_BYTES), document, reference)
    parts: list[Layer] = []
    left_out: list[str] = []
    for layer, path in named:
        try:
            role = form.role(layer.media_type, path)
        except RegistryError as error:
            raise RegistryError(f"{reference}: {error.message}", hint=error.hint) from None
        if role == LEFT_OUT:
            left_out.append(path or layer.media_type)
        else:
            parts.append(layer._replace(media_type=role, origin=""))
    if not any(part.media_type in (*GGUF, PACKED) for part in parts):
        raise RegistryError(
            f"{reference} has no weights in GGUF: its layers are {_listed(left_out)}",
            hint="only models in GGUF can be pulled",
        )
    context = form.context(_object(fetch(document.config, MAX_CONFIG), reference))
    finish = partial(_adopted, tuple(parts), context, str(reference))
    foreign = Digest.of(document.data)
    return Reading(tuple(parts), finish, tuple(left_out), foreign=foreign)


def _adopted(parts: tuple[Layer, ...], context: int, name: str, store: Store) -> LocalManifest:
    from mbuild.registry.dialects.adopting import adopt

    return adopt(parts, context, name, store)


def _restored(data: bytes, document: Document, reference: ModelReference | str) -> Reading:
    """Ollama's manifest, as it was; only blobs that the outer manifest names count."""
    try:
        manifest = Manifest.decode(data, f"{MANIFEST_FILE} of {reference}")
    except DamagedError as error:
        raise RegistryError(error.message) from None
    there = {(layer.digest, layer.size) for layer in document.layers}
    for layer in manifest.blobs():
        if (layer.digest, layer.size) not in there:
            raise RegistryError(
                f"{reference}: {MANIFEST_FILE} names a blob that is not there, {layer.digest}",
                hint="whoever pushed it has to make its package anew and push that",
            )
    return Reading(manifest.blobs(), lambda store: LocalManifest(data))


def _object(data: bytes, reference: ModelReference | str) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise RegistryError(f"{reference}: the config of the model is not a JSON object")
    return value


def _listed(names: list[str]) -> str:
    found = [repr(name[:100]) for name in dict.fromkeys(names)]
    return ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
