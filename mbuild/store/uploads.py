"""Uploaded blobs that no model uses yet: kept for a day, as empty files in ``uploads/``.

A client sends a blob first and names it in a later request. Until then no
manifest vouches for it, so each upload leaves a mark, and a collector spares
what is marked. The mark's modification time is when the blob was sent or last
asked for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from mbuild.core.digest import Digest, DigestError
from mbuild.core.values import NamedTuple
from mbuild.store.files import inherit, make_directories, store_errors

if TYPE_CHECKING:
    from pathlib import Path

LIFETIME = 24 * 3600.0
"""Seconds for which an upload that nothing uses is kept."""

_NEW, _AGAIN = "new", "again"


class _Mark(NamedTuple):
    digest: Digest
    path: str
    is_new: bool
    age: float


class Uploads:
    """The folder of marks: one file for each upload, so that two clients have two."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, digest: Digest, *, is_new: bool) -> None:
        """Mark an upload; ``is_new``: the store did not have the blob before.

        The caller holds the store's lock (:meth:`Store.begin`) from here until
        it knows that the blob is there.
        """
        kind = _NEW if is_new else _AGAIN
        with store_errors("marking an upload"):
            make_directories(self._folder)
            name = f"{digest.filename}.{kind}.{os.urandom(6).hex()}"
            fd = os.open(self._folder / name, os.O_CREAT | os.O_WRONLY, 0o666)
            inherit(fd, self._folder)
            os.close(fd)

    def refresh(self, digest: Digest) -> None:
        """Somebody asked whether the blob is there: its marks last another day."""
        for mark in self._marks():
            if mark.digest == digest:
                with suppress(OSError):
                    os.utime(mark.path)

    def held(self) -> dict[Digest, bool]:
        """The marked blobs, and whether their upload brought them into the store."""
        found: dict[Digest, bool] = {}
        for mark in self._marks():
            if mark.age < LIFETIME:
                found[mark.digest] = found.get(mark.digest, False) or mark.is_new
        return found

    def settle(self, digests: Iterable[Digest]) -> None:
        """These blobs are in a model now: one mark of each goes, the one that brought it first."""
        wanted = set(digests)
        for mark in sorted(self._marks(), key=lambda mark: not mark.is_new):
            if mark.digest in wanted:
                wanted.remove(mark.digest)
                _unlink(mark.path)

    def expire(self) -> set[Digest]:
        """Remove marks older than a day; returns the blobs that lost their last one."""
        lost: set[Digest] = set()
        kept: set[Digest] = set()
        for mark in self._marks():
            if mark.age < LIFETIME:
                kept.add(mark.digest)
            else:
                _unlink(mark.path)
                lost.add(mark.digest)
        return lost - kept

    def _marks(self) -> Iterator[_Mark]:
        now = time.time()
        try:
            entries = list(os.scandir(self._folder))
        except OSError:
            return
        for entry in entries:
            name, _, rest = entry.name.partition(".")
            with suppress(DigestError, OSError):
                # A clock that went back must not keep a mark for ever.
                age = abs(now - entry.stat().st_mtime)
                yield _Mark(Digest.parse(name), entry.path, rest.startswith(_NEW), age)


def _unlink(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)
