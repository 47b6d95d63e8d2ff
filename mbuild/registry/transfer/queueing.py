"""In which order ranges of blobs are asked for: what somebody waits for first, then what follows.

Readers go through a file mostly from one place on, and not from its beginning: the output matrix of
a model comes first in the file that is made, and last in the checkpoint. So all connections bring
what follows the bytes that somebody waited for last. In the order of the file half of
them would bring what nobody needs yet, while the work waits.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mbuild.registry.transfer.download import Download
    from mbuild.registry.transfer.journal import Span

HEADER = 1 << 20
"""Bytes of the first range of a file that is read while it comes: its header, mostly."""


class RangeQueue:
    """The ranges of some blobs that are still to be asked for; safe for many threads.

    ``early``: blobs are read while they come. Then the headers of all are first, for nothing
    can begin without them, and a range that a reader waits for goes before all others; after it
    come those that lie behind it, and at the end of them the first that is left.
    """

    def __init__(self, downloads: Sequence[Download], *, early: bool) -> None:
        first = HEADER if early else 0
        spans = [(each, span) for each in downloads for span in each.ranges(first)]
        if early:
            spans.sort(key=lambda item: item[1][0] > 0)
        self._left = [(number, *item) for number, item in enumerate(spans)]
        self._last = -1  # the number of the range that was taken last because of a reader
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many are left."""
        return len(self._left)

    def take(self) -> tuple[Download, Span]:
        """The next one; there is one for each that :meth:`__len__` counted."""
        with self._lock:
            place = next(self._wanted(), None)
            if place is None:
                place = self._following()
            else:
                self._last = self._left[place][0]
            _, download, span = self._left.pop(place)
            return download, span

    def _following(self) -> int:
        """The place of the next range behind what a reader waited for, else of the first."""
        place = bisect_right(self._left, self._last, key=lambda item: item[0])
        return place if place < len(self._left) else 0

    def _wanted(self) -> Iterator[int]:
        """The places of ranges in which bytes lie that somebody waits for."""
        wanted = {id(each): each.partial.wanted for _, each, _ in self._left}
        for place, (_, each, (start, end)) in enumerate(self._left):
            for first, last in wanted[id(each)]:
                if start < last and first < end:
                    yield place
