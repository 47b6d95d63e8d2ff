"""What is known of an unfinished upload, so that the next push goes on with it."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from mbuild.core.values import NamedTuple
from mbuild.store.files import inherit, make_directories
from mbuild.store.locks import try_hold

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.registry.client.registry import Registry
    from mbuild.store import Layer, Store

_PREFIX = "push-"
_MAX_RECORD = 64 << 10


class Session(NamedTuple):
    """An upload that a registry has begun: where the next bytes go, and how many it has."""

    location: str
    offset: int


class UploadRecord:
    """What is known of an unfinished upload, in a file; a location may be worth a login.

    One push at a time has the file, from the first look at it until :meth:`release`: two that
    went on with the same upload would send the same bytes. Others have theirs in memory.
    """

    def __init__(self, store: Store, registry: Registry, layer: Layer) -> None:
        where = f"{registry.host}/{registry.path}@{layer.digest}"
        name = _PREFIX + hashlib.sha256(where.encode()).hexdigest()
        self._path: Path = store.blobs.partial_folder / name
        self._folder = store.blobs.folder
        self._size = layer.size
        self._fd = -1
        self._length = 0
        self._own: Session | None = None

    def read(self) -> Session | None:
        """The upload, as far as it was written down."""
        if self._own is not None:
            return self._own
        try:
            if not self._held():
                return None
            os.lseek(self._fd, 0, os.SEEK_SET)
            value = json.loads(os.read(self._fd, _MAX_RECORD))
            location, size = value["location"], value["size"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        same = isinstance(location, str) and size == self._size
        return Session(location, 0) if same else None

    def write(self, session: Session) -> None:
        """Keep it; where the store cannot be written, until the end of this push."""
        self._own = session
        data = json.dumps({"location": session.location, "size": self._size}).encode()
        with suppress(OSError):
            if self._held():
                # One call, and blanks over what was longer: a kill leaves the old or the new.
                self._length = max(self._length, len(data))
                os.lseek(self._fd, 0, os.SEEK_SET)
                os.write(self._fd, data.ljust(self._length))

    def remove(self) -> None:
        """The upload is over; that of another push is not touched."""
        if self._fd >= 0:
            with suppress(OSError):
                os.ftruncate(self._fd, 0)
                self._length = 0
        self.release()

    def drop(self) -> None:
        """The blob is there some other way: nobody goes on with an upload of it."""
        with suppress(OSError):
            if self._path.exists() and self._held():
                self.remove()

    def release(self) -> None:
        """Leave the record to the next push; one that says nothing is removed."""
        self._own = None
        if self._fd >= 0:
            if not self._length:
                with suppress(OSError):
                    self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd, self._length = -1, 0

    def _held(self) -> bool:
        """Take the file unless it is taken; False while another push has it."""
        if self._fd < 0:
            make_directories(self._path.parent)
            flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)
            # A pipe that somebody put there must not be waited for, and a link not followed.
            flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            fd = os.open(self._path, flags, 0o600)
            if not try_hold(self._path, fd):
                os.close(fd)
                return False
            self._fd, self._length = fd, min(os.fstat(fd).st_size, _MAX_RECORD)
            inherit(fd, self._folder)
        return True
