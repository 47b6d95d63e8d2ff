"""``/api/blobs/:digest``, and the page's uploads: hashed while they are written to disk."""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING

from anyio import to_thread
from starlette.responses import JSONResponse, Response

from mbuild.core.digest import Digest
from mbuild.core.errors import UsageError
from mbuild.server.errors import NoRoomError
from mbuild.server.locking import PATIENCE_SECONDS
from mbuild.store.writing import BlobWriter

if TYPE_CHECKING:
    from starlette.requests import Request

    from mbuild.server.service import Service
    from mbuild.store import Store

_CHUNK = 1 << 20
"""Bytes that are gathered before a thread hashes and writes them."""


async def head(service: Service, request: Request) -> Response:
    """200 when the blob is there, else 404; asking keeps an upload for another day."""
    digest = Digest.parse(request.path_params["digest"])
    store = service.store()
    found = await to_thread.run_sync(_ask, store, digest)
    return Response(status_code=200 if found else 404)


def _ask(store: Store, digest: Digest) -> bool:
    if store.blobs.size(digest) is None:
        return False
    store.uploads.refresh(digest)
    return True


async def upload(service: Service, request: Request) -> Response:
    """Store a blob: 201 when it is new, 200 when it was there, 400 when its digest is another.

    A blob that is there is not written again; its bytes are read and dropped,
    because many clients cannot stop in the middle of sending.
    """
    text = request.path_params["digest"]
    digest = Digest.parse(text)
    store = service.store(PATIENCE_SECONDS)
    declared = request.headers.get("content-length", "")
    length = int(declared) if declared.isdigit() else None
    if await service.locking.run(_mark_existing, store, digest, length):
        async for _ in request.stream():
            pass
        return Response(status_code=200)
    writer = await _received(request, store, length)
    try:
        if writer.digest != digest:
            raise UsageError(f'digest mismatch, expected "{text}", got "{writer.digest}"')
        is_new = await service.locking.run(_commit, store, writer)
        return Response(status_code=201 if is_new else 200)
    finally:
        writer.__exit__(None, None, None)


async def take(service: Service, request: Request) -> Response:
    """Store bytes and tell their digest: a page cannot compute it of a file of any size."""
    store = service.store(PATIENCE_SECONDS)
    declared = request.headers.get("content-length", "")
    writer = await _received(request, store, int(declared) if declared.isdigit() else None)
    try:
        digest, size = writer.digest, writer.size
        is_new = await service.locking.run(_commit, store, writer)
        return JSONResponse({"digest": str(digest), "size": size}, 201 if is_new else 200)
    finally:
        writer.__exit__(None, None, None)


async def _received(request: Request, store: Store, length: int | None) -> BlobWriter:
    """A request's bytes in a file without a name; closed if they do not come."""
    await to_thread.run_sync(_check_room, store, length)
    writer = await to_thread.run_sync(partial(store.blobs.writer, twice=True))
    try:
        await _receive(request, writer)
    except BaseException:
        writer.__exit__(None, None, None)
        raise
    return writer


def _check_room(store: Store, length: int | None) -> None:
    """Raise :class:`NoRoomError` for a file that the disk cannot hold."""
    if length is None:
        return
    store.prepare()
    free = shutil.disk_usage(store.root / "blobs").free
    if length > free:
        raise NoRoomError(
            f"the file has {length} bytes, but the store's disk only has room for {free}",
            hint="free some space on the server: mbuild prune",
        )


async def _receive(request: Request, writer: BlobWriter) -> None:
    pending = bytearray()
    async for piece in request.stream():
        pending += piece
        if len(pending) >= _CHUNK:
            await to_thread.run_sync(writer.write, pending)
            pending = bytearray()
    if pending:
        await to_thread.run_sync(writer.write, pending)


def _mark_existing(store: Store, digest: Digest, length: int | None) -> bool:
    """Mark a blob that is there; one of another length than is sent is damaged and sent anew."""

    def is_there() -> bool:
        size = store.blobs.size(digest)
        return size is not None and length in (None, size)

    if not is_there():
        return False
    with store.using():  # no collector runs between the mark and the second look
        if not is_there():
            return False
        store.uploads.add(digest, is_new=False)
        return True


def _commit(store: Store, writer: BlobWriter) -> bool:
    """Give an upload its name; whether it is new."""
    digest = writer.digest
    with store.using():
        is_new = store.blobs.size(digest) is None
        store.uploads.add(digest, is_new=is_new)
        blob = writer.commit()
        if blob.blake3 is not None:
            store.files.remember_alias(digest, blob.blake3)
            store.files.remember_content(blob.size, blob.blake3)
        return is_new


def sweep(store: Store) -> None:
    """Give up uploads that nothing used for a day; blocking."""
    expired = store.uploads.expire()
    if expired:
        with store.using():
            store.discard(expired)
