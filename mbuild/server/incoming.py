"""The unfinished uploads of a registry: what has arrived of each blob."""

from __future__ import annotations

import asyncio
import time
import uuid
from functools import partial
from typing import TYPE_CHECKING

from anyio import to_thread

from mbuild.core.errors import BusyError
from mbuild.server.errors import NoUploadError

if TYPE_CHECKING:
    from mbuild.store import Store
    from mbuild.store.writing import BlobWriter

MAX_UPLOADS = 64
"""Uploads that may be unfinished at once; each holds a file and some memory."""

IDLE_SECONDS = 3600.0
"""An upload to which nothing came for so long is given up."""


class Incoming:
    """One upload: what has arrived of a blob, taken by one request at a time."""

    def __init__(self, writer: BlobWriter) -> None:
        self.writer = writer
        self.lock = asyncio.Lock()
        self.moved = time.monotonic()


class Pushes:
    """The unfinished uploads of a server, by their names; only the event loop touches them."""

    def __init__(self) -> None:
        self._by_name: dict[str, Incoming] = {}

    async def begin(self, store: Store) -> str:
        """A new upload; raises :class:`BusyError` where there are too many."""
        self.expire()
        if len(self._by_name) >= MAX_UPLOADS:
            raise BusyError("too many uploads are unfinished", hint="try again later")
        name = uuid.uuid4().hex
        writer = await to_thread.run_sync(partial(store.blobs.writer, twice=True))
        self._by_name[name] = Incoming(writer)
        return name

    def find(self, name: str) -> Incoming:
        """An upload by its name; raises :class:`NoUploadError`."""
        found = self._by_name.get(name)
        if found is None:
            raise NoUploadError("blob upload unknown to registry")
        found.moved = time.monotonic()
        return found

    def end(self, name: str) -> None:
        """Forget an upload, and what is not committed of it."""
        found = self._by_name.pop(name, None)
        if found is not None:
            found.writer.__exit__(None, None, None)

    def expire(self, idle: float = IDLE_SECONDS) -> None:
        """Give up the uploads that nobody goes on with."""
        late = time.monotonic() - idle
        for name, found in list(self._by_name.items()):
            if found.moved < late and not found.lock.locked():
                self.end(name)
