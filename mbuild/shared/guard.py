"""A storage that may fail: asked while it answers, given up with one warning when it does not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, TypeVar

from mbuild.core.errors import DeniedError, MbuildError, RegistryError, UnreachableError

if TYPE_CHECKING:
    from mbuild.store.shared import SharedStorage

ValueT = TypeVar("ValueT")

Warn = Callable[[str], object]

FIRST_SECONDS = 20.0
"""How long the first answer may take: libraries try for minutes where nobody is there."""


class Guard:
    """One storage, and whether it still answers. Safe for many threads."""

    def __init__(self, storage: SharedStorage, warn: Warn) -> None:
        self.storage = storage
        self.reads = True
        self.writes = True
        self._answered = False
        self._warn = warn
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        """What messages call it."""
        return self.storage.place

    def read_many(self, names: Collection[str]) -> dict[str, bytes]:
        """The small objects that are there."""
        none: dict[str, bytes] = {}
        return self.ask(lambda storage: self._soon(lambda: storage.read_many(names)), none)

    def read_range(self, name: str, offset: int, size: int) -> bytes | None:
        """Some bytes of an object, if it is there."""
        none: bytes | None = None
        return self.ask(lambda storage: storage.read_range(name, offset, size), none)

    def sizes(self, names: Collection[str]) -> dict[str, int]:
        """How large the objects are that are there."""
        none: dict[str, int] = {}
        return self.ask(lambda storage: self._soon(lambda: storage.sizes(names)), none)

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
            self.write_no_more(error)
        except RegistryError as error:
            self._fails(error)
        return otherwise

    def write_no_more(self, error: MbuildError) -> None:
        """Do without writing from now on, because of an error; who may not write may still read."""
        with self._lock:
            told, self.writes = not self.writes, False
        if not told:
            self._say(f"nothing is put into the cache {self.place}", error)

    def _soon(self, ask: Callable[[], ValueT]) -> ValueT:
        """Ask; the first answer has to come soon, whatever libraries and drives wait for."""
        if self._answered:
            return ask()
        from mbuild.work.beside import in_time

        try:
            value = in_time(ask, FIRST_SECONDS, "mbuild-shared")
        except TimeoutError:
            raise UnreachableError(
                f"{self.place} has not answered for {FIRST_SECONDS:.0f} seconds"
            ) from None
        self._answered = True
        return value

    def _fails(self, error: RegistryError) -> None:
        with self._lock:
            told = not self.reads
            self.reads = self.writes = False
        if not told:
            self._say(f"continuing without the cache {self.place}", error)

    def _say(self, what: str, error: MbuildError) -> None:
        hint = f"; {error.hint}" if error.hint else ""
        self._warn(f"{what}: {error.message}{hint}")
