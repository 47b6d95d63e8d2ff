"""A storage that may fail: asked while it answers, given up with one warning when it does not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, TypeVar

from mbuild.core.errors import DeniedError, RegistryError

if TYPE_CHECKING:
    from mbuild.store.shared import SharedStorage

ValueT = TypeVar("ValueT")

Warn = Callable[[str], object]


class Guard:
    """One storage, and whether it still answers. Safe for many threads."""

    def __init__(self, storage: SharedStorage, warn: Warn) -> None:
        self.storage = storage
        self.reads = True
        self.writes = True
        self._warn = warn
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        """What messages call it."""
        return self.storage.place

    def read_many(self, names: Collection[str]) -> dict[str, bytes]:
        """The small objects that are there."""
        return self.ask(lambda storage: storage.read_many(names), dict[str, bytes]())

    def read_range(self, name: str, offset: int, size: int) -> bytes | None:
        """Some bytes of an object, if it is there."""
        none: bytes | None = None
        return self.ask(lambda storage: storage.read_range(name, offset, size), none)

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """How large the objects are that are there."""
        return self.ask(lambda storage: storage.sizes(names), dict[str, int]())

    def ask(self, question: Callable[[SharedStorage], ValueT], otherwise: ValueT) -> ValueT:
        """What the storage answers; ``otherwise`` once it has failed."""
        if not self.reads:
            return otherwise
        try:
            return question(self.storage)
        except RegistryError as error:
            self._fails(error)
            return otherwise

    def tell(self, order: Callable[[SharedStorage], ValueT], otherwise: ValueT) -> ValueT:
        """As :meth:`ask` of what is written; who may not write may still read."""
        if not (self.reads and self.writes):
            return otherwise
        try:
            return order(self.storage)
        except DeniedError as error:
            with self._lock:
                told, self.writes = not self.writes, False
            if not told:
                self._say(f"nothing is put into the cache {self.place}", error)
        except RegistryError as error:
            self._fails(error)
        return otherwise

    def _fails(self, error: RegistryError) -> None:
        with self._lock:
            told = not self.reads
            self.reads = self.writes = False
        if not told:
            self._say(f"continuing without the cache {self.place}", error)

    def _say(self, what: str, error: RegistryError) -> None:
        hint = f"; {error.hint}" if error.hint else ""
        self._warn(f"{what}: {error.message}{hint}")
