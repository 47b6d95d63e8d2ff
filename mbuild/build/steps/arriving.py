"""Files that are read while they arrive: whoever reads a stretch waits until it is there.

A download step tells of the files that it began; steps that can work on parts start then, and end
only once each file is whole and has its digest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mbuild.gguf.files import Arriving

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.core.digest import Digest
    from mbuild.registry.transfer.partial import PartialBlob

_SECONDS = 0.02

Check = Callable[[], object]
"""Raises when the build was stopped, also by the download's own failure."""


class Readers:
    """Those who read the files of one download while they arrive."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting = 0
        self._come = False

    def begin(self) -> None:
        """One has come."""
        self._come = True

    @property
    def are_busy(self) -> bool:
        """Whether somebody reads and nobody waits: all have what they need for now."""
        return self._come and not self._waiting

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While one of them waits for something that has not arrived."""
        with self._lock:
            self._waiting += 1
        try:
            yield
        finally:
            with self._lock:
                self._waiting -= 1


class Arrival:
    """One file on its way: safe for many threads."""

    def __init__(self, partial: PartialBlob, readers: Readers | None = None) -> None:
        self._partial = partial
        self._readers = readers or Readers()
        self._digest: Digest | None = None

    @property
    def path(self) -> Path:
        """Where the unfinished file lies; its name is another one once it is whole."""
        return self._partial.path

    def ends(self, digest: Digest) -> None:
        """The file is whole and has the SHA-256 that it was to have; this is its BLAKE3."""
        self._digest = digest

    def reader(self, check: Check) -> Arriving:
        """What has readers of a stretch of bytes wait for it."""

        def wait(start: int, stop: int) -> None:
            self._partial.check(start, stop)
            if self._is_missing(start, stop):
                with self._readers.waiting(), self._partial.wanting(start, stop):
                    while self._is_missing(start, stop):
                        check()
                        time.sleep(_SECONDS)

        self._readers.begin()
        return Arriving(wait, self._partial.used)

    def _is_missing(self, start: int, stop: int) -> bool:
        return self._digest is None and bool(self._partial.missing(start, stop))

    def result(self, check: Check) -> Digest:
        """Wait for the end; the BLAKE3 of the whole file. Of a failure ``check`` hears."""
        with self._readers.waiting():
            while self._digest is None:
                check()
                time.sleep(_SECONDS)
        return self._digest

    def release(self) -> None:
        """The build is over: nobody reads it any more."""
        self._partial.release()
