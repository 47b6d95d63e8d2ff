"""``/cache/`` with ``--cache DIR``: a shared cache for a team, in bazel-remote's layout.

``/cas/SHA256`` takes only bytes that have that SHA-256. ``/ac/KEY`` takes anything small under 64
hexadecimal digits; with ``If-None-Match: *`` only the first one: so builds have leases.
What the folder holds ``/objects`` tells, which ``mbuild cache du`` and ``prune`` read.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from anyio import to_thread
from starlette.responses import Response, StreamingResponse

from mbuild.core.digest import Digest
from mbuild.core.errors import RegistryError, StoreError
from mbuild.core.patterns import regex
from mbuild.server.distribution import BlobResponse
from mbuild.server.errors import BadDigestError, NoBlobError
from mbuild.server.requests import TooLargeError
from mbuild.shared.folder import FolderStorage
from mbuild.shared.naming import SERVED, blob_name
from mbuild.shared.web import LISTING_TYPE
from mbuild.store.files import write_all
from mbuild.store.shared import LARGEST_SMALL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from starlette.requests import Request

    from mbuild.server.service import Service

ValueT = TypeVar("ValueT")

_BYTES = "application/octet-stream"
_DIGITS = regex("[0-9a-f]{64}")
_CHUNK = 1 << 20
_LINES_AT_ONCE = 500


async def get(service: Service, request: Request) -> Response:
    """An object's bytes, or a range of them."""
    storage, name = _asked(service, request)
    found = await to_thread.run_sync(_opened, storage.path(name))
    if found is None:
        raise NoBlobError("the cache has no such object")
    path, info = found
    return BlobResponse(path, media_type=_BYTES, stat_result=info)


async def put_record(service: Service, request: Request) -> Response:
    """A small object: 201, or 412 where ``If-None-Match: *`` finds one."""
    storage, name = _asked(service, request)
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > LARGEST_SMALL:
            raise TooLargeError(f"an object below /cache/ac has at most {LARGEST_SMALL} bytes")
    if request.headers.get("if-none-match", "").strip() == "*":
        made = await _stored(lambda: storage.create(name, bytes(data)))
        return Response(status_code=201 if made else 412)
    await _stored(lambda: storage.write_many({name: bytes(data)}))
    return Response(status_code=201)


async def put_blob(service: Service, request: Request) -> Response:
    """Bytes by their SHA-256; 400 for others."""
    storage, name = _asked(service, request)
    digest, pending = hashlib.sha256(), bytearray()
    with storage.temporary(name) as (temporary, target):
        fd = await to_thread.run_sync(
            lambda: os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        )

        def write() -> None:
            digest.update(pending)
            write_all(fd, bytes(pending))
            pending.clear()

        try:
            async for piece in request.stream():
                pending += piece
                if len(pending) >= _CHUNK:
                    await to_thread.run_sync(write)
            await to_thread.run_sync(write)
            if name != blob_name(Digest(digest.hexdigest())):
                raise BadDigestError("the bytes have a different SHA-256 from the one in the path")
            await to_thread.run_sync(os.fsync, fd)
        finally:
            os.close(fd)
        await to_thread.run_sync(os.replace, temporary, target)
    return Response(status_code=201)


async def listing(service: Service, request: Request) -> Response:
    """Every object: its name, its bytes, when it was written; a JSON line each."""
    storage = _cache(service)
    await to_thread.run_sync(storage.sizes, ())  # a folder that is gone is an error, not a line
    return StreamingResponse(_lines(storage), media_type=LISTING_TYPE)


def _lines(storage: FolderStorage) -> Iterator[bytes]:
    """The lines, some hundred together; made in a thread as they are sent."""
    lines: list[str] = []
    for found in storage.objects():
        lines.append(json.dumps([*found]) + "\n")
        if len(lines) == _LINES_AT_ONCE:
            yield "".join(lines).encode()
            lines.clear()
    yield "".join(lines).encode()


async def remove(service: Service, request: Request) -> Response:
    """Remove an object: a lease that is over, or what ``mbuild cache prune`` finds old."""
    storage, name = _asked(service, request)
    await _stored(lambda: storage.remove([name]))
    return Response(status_code=204)


def _asked(service: Service, request: Request) -> tuple[FolderStorage, str]:
    """The folder, and the object that a path names there."""
    storage = _cache(service)
    digits = request.path_params["key"]
    if not _DIGITS.fullmatch(digits):
        raise NoBlobError("an object of the cache is named by 64 hexadecimal digits")
    if "/cas/" in request.url.path:
        return storage, blob_name(Digest(digits))
    return storage, f"{SERVED}/{digits}"


def _cache(service: Service) -> FolderStorage:
    if service.cache is None:
        raise NoBlobError(
            "this server has no shared cache", hint="its operator can start it with --cache DIR"
        )
    return service.cache


def _opened(path: Path) -> tuple[Path, os.stat_result] | None:
    try:
        info = path.lstat()  # a link may lead to any file of this machine
    except OSError:
        return None
    return (path, info) if stat.S_ISREG(info.st_mode) else None


async def _stored(work: Callable[[], ValueT]) -> ValueT:
    """Do something with the folder; a full disk is this server's failure."""
    try:
        return await to_thread.run_sync(work)
    except RegistryError as error:
        raise StoreError(error.message, hint=error.hint) from None
