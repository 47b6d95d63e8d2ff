"""OCI image layouts that hold models: index, names, blobs (opencontainers/image-spec v1).

::

    oci-layout                    {"imageLayoutVersion":"1.0.0"}
    index.json                    the models' manifests, each with its name
    blobs/sha256/<64 hex>         manifests, configs and layers, under their digests

mbuild writes the very manifest of the store, so its digest, the model's id, stays. It reads the
other forms of manifest, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.core.values import NamedTuple
from mbuild.registry.client.registry import Received
from mbuild.registry.dialects.received import document
from mbuild.registry.dialects.table import DIALECTS, read
from mbuild.registry.dialects.values import LocalManifest, Reading
from mbuild.store.manifest import CONFIG_TYPE, MANIFEST_TYPE, Manifest
from mbuild.store.media import PREFIX

if TYPE_CHECKING:
    from mbuild.registry.dialects.values import Fetch

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
MAX_INDEX = 4 << 20
MAX_MODELS = 1000

_OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_NESTED = (_INDEX_TYPE, "application/vnd.docker.distribution.manifest.list.v2+json")
_FOREIGN = frozenset(config for row in DIALECTS if row.form for config in row.form.configs)
_NAME_KEYS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


class IndexEntry(NamedTuple):
    """One model of an index: its manifest's digest and size, and its name if it has one."""

    digest: Digest
    size: int
    name: str


def blob_name(digest: Digest) -> str:
    """Where a blob lies in a layout."""
    return f"blobs/sha256/{digest.hex}"


def encode_index(models: Sequence[tuple[ModelName, bytes]]) -> bytes:
    """The index of some models, given their manifests' bytes."""
    manifests = [
        {
            "mediaType": MANIFEST_TYPE,
            "digest": str(Digest.of(data)),
            "size": len(data),
            "annotations": {_NAME_KEYS[1]: full_name(name)},
        }
        for name, data in models
    ]
    value = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": manifests}
    return json.dumps(value, separators=(",", ":")).encode()


def full_name(name: ModelName) -> str:
    """The name with all its parts: what it means does not depend on who reads it."""
    return f"{name.host}/{name.namespace}/{name.model}:{name.tag}"


def decode_index(data: bytes, where: str) -> tuple[IndexEntry, ...]:
    """The models of an index; raises :class:`FormatError` or :class:`UnsupportedError`."""
    value = _object(data, where)
    rows = value.get("manifests")
    if not isinstance(rows, list) or not rows:
        raise FormatError(f"{where}: it names no manifests")
    if len(rows) > MAX_MODELS:
        raise FormatError(f"{where}: {len(rows)} manifests; the limit is {MAX_MODELS}")
    return tuple(_entry(row, where) for row in rows)


def _entry(row: Any, where: str) -> IndexEntry:
    if not isinstance(row, dict):
        raise FormatError(f"{where}: a manifest's entry is not an object")
    if row.get("mediaType") in _NESTED:
        raise UnsupportedError(
            f"{where}: an index of indexes (an image for several platforms), not a model"
        )
    size, annotations = row.get("size"), row.get("annotations") or {}
    try:
        digest = Digest.parse(row.get("digest"))
    except DigestError as error:
        raise FormatError(f"{where}: {error.message} {str(row.get('digest'))[:90]!r}") from None
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise FormatError(f"{where}: the size of {digest} is {str(size)[:40]!r}")
    if not isinstance(annotations, dict):
        raise FormatError(f"{where}: its annotations are not an object")
    name = next((annotations[key] for key in _NAME_KEYS if key in annotations), "")
    return IndexEntry(digest, size, name if isinstance(name, str) else "")


def check_layout(data: bytes, where: str) -> None:
    """Raise :class:`UnsupportedError` for a layout of another major version."""
    version = _object(data, where).get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise UnsupportedError(f"{where}: imageLayoutVersion is {str(version)[:40]!r}, not 1.x")


def decode_model(data: bytes, where: str, fetch: Fetch) -> Reading:
    """A manifest that is a model's, in any of the forms that registries have (``dialects``).

    What parses but is something else (an index, a container image, ``{}``) is
    refused, so that it cannot be installed as an empty model. ``fetch`` reads small blobs.
    """
    value = _object(data, where)
    if value.get("schemaVersion") != 2:
        found = str(value.get("schemaVersion"))[:40]
        raise FormatError(f"{where}: schemaVersion is {found!r}, not 2")
    if value.get("mediaType", _OCI_MANIFEST) not in (MANIFEST_TYPE, _OCI_MANIFEST):
        raise UnsupportedError(f"{where}: mediaType {str(value.get('mediaType'))[:80]!r}")
    config = value.get("config")
    if isinstance(config, dict) and config.get("mediaType") in _FOREIGN:
        return read(document(Received(data, Digest.of(data), _OCI_MANIFEST), where), where, fetch)
    manifest = Manifest.decode(data, where)
    types = [layer.media_type for layer in manifest.layers]
    foreign = [type_ for type_ in types if not type_.startswith(PREFIX)]
    if manifest.config.media_type != CONFIG_TYPE or foreign or not types:
        other = (foreign or [manifest.config.media_type])[0] if types else "no layers"
        raise UnsupportedError(
            f"{where}: not a model of Ollama, ModelPack or Docker Model Runner: {other[:80]!r}",
            hint="take the GGUF file out of it and build from that",
        )
    return Reading(manifest.blobs(), lambda store: LocalManifest(data), is_ollama=True)


def parse_name(text: str, where: str) -> ModelName:
    """The name that an index gives a model; raises :class:`FormatError` if it gives none."""
    try:
        return ModelName.parse(text)
    except InvalidNameError:
        what = f"the name {text[:80]!r}" if text else "no name"
        raise FormatError(f"{where}: {what} for a model", hint="give one with -t NAME") from None


def _object(data: bytes, where: str) -> Mapping[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise FormatError(f"{where}: not JSON") from None
    if not isinstance(value, dict):
        raise FormatError(f"{where}: not a JSON object")
    return value
