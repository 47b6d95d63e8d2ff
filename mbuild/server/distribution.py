"""``/v2/``: the store as a registry that other machines pull from, OCI's and Ollama's alike.

``/v2/NAMESPACE/MODEL`` is the store's model of that name, ``/v2/HOST/NAMESPACE/MODEL`` one of
another registry. Manifests are sent as they lie in the store whatever a client says it accepts:
Ollama's id is the digest of these bytes. The same model in another form is under its tag with
``-modelpack`` or ``-docker``. A blob's answer names its own place in ``Location``,
without which Ollama pulls nothing (``server/download.go``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from anyio import to_thread
from starlette.responses import FileResponse, JSONResponse, Response

from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import DamagedError, NameNotFoundError
from mbuild.core.names import DEFAULT_HOST, InvalidNameError, ModelName
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple
from mbuild.registry.client.referrers import Referrer, index
from mbuild.registry.client.registry import OCI_INDEX
from mbuild.server import forms
from mbuild.server.errors import (
    BadDigestError,
    NoBlobError,
    NoManifestError,
    NoRepositoryError,
)
from mbuild.store.manifest import MANIFEST_TYPE

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

    from mbuild.server.service import Service
    from mbuild.store import Store, StoredManifest

HEADERS = {"Docker-Distribution-Api-Version": "registry/2.0"}

_BYTES = "application/octet-stream"
_RANGE = regex(r"([0-9]{1,19})-([0-9]{0,19})|-[0-9]{1,19}")
_SHOWN = 80  # characters of a name that is none
_CHUNK = 1 << 20
"""Bytes that are read at once: with fewer the event loop takes most of the time."""


class BlobResponse(FileResponse):
    """A blob's bytes, in whole or a range of them."""

    chunk_size = _CHUNK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. Starlette answers 400 to a range that counts as none, and a part to HEAD."""
        headers = scope["headers"]
        said = b",".join(value for name, value in headers if name == b"range")
        if said and (scope["method"] == "HEAD" or not _is_range(said.decode("latin-1"))):
            scope = {**scope, "headers": [pair for pair in headers if pair[0] != b"range"]}
        await super().__call__(scope, receive, send)


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
    """A blob that some tag of the repository names; whether one was pushed to be named soon."""
    name = request.path_params["name"]
    try:
        digest = Digest.parse(request.path_params["digest"])
    except DigestError:
        raise BadDigestError("a digest is sha256: and 64 hexadecimal digits") from None
    asked = _Asked(name, digest, service.writable and request.method == "HEAD")
    found = await to_thread.run_sync(_blob, service.store(), asked)
    closed, own = bool(service.policy.token), request.url.path
    headers = {
        "Docker-Content-Digest": str(digest),
        "ETag": f'"{digest}"',
        "Location": service.tokens.signed(own) if closed else own,
        "Cache-Control": f"{'private, ' if closed else ''}max-age=31536000",
        **HEADERS,
    }
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    if isinstance(found, bytes):
        return Response(found, media_type=_BYTES, headers=headers)
    path, info = found
    return BlobResponse(path, media_type=_BYTES, stat_result=info, headers=headers)


async def tags(service: Service, request: Request) -> Response:
    """The tags of a repository."""
    name = request.path_params["name"]
    found = await to_thread.run_sync(_tags, service.store(), name)
    page, headers = _page(request, found)
    return JSONResponse({"name": name, "tags": page}, headers=headers)


async def catalog(service: Service, request: Request) -> Response:
    """The names of all models."""
    page, headers = _page(request, await to_thread.run_sync(_repositories, service.store()))
    return JSONResponse({"repositories": page}, headers=headers)


async def referrers(service: Service, request: Request) -> Response:
    """The other forms of a model's manifest, which refer to it."""
    name, kind = request.path_params["name"], request.query_params.get("artifactType", "")
    try:
        subject = Digest.parse(request.path_params["digest"])
    except DigestError:
        raise BadDigestError("a digest is sha256: and 64 hexadecimal digits") from None
    found = await to_thread.run_sync(_referrers, service.store(), name, subject)
    rows = [row.to_json() for row in found if kind in ("", row.artifact_type)]
    filtered = {"OCI-Filters-Applied": "artifactType"} if kind else {}
    return Response(index(rows), media_type=OCI_INDEX, headers={**filtered, **HEADERS})


