"""The journal of a partial download: a line ``start end`` for every part that was written.

Whoever comes after a killed pull asks only for the rest. The first line is the blob's size.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from mbuild.store.files import inherit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

JOURNAL = ".journal"
"""What its name has behind that of the file."""

_MAX_JOURNAL = 64 << 20
_LONG_JOURNAL = 4 << 20
"""Bytes of a journal after which it is written anew."""

Span = tuple[int, int]
"""Where a part of a blob begins, and where it ends (exclusive), in bytes."""


class Journal:
    """The file; its caller sees to it that one thread at a time uses it.

    ``size`` is the blob's, ``folder`` the one whose owner and rights the file gets.
    """

    def __init__(self, file: Path, size: int, folder: Path) -> None:
        self.path = file.with_name(file.name + JOURNAL)
        self._size = size
        self._folder = folder
        self._fd = -1
        self._noted = 0

    def read(self) -> list[Span]:
        """What is there by what an earlier pull wrote; nothing where that cannot be right."""
        spans: list[Span] = []
        with suppress(OSError, ValueError), self.path.open("rb") as file:
            lines = file.read(_MAX_JOURNAL).split(b"\n")
            if lines[0] == str(self._size).encode():
                for line in lines[1:-1]:  # behind the last newline a line may be cut
                    start, _, end = line.partition(b" ")
                    spans.append((int(start), int(end)))
        valid = all(0 <= start < end <= self._size for start, end in spans)
        return merged(spans) if valid else []

    def open(self, spans: Sequence[Span]) -> None:
        """Open it for what comes; ``spans`` are there."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        self._fd = os.open(self.path, flags, 0o666)
        if not spans:
            os.write(self._fd, f"{self._size}\n".encode())

    def note(self, start: int, end: int, spans: Sequence[Span]) -> None:
        """One more part is there; ``spans`` are all that are."""
        self._noted += os.write(self._fd, f"{start} {end}\n".encode())
        if self._noted > _LONG_JOURNAL:
            self._shorten(spans)

    def _shorten(self, spans: Sequence[Span]) -> None:
        """Put the same as few lines in the journal's place, in one piece."""
        lines = [f"{self._size}\n", *(f"{start} {end}\n" for start, end in spans)]
        temporary = self.path.with_name(f"tmp-{self.path.name}")
        temporary.write_text("".join(lines), encoding="ascii")
        inherit(temporary, self._folder)
        self.close()
        temporary.replace(self.path)
        self._noted = 0
        self.open(spans)

    def forget(self) -> None:
        """Nothing is there any more."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.write(self._fd, f"{self._size}\n".encode())
        else:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Close it and take its name away: nobody needs it."""
        self.close()
        self.path.unlink(missing_ok=True)


def merged(spans: list[Span]) -> list[Span]:
    """The same bytes as few spans, in order."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found
