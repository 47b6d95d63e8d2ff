"""What is known of an unfinished upload, so that the next push goes on with it."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from mbuild.core.values import NamedTuple
from mbuild.store.files import inherit, make_directories

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
    """What is known of an unfinished upload, in a file; a location may be worth a login."""

    def __init__(self, store: Store, registry: Registry, layer: Layer) -> None:
        where = f"{registry.host}/{registry.path}@{layer.digest}"
        name = _PREFIX + hashlib.sha256(where.encode()).hexdigest()
        self._path: Path = store.blobs.partial_folder / name
        self._folder = store.blobs.folder
        self._size = layer.size

    def read(self) -> Session | None:
        """The upload, as far as it was written down."""
        try:
            with self._path.open("rb") as file:
                value = json.loads(file.read(_MAX_RECORD))
            location, size = value["location"], value["size"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        same = isinstance(location, str) and size == self._size
        return Session(location, 0) if same else None

    def write(self, session: Session) -> None:
        """Keep it; a store that cannot be written does without."""
        data = json.dumps({"location": session.location, "size": self._size}).encode()
        temporary = self._path.with_name(f"tmp-{self._path.name}")
        with suppress(OSError):
            make_directories(self._path.parent)
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with open(fd, "wb") as file:
                inherit(file.fileno(), self._folder)
                file.write(data)
            temporary.replace(self._path)

    def remove(self) -> None:
        """The upload is over."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
