"""What a registry's manifest has to be before anybody believes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import DigestError
from mbuild.core.errors import RegistryError
from mbuild.core.values import NamedTuple
from mbuild.registry.client.registry import DOCKER_LIST, OCI_INDEX
from mbuild.store.manifest import MAX_LAYERS, Layer

if TYPE_CHECKING:
    from mbuild.registry.client.registry import Received
    from mbuild.registry.reference import ModelReference

FILE_PATH = "org.cncf.model.filepath"
"""The annotation with a file's name, which Docker's model runner reads, too."""

TITLE = "org.opencontainers.image.title"
"""The annotation by which oras names the file of a layer."""

MAX_CONFIG = 4 << 20
"""Bytes of a config, which is JSON that is read whole."""


class Document(NamedTuple):
    """A checked manifest: its bytes and its parts.

    ``paths`` are the names of the files that layers are, "" where a layer has none.
    """

    data: bytes
    config: Layer
    layers: tuple[Layer, ...]
    paths: tuple[str, ...]


def document(received: Received, reference: ModelReference | str) -> Document:
    """Read a manifest; raises :class:`RegistryError` for all that is no model's.

    The reference, or in an archive the place, is what messages call it.

    That is what a strange or hostile registry may send: no JSON, no object, an index of
    several manifests, a config or layers that are missing, sizes and digests that are none.
    """
    try:
        value = json.loads(received.data)
    except (ValueError, RecursionError):
        raise _no_manifest(reference, "it is not JSON") from None
    if not isinstance(value, dict):
        raise _no_manifest(reference, "it is not a JSON object")
    media_type = value.get("mediaType") or received.media_type
    if "manifests" in value or media_type in (OCI_INDEX, DOCKER_LIST):
        hint = "copy one of them alone"
        if not isinstance(reference, str):
            one = f"{reference.host}/{reference.path}@{_first_of(value)}"
            hint = f"name one of them: {one}"
        raise RegistryError(f"{reference} is an index of several manifests", hint=hint)
    version = value.get("schemaVersion")
    if version != 2 or not isinstance(media_type, str):
        raise _no_manifest(reference, f"its schemaVersion is {str(version)[:20]}")
    layers = value.get("layers")
    if not isinstance(layers, list) or not layers:
        raise _no_manifest(reference, "it has no layers")
    if len(layers) > MAX_LAYERS:
        raise _no_manifest(reference, f"it has more than {MAX_LAYERS} layers")
    try:
        config = Layer.from_json(value.get("config"))
        found = tuple(Layer.from_json(layer) for layer in layers)
    except (ValueError, DigestError) as error:
        raise _no_manifest(reference, str(error)) from None
    if config.size > MAX_CONFIG:
        raise _no_manifest(reference, f"its config has {config.size} bytes")
    sizes: dict[Any, int] = {}
    for layer in (config, *found):
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise _no_manifest(reference, f"it names {layer.digest} with two sizes")
    return Document(received.data, config, found, tuple(map(_path, layers)))


def _path(layer: Mapping[str, Any]) -> str:
    """The name of the file that a layer is: ModelPack's annotation, else the OCI's title."""
    annotations = layer.get("annotations")
    names = annotations if isinstance(annotations, dict) else {}
    found = names.get(FILE_PATH, names.get(TITLE, ""))
    return found if isinstance(found, str) else ""


def _no_manifest(reference: ModelReference | str, why: str) -> RegistryError:
    return RegistryError(
        f"{reference}: what the registry sent is not a model's manifest: {why}",
        hint="check the name; a proxy or a login page may have answered in the registry's place",
    )


def _first_of(value: Mapping[str, Any]) -> str:
    """The digest of an index's first manifest, for a hint."""
    rows = value.get("manifests")
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    digest = first.get("digest")
    return digest if isinstance(digest, str) and len(digest) == 71 else "sha256:..."
