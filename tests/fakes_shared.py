"""A storage of a shared cache in memory, which can break in every way that a real one can."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from typing_extensions import Buffer

from mbuild.core.digest import Digest
from mbuild.core.errors import UnreachableError
from mbuild.store.shared import StoredObject


class MemoryStorage:
    """Objects in a dict. ``asked`` has the calls, ``dead`` refuses them all.

    Without ``can_lease`` a name is created whoever has it, as plain HTTP does it.
    """

    def __init__(self, *, can_lease: bool = True) -> None:
        self.held: dict[str, bytes] = {}
        self.written: list[str] = []
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.dead = False
        self.can_lease = can_lease
        self.any_digest = True
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        """Nowhere."""
        return "memory://test"

    def _ask(self, what: str, names: Collection[str]) -> None:
        self.asked.append((what, tuple(names)))
        if self.dead:
            raise UnreachableError("memory://test does not answer: Connection refused")

    def read_many(self, names: Collection[str]) -> dict[str, bytes]:
        """What is there."""
        self._ask("read", names)
        return {name: self.held[name] for name in names if name in self.held}

    def read_range(self, name: str, offset: int, size: int) -> bytes | None:
        """Some bytes."""
        self._ask("range", [name])
        data = self.held.get(name)
        return None if data is None else data[offset : offset + size]

    def stream(self, name: str, size: int) -> Iterator[bytes]:
        """The bytes, in pieces."""
        self._ask("stream", [name])
        data = self.held.get(name, b"")
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """How many bytes."""
        self._ask("sizes", names)
        return {name: len(self.held[name]) for name in names if name in self.held}

    def write_many(
        self, objects: Mapping[str, Buffer], blobs: Mapping[str, Mapping[Digest, int]] = {}
    ) -> None:
        """Write."""
        self._ask("write", objects)
        for name, data in objects.items():
            self.written.append(name)
            self.held[name] = bytes(data)

    def create(self, name: str, data: bytes) -> bool:
        """Write if nothing is there."""
        self._ask("create", [name])
        with self._lock:
            if name in self.held and self.can_lease:
                return False
            self.held[name] = data
            return True

    def upload(self, name: str, path: Path, report: Callable[[int], object]) -> None:
        """Write a file."""
        self._ask("upload", [name])
        self.written.append(name)
        self.held[name] = path.read_bytes()
        report(len(self.held[name]))

    def remove(self, names: Collection[str]) -> None:
        """Remove."""
        self._ask("remove", names)
        for name in names:
            self.held.pop(name, None)

    def objects(self) -> Iterator[StoredObject]:
        """Everything."""
        self._ask("list", [])
        for name, data in list(self.held.items()):
            yield StoredObject(name, len(data), time.time())

    def close(self) -> None:
        """Nothing is open."""
