"""``/v2/`` with ``--writable``: blobs and manifests that other machines push into the store.

An upload is an unfinished blob of the store, which remembers how far it is, so that a push that was
cut goes on. A manifest is taken once all its blobs are here, and only if it is a model of Ollama's
form, for the store has no other; the model's other forms are shown as they would be pushed. Of
statements and signatures about a model that is here the documents are kept.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from anyio import to_thread
from starlette.responses import Response

from mbuild.core.digest import Digest, DigestError
from mbuild.core.errors import BusyError, MbuildError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple
from mbuild.registry.client.registry import Received
from mbuild.registry.dialects import ollama
from mbuild.registry.dialects.received import document
from mbuild.registry.documents import documents_in
from mbuild.server import forms
from mbuild.server.distribution import HEADERS, stored_name
from mbuild.server.errors import (
    BadDigestError,
    BadManifestError,
    BadRangeError,
    NoBlobError,
    ReadOnlyError,
)
from mbuild.server.locking import PATIENCE_SECONDS
from mbuild.server.requests import read_body
from mbuild.store.attached import attach
from mbuild.store.manifest import MAX_MANIFEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request

    from mbuild.core.names import ModelName
    from mbuild.server.incoming import Incoming
    from mbuild.server.service import Service
    from mbuild.store import Layer, Store
    from mbuild.store.writing import BlobWriter

_CHUNK = 1 << 20
_STALL_SECONDS = 60.0
_RANGE = regex(r"(?:bytes )?(\d{1,18})-(\d{1,18})(?:/.*)?")


def check_writable(service: Service) -> None:
    """Raise :class:`ReadOnlyError` unless the operator said ``--writable``."""
    if not service.writable:
        raise ReadOnlyError(
            "this registry is read-only", hint="its operator can start it with --writable"
        )


async def begin(service: Service, request: Request) -> Response:
    """Begin an upload, or find that the store has the blob (``mount``)."""
    check_writable(service)
    name = request.path_params["name"]
    stored_name(name, "latest")
    wanted = request.query_params.get("mount", "")
    store = service.store(PATIENCE_SECONDS)
    if wanted and request.query_params.get("from"):
        digest = _digest(wanted)
        if await service.locking.run(_mark, store, digest):
            return _created(f"/v2/{name}/blobs/{digest}", digest)
    upload = await service.pushes.begin(store)
    return _stands(name, upload, 0, 202)


async def status(service: Service, request: Request) -> Response:
    """How far an upload is, once what is on its way to it has come, but for a while at most."""
    check_writable(service)
    upload = request.path_params["upload"]
    found = service.pushes.find(upload)
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            async with found.lock:
                pass
    return _stands(request.path_params["name"], upload, found.writer.size, 204)


async def cancel(service: Service, request: Request) -> Response:
    """Give an upload up."""
    check_writable(service)
    upload = request.path_params["upload"]
    async with service.pushes.find(upload).lock:
        service.pushes.end(upload)
    return Response(status_code=204, headers=HEADERS)


async def part(service: Service, request: Request) -> Response:
    """Take the next bytes of an upload; what arrived of a part that was cut counts."""
    check_writable(service)
    upload = request.path_params["upload"]
    found = service.pushes.find(upload)
    async with found.lock:
        _check_range(request, found.writer.size)
        await _receive(request, found)
        return _stands(request.path_params["name"], upload, found.writer.size, 202)


async def end(service: Service, request: Request) -> Response:
    """Take the last bytes, and keep the blob if it is what it is called."""
    check_writable(service)
    name, upload = request.path_params["name"], request.path_params["upload"]
    digest = _digest(request.query_params.get("digest", ""))
    found = service.pushes.find(upload)
    async with found.lock:
        _check_range(request, found.writer.size)
        await _receive(request, found)
        try:
            store = service.store(PATIENCE_SECONDS)
            await service.locking.run(_commit, store, found.writer, digest)
        finally:
            service.pushes.end(upload)
    return _created(f"/v2/{name}/blobs/{digest}", digest)


async def manifest(service: Service, request: Request) -> Response:
    """Give a model its tag, once the store has all of it."""
    check_writable(service)
    path, tag = request.path_params["name"], request.path_params["reference"]
    by_digest = ":" in tag  # as what has no tag is pushed: a document about a model
    name = stored_name(path, "latest" if by_digest else tag)
    data = await read_body(request, MAX_MANIFEST_BYTES)
    kind = request.headers.get("content-type", "").partition(";")[0]
    store = service.store(PATIENCE_SECONDS)
    if by_digest and tag != str(Digest.of(data)):
        raise BadDigestError(f"the manifest has the digest {Digest.of(data)}, not {tag}")
    keep = _keep_documents if by_digest or forms.is_signature_tag(tag) else _keep
    put = _Put(name, f"{path}:{tag}", data, kind)
    digest, subject = await service.locking.run(keep, store, put)
    response = _created(f"/v2/{path}/manifests/{digest}", digest)
    if subject:
        response.headers["OCI-Subject"] = subject
    return response


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(text)
    except DigestError:
        raise BadDigestError("a digest is sha256: and 64 digits") from None


def _check_range(request: Request, size: int) -> None:
    """Refuse a part that does not begin where the upload is."""
    said = request.headers.get("content-range", "")
    if not said:
        return
    found = _RANGE.fullmatch(said)
    if found is None or int(found[1]) != size:
        raise BadRangeError(f"the upload has {size} bytes, the part begins elsewhere")


async def _receive(request: Request, found: Incoming) -> None:
    """Write a request's body behind what there is.

    Raises :class:`BusyError` for a client of which nothing comes any more: another request may
    wait for its turn.
    """
    pending = bytearray()
    pieces = request.stream()
    try:
        while True:
            async with asyncio.timeout(_STALL_SECONDS):
                piece = await anext(pieces, None)
            if piece is None:
                break
            pending += piece
            if len(pending) >= _CHUNK:
                await to_thread.run_sync(found.writer.write, pending)
                found.moved = time.monotonic()
                pending = bytearray()
    except TimeoutError:
        raise BusyError(f"nothing came for {_STALL_SECONDS:.0f} seconds") from None
    finally:
        if pending:
            await to_thread.run_sync(found.writer.write, pending)


def _mark(store: Store, digest: Digest) -> bool:
    """Keep a blob that is there until a manifest names it; False where it is not."""
    with store.using():
        if store.blobs.size(digest) is None:
            return False
        store.uploads.add(digest, is_new=False)
        return True


def _commit(store: Store, writer: BlobWriter, digest: Digest) -> None:
    got = writer.digest
    if got != digest:
        raise BadDigestError(f"the content has the digest {got}, not {digest}")
    with store.using():
        store.uploads.add(digest, is_new=store.blobs.size(digest) is None)
        blob = writer.commit()
        if blob.blake3 is not None:
            store.files.remember_alias(digest, blob.blake3)
            store.files.remember_content(blob.size, blob.blake3)


class _Put(NamedTuple):
    """A manifest that is to get a name: the store's; ``said`` is what the client calls it."""

    name: ModelName
    said: str
    data: bytes
    media_type: str


