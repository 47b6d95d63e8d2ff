"""Tables that take longer to make than to read: kept for this user, and carried by the wheel."""

from __future__ import annotations

import hashlib
import marshal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from mbuild.core.errors import UsageError
from mbuild.core.owned import kept_folder, read_own, write_own

CARRIED = Path(__file__).parent / "tables"
"""Where the wheel for Linux has the tables of the Python and the packages that it was made with."""

_DIGEST = hashlib.sha256().digest_size
_FORMAT = 2  # of marshal: later ones write twice what is one object, which depends on the process


class KeptTable:
    """A table of plain values, by a key of all that it is made of.

    It is kept in ``marshal``'s form, which belongs to one version of Python: the key has to name
    it. What is damaged, or of another key, counts as not there.
    """

    def __init__(self, folder: str, key: bytes) -> None:
        """``folder`` is where this user's are, among what is kept; ``key`` is a digest."""
        self._key = key
        self._name = f"{key.hex()[:32]}.tables"
        self._folder: Path | None = None
        with suppress(RuntimeError, UsageError):  # no home directory is known
            self._folder = kept_folder(folder)

    def read(self) -> Any:
        """The table, as :meth:`keep` was given it; None where there is none that is sound."""
        for content in self._contents():
            if self._digest(content[_DIGEST:]) == content[:_DIGEST]:
                return marshal.loads(content[_DIGEST:])
        return None

    def _contents(self) -> Iterator[bytes]:
        """What may be it: that which came with mbuild, then that of this user."""
        with suppress(OSError):
            yield (CARRIED / self._name).read_bytes()
        if self._folder and (kept := read_own(self._folder, self._name)):
            yield kept

    def keep(self, table: Any) -> None:
        """Keep it, where that can be done."""
        content = marshal.dumps(table, _FORMAT)
        if self._folder:
            write_own(self._folder, self._name, self._digest(content) + content)

    def _digest(self, content: bytes) -> bytes:
        return hashlib.sha256(self._key + content).digest()