def _is_range(text: str) -> bool:
    """Whether a header asks for ranges of bytes that can be; else it counts as absent.

    So RFC 9110 has it for other units (14.2), and allows it for ranges that are none (14.1.1).
    """
    unit, _, rest = text.partition("=")
    wanted = [each.strip() for each in rest.split(",") if each.strip()]
    if unit.strip().lower() != "bytes" or not wanted:
        return False
    for each in wanted:
        found = _RANGE.fullmatch(each)
        if found is None or (found[1] and found[2] and int(found[1]) > int(found[2])):
            return False
    return True


def _page(request: Request, names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The names after ``last``, at most ``n``, and where the next ones are."""
    last, count = request.query_params.get("last", ""), request.query_params.get("n", "")
    left = [name for name in names if name > last]
    if not (count.isascii() and count.isdigit() and len(count) < 10) or int(count) >= len(left):
        return left, HEADERS
    page = left[: int(count)]
    if not page:
        return page, HEADERS
    following = urlencode({"n": count, "last": page[-1]})
    return page, {"Link": f'<{request.url.path}?{following}>; rel="next"', **HEADERS}


def _media_type(data: bytes) -> str:
    """What a manifest says that it is."""
    value = json.loads(data)
    said = value.get("mediaType") if isinstance(value, dict) else None
    return said if isinstance(said, str) else MANIFEST_TYPE


def _manifest(store: Store, repository: str, reference: str) -> tuple[bytes, Digest]:
    """The bytes of a manifest, and their digest."""
    wanted = None
    if ":" in reference:  # no tag has one
        try:
            wanted = Digest.parse(reference)
        except DigestError:
            raise NoManifestError("manifest unknown") from None
    named = [] if wanted else [stored_name(repository, reference)]
    for name in named or _names(store, repository):
        data = store.manifests.read_bytes(store.manifests.resolve(name))
        if data is not None and wanted in (None, Digest.of(data)):
            _read(store, name)  # one that cannot be read is not handed on
            return data, Digest.of(data)
    shown = forms.by_tag(store, named[0]) if named else _shown(store, repository, wanted)
    if shown is None:
        raise NoManifestError("manifest unknown")
    return shown.written.data, shown.digest


def _shown(store: Store, repository: str, digest: Digest | None) -> forms.Shown | None:
    """The other form of some model of the repository that has this digest."""
    for name in _names(store, repository):
        for shown in forms.of_model(store, name):
            if shown.digest == digest:
                return shown
    return None


def _referrers(store: Store, repository: str, subject: Digest) -> list[Referrer]:
    """What refers to a manifest of the repository: nothing to one that is not there."""
    for name in _names(store, repository):
        data = store.manifests.read_bytes(name)
        if data is not None and Digest.of(data) == subject:
            return [
                Referrer(shown.digest, len(shown.written.data), shown.written.artifact_type)
                for shown in forms.of_model(store, name)
            ]
    return []


class _Asked(NamedTuple):
    """A blob of a repository; ``pending``: also one that no model names yet."""

    repository: str
    digest: Digest
    pending: bool


def _blob(store: Store, asked: _Asked) -> tuple[Path, os.stat_result] | bytes:
    """Where a blob lies that a model of the repository needs, and its file's facts.

    Of what is made when it is asked for, the bytes. A pending one is found so that a push that
    was cut sends it only once.
    """
    repository, digest, pending = asked
    for name in _names(store, repository):
        try:
            stored = _read(store, name)
        except (NoManifestError, DamagedError):
            continue
        for layer in stored.manifest.blobs():
            if layer.digest == digest and store.blobs.has(digest, layer.size):
                path = store.blobs.local_path(digest)
                return path, path.stat()
    made = forms.content_of(store, _names(store, repository), digest)
    if made is not None:
        return made
    if pending and digest in store.uploads.held() and store.blobs.size(digest) is not None:
        store.uploads.refresh(digest)
        path = store.blobs.local_path(digest)
        return path, path.stat()
    raise NoBlobError("blob unknown to registry")


def _tags(store: Store, repository: str) -> list[str]:
    found = sorted(name.tag for name in _names(store, repository))
    if not found:
        raise NoRepositoryError("repository name not known to registry")
    return found


def _repositories(store: Store) -> list[str]:
    """Every model's name as its path here; those of Ollama's registry without its host."""
    found = set()
    for name in store.manifests.names():
        host = "" if name.host == DEFAULT_HOST else f"{name.host}/"
        found.add(f"{host}{name.namespace}/{name.model}")
    return sorted(found)


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
    except InvalidNameError as error:
        raise NoRepositoryError(
            f"no model here can be called {repository[:_SHOWN]!r}: {error.why}",
            hint="valid are NAMESPACE/MODEL and HOST/NAMESPACE/MODEL",
        ) from None