def _keep(store: Store, put: _Put) -> tuple[Digest, str]:
    """Check a manifest and write it; its digest, and what it refers to if that is listed.

    A model's manifest in another form is there already, if the model is: then it is equal.
    """
    name, data = put.name, put.data
    digest = Digest.of(data)
    shown = forms.by_tag(store, name)
    if shown is not None and shown.written.data == data:
        return digest, str(json.loads(data)["subject"]["digest"])
    try:
        found = document(Received(data, digest, put.media_type), put.said)
        if not ollama.fits(found):
            kind = found.config.media_type[:100]
            raise BadManifestError(
                f"{put.said}: this registry takes only Ollama's manifests, and not one of {kind!r}"
            )
        model = ollama.manifest(found, put.said)
    except MbuildError as error:
        raise BadManifestError(error.message) from None
    with store.using():
        beside = list(store.manifests.beside(store.manifests.resolve(name)))
        for layer in model.blobs():
            if not store.blobs.bring(layer.digest, layer.size):
                store.blobs.put(_made(store, beside, layer))
        store.replace(store.manifests.resolve(name), data)
        store.uploads.settle(layer.digest for layer in model.blobs())
    return digest, ""


def _keep_documents(store: Store, put: _Put) -> tuple[Digest, str]:
    """Keep the documents that a manifest holds about a model; its digest, and the model's."""
    name, data = put.name, put.data
    try:
        subject = Digest.parse(json.loads(data)["subject"]["digest"])
    except (ValueError, KeyError, TypeError, DigestError, RecursionError):
        raise BadManifestError("a manifest has to be pushed under a tag") from None
    with store.using():
        beside = list(store.manifests.beside(store.manifests.resolve(name)))
        known = (store.manifests.read_bytes(each) for each in beside)
        if not any(found and Digest.of(found) == subject for found in known):
            raise BadManifestError(f"there is no model {subject} in this repository")

        def small(layer: Layer, limit: int) -> bytes:
            return _small(store, beside, layer, limit)

        found = list(documents_in(data, subject, small))
        if not found:
            raise BadManifestError("it is neither a model nor a document about one")
        for document in found:
            attach(store, subject, document.kind, document.data)
    return Digest.of(data), str(subject)


def _small(store: Store, names: Sequence[ModelName], layer: Layer, limit: int) -> bytes:
    """A blob that was pushed, or that a push was told is there, as part of a document."""
    if store.blobs.bring(layer.digest, layer.size):
        return store.blobs.read(layer.digest, limit)
    return _made(store, names, layer)


def _made(store: Store, names: Sequence[ModelName], layer: Layer) -> bytes:
    """A blob that is in no file, but is made for whoever asks, and so need not be pushed."""
    made = forms.content_of(store, names, layer.digest)
    if made is None or len(made) != layer.size:
        raise NoBlobError(f"the blob {layer.digest} was not pushed")
    return made


def _stands(name: str, upload: str, size: int, status: int) -> Response:
    """An answer that says how far an upload is, and where it goes on."""
    headers = {
        "Location": f"/v2/{name}/blobs/uploads/{upload}",
        "Range": f"0-{max(size - 1, 0)}",
        "Docker-Upload-UUID": upload,
    }
    return Response(status_code=status, headers={**headers, **HEADERS})


def _created(location: str, digest: Digest) -> Response:
    headers = {"Location": location, "Docker-Content-Digest": str(digest), **HEADERS}
    return Response(status_code=201, headers=headers)
