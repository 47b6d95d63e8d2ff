"""In which order ranges of blobs are asked for: what somebody waits for first, else as they lie."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mbuild.registry.transfer.download import Download
    from mbuild.registry.transfer.partial import Span

HEADER = 1 << 20
"""Bytes of the first range of a file that is read while it comes: its header, mostly."""


class RangeQueue:
    """The ranges of some blobs that are still to be asked for; safe for many threads.

    ``early``: blobs are read while they come. Then the headers of all are first, for nothing
    can begin without them, and a range that a reader waits for goes before all others.
    """

    def __init__(self, downloads: Sequence[Download], *, early: bool) -> None:
        first = HEADER if early else 0
        self._left = [(each, span) for each in downloads for span in each.ranges(first)]
        if early:
            self._left.sort(key=lambda item: item[1][0] > 0)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many are left."""
        return len(self._left)

    def take(self) -> tuple[Download, Span]:
        """The next one; there is one for each that :meth:`__len__` counted."""
        with self._lock:
            return self._left.pop(next(self._wanted(), 0))

    def _wanted(self) -> Iterator[int]:
        """The places of ranges in which bytes lie that somebody waits for."""
        wanted = {id(each): each.partial.wanted for each, _ in self._left}
        for place, (each, (start, end)) in enumerate(self._left):
            for first, last in wanted[id(each)]:
                if start < last and first < end:
                    yield place
