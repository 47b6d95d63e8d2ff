"""Files that are read while they arrive: whoever reads a stretch waits until it is there.

A download step tells of the files that it began; steps that can work on parts start then, and end
only once each file is whole and has its digest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from mbuild.gguf.files import Arriving

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.core.digest import Digest
    from mbuild.registry.transfer.partial import PartialBlob

_SECONDS = 0.02

Check = Callable[[], object]
"""Raises when the build was stopped, also by the download's own failure."""


class Arrival:
    """One file on its way: safe for many threads."""

    def __init__(self, partial: PartialBlob) -> None:
        self._partial = partial
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
            while self._digest is None and self._partial.missing(start, stop):
                check()
                time.sleep(_SECONDS)

        return Arriving(wait)

    def result(self, check: Check) -> Digest:
        """Wait for the end; the BLAKE3 of the whole file. Of a failure ``check`` hears."""
        while self._digest is None:
            check()
            time.sleep(_SECONDS)
        return self._digest
