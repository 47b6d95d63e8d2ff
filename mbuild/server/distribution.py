"""``/v2/``: the store as a registry that other machines pull from, OCI's and Ollama's alike.

``/v2/NAMESPACE/MODEL`` is the store's model of that name, ``/v2/HOST/NAMESPACE/MODEL`` one of
another registry. Manifests are sent as they lie in the store whatever a client says it accepts:
Ollama's id is the digest of these bytes. A blob's answer names its own place in ``Location``,
without which Ollama pulls nothing (``server/download.go``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from anyio import to_thread
from starlette.responses import FileResponse, JSONResponse, Response

from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import DamagedError, NameNotFoundError
from mbuild.core.names import InvalidNameError, ModelName
from mbuild.server.errors import (
    NoBlobError,
    NoManifestError,
    NoRepositoryError,
)
from mbuild.store.manifest import MANIFEST_TYPE

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from starlette.requests import Request

    from mbuild.server.service import Service
    from mbuild.store import Store, StoredManifest

HEADERS = {"Docker-Distribution-Api-Version": "registry/2.0"}

_CHUNK = 1 << 20
"""Bytes that are read at once: with fewer the event loop takes most of the time."""


class BlobResponse(FileResponse):
    """A blob's bytes, in whole or a range of them."""

    chunk_size = _CHUNK


async def start(service: Service, request: Request) -> Response:
    """Says that this is a registry, and whether the login is right."""
    return JSONResponse({}, headers=HEADERS)


async def manifest(service: Service, request: Request) -> Response:
    """A model's manifest by its tag or its digest."""
    name, reference = request.path_params["name"], request.path_params["reference"]
    data, digest = await to_thread.run_sync(_manifest, service.store(), name, reference)
    headers = {"Docker-Content-Digest": str(digest), "ETag": f'"{digest}"', **HEADERS}
    return Response(data, media_type=_media_type(data), headers=headers)


async def blob(service: Service, request: Request) -> Response:
    """A blob that some tag of the repository names."""
    name = request.path_params["name"]
    try:
        digest = Digest.parse(request.path_params["digest"])
    except DigestError:
        raise NoBlobError("a digest is sha256: and 64 hexadecimal digits") from None
    path, info = await to_thread.run_sync(_blob, service.store(), name, digest)
    return BlobResponse(
        path,
        media_type="application/octet-stream",
        stat_result=info,
        headers={
            "Docker-Content-Digest": str(digest),
            "ETag": f'"{digest}"',
            "Location": request.url.path,
            "Cache-Control": "max-age=31536000",
            **HEADERS,
        },
    )


async def tags(service: Service, request: Request) -> Response:
    """The tags of a repository."""
    name = request.path_params["name"]
    found = await to_thread.run_sync(_tags, service.store(), name)
    return JSONResponse({"name": name, "tags": found}, headers=HEADERS)


def _media_type(data: bytes) -> str:
    """What a manifest says that it is."""
    value = json.loads(data)
    said = value.get("mediaType") if isinstance(value, dict) else None
    return said if isinstance(said, str) else MANIFEST_TYPE


def _manifest(store: Store, repository: str, reference: str) -> tuple[bytes, Digest]:
    """The bytes of a manifest, and their digest."""
    wanted = None
    if ":" in reference:
        try:
            wanted = Digest.parse(reference)
        except DigestError:
            raise NoManifestError("manifest unknown") from None
    names = _names(store, repository) if wanted else [stored_name(repository, reference)]
    for name in names:
        data = store.manifests.read_bytes(store.manifests.resolve(name))
        if data is not None and wanted in (None, Digest.of(data)):
            _read(store, name)  # one that cannot be read is not handed on
            return data, Digest.of(data)
    raise NoManifestError("manifest unknown")


def _blob(store: Store, repository: str, digest: Digest) -> tuple[Path, os.stat_result]:
    """Where a blob lies that a model of the repository needs, and its file's facts."""
    for name in _names(store, repository):
        try:
            stored = _read(store, name)
        except (NoManifestError, DamagedError):
            continue
        for layer in stored.manifest.blobs():
            if layer.digest == digest and store.blobs.has(digest, layer.size):
                path = store.blobs.local_path(digest)
                return path, path.stat()
    raise NoBlobError("blob unknown to registry")


def _tags(store: Store, repository: str) -> list[str]:
    found = sorted(name.tag for name in _names(store, repository))
    if not found:
        raise NoRepositoryError("repository name not known to registry")
    return found


def _read(store: Store, name: ModelName) -> StoredManifest:
    try:
        return store.manifests.read(store.manifests.resolve(name))
    except NameNotFoundError:
        raise NoManifestError("manifest unknown") from None


def _names(store: Store, repository: str) -> Iterator[ModelName]:
    """The models of a repository, by the tags that the store has."""
    return store.manifests.beside(store.manifests.resolve(stored_name(repository, "latest")))


def stored_name(repository: str, tag: str) -> ModelName:
    """The store's name for a path of the registry; raises :class:`NoRepositoryError`."""
    try:
        return ModelName.parse(f"{repository}:{tag}")
    except InvalidNameError:
        raise NoRepositoryError("repository name not known to registry") from None
