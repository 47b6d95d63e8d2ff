"""A blob that is read while it comes and not kept: what was read gives its room back.

The file is as that of any blob that arrives, so a reader may go to any place in it. Bytes that
were digested and read are cut out of it (a hole takes no room), and nothing has them any more: a
second reading of them is an error, never zeros. So such a download begins anew after it was cut
off by a kill, where the others go on.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import SourceError
from mbuild.core.system import make_hole
from mbuild.registry.transfer.journal import Span, merged
from mbuild.registry.transfer.partial import PartialBlob
from mbuild.store.manifest import Blob

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.store.blobs import Blobs

LEAST_READ = 64 << 10
"""Bytes of the smallest reading that counts: what is small is kept, for it may be read again."""

LEAST_HOLE = 1 << 20
"""Bytes that are given back at once at least."""

_BLOCK = 4096  # of file systems: less than a block cannot be given back


class PassingBlob(PartialBlob):
    """A blob that passes through the disk; safe for many threads."""

    def __init__(self, blobs: Blobs, digest: Digest, size: int, *, twice: bool = True) -> None:
        """As :class:`PartialBlob`."""
        super().__init__(blobs, digest, size, twice=twice)
        self._used: list[Span] = []
        self._gone: list[Span] = []
        self._own = -1

    @property
    def path(self) -> Path:
        """Where the file can be opened until :meth:`release`, also once its name is gone."""
        return self._path if self._own < 0 else type(self._path)(f"/proc/self/fd/{self._own}")

    @property
    def ahead(self) -> int:
        """Bytes that arrived and that nobody has read."""
        with self._lock:
            used = sum(end - start for start, end in self._used)
            return sum(end - start for start, end in self._spans) - used

    def begin(self) -> None:
        """Begin without a journal: what is cut out of the file cannot be gone on with."""
        super().begin()
        self._journal.remove()
        assert self._file is not None
        self._own = os.dup(self._file.fd)

    def note(self, start: int, end: int) -> None:
        """These bytes are written."""
        with self._lock:
            self._spans = merged([*self._spans, (start, end)])

    def _flush(self) -> None:
        """The disk need not have what is not kept."""

    def advance(self) -> None:
        """Digest what is there without a gap before it, and give back what was read of that."""
        super().advance()
        self._give_back()

    def used(self, start: int, end: int) -> None:
        """These bytes were read; raises as :meth:`check` if they were gone by then."""
        self.check(start, end)
        if end - start >= LEAST_READ:
            with self._lock:
                self._used = merged([*self._used, (start, end)])
            self._give_back()

    def check(self, start: int, end: int) -> None:
        """Raise :class:`SourceError` for bytes that were read before and are gone."""
        with self._lock:
            gone = any(first < end and start < last for first, last in self._gone)
        if gone:
            raise SourceError(
                f"weights were needed a second time that --no-keep-source no longer has:"
                f" bytes {start} to {end} of {self.digest}",
                hint="build without --no-keep-source",
            )

    def _give_back(self) -> None:
        """Cut out what was digested and read, in pieces that are worth it."""
        with self._lock:
            todo = list(self._holes())
            self._gone = merged([*self._gone, *todo])  # before: no reader may meet zeros
            own = self._own
        for start, end in todo:
            make_hole(own, start, end)

    def _holes(self) -> list[Span]:
        """What can be given back now; the caller has the lock."""
        found = []
        for first, last in self._used:
            at, end = -(-first // _BLOCK) * _BLOCK, min(last, self._hashed) // _BLOCK * _BLOCK
            for start, stop in self._gone:
                if start <= at < stop:
                    at = stop
            if end - at >= LEAST_HOLE:
                found.append((at, end))
        return found if self._own >= 0 else []

    def finish(self) -> Blob:
        """The blob, which nobody keeps; raises :class:`OtherBytesError` as that of any does."""
        found = self._whole()
        blob = Blob(found, self.size, existed=False)
        if self._other is None:
            return blob
        return blob._replace(blake3=Digest(self._other.hexdigest(), BLAKE3))

    def leave(self) -> None:
        """Take the file's name away; whoever has it open can go on reading."""
        self.discard()

    def release(self) -> None:
        """Nobody reads it any more: its room is free."""
        with self._lock:
            own, self._own = self._own, -1
        if own >= 0:
            os.close(own)
