"""Reading forward through a file's header with a budget: the bytes that remain.

Every length that the file claims is held against what is left of it before
anything is allocated or looped over.
"""

from __future__ import annotations

import struct
from itertools import repeat
from operator import length_hint

from mbuild.core.errors import FormatError
from mbuild.gguf.encoding import U64
from mbuild.gguf.files import FileBytes

WINDOW = 1 << 20
"""Bytes of the file that are in memory at a time."""

MAX_STRING = 16 << 20
"""Longest string in bytes; Ollama's limit too."""

DAMAGED = "the file is incomplete or damaged; download or copy it again"


class Cursor:
    """A position in a file that only moves forward and never past the end."""

    __slots__ = ("_at", "_base", "_size", "_window", "file")

    def __init__(self, file: FileBytes, window: int = WINDOW) -> None:
        self.file = file
        self._size = window
        self._window = b""
        self._base = 0  # the window's place in the file
        self._at = 0  # the position within the window

    @property
    def position(self) -> int:
        """The offset in the file of the next byte."""
        return self._base + self._at

    @property
    def remaining(self) -> int:
        """Bytes from here to the end of the file."""
        return self.file.size - self.position

    def fail(self, message: str, *, at: int | None = None, hint: str = "") -> FormatError:
        """An error at offset ``at``, by default here."""
        return self.file.error(message, self.position if at is None else at, hint=hint)

    def _truncated(self, what: str, needed: int) -> FormatError:
        return self.fail(
            f"truncated GGUF: {what} needs {needed} bytes, {self.remaining} remain",
            hint=DAMAGED,
        )

    def take(self, count: int, what: str) -> bytes:
        """The next ``count`` bytes, which the caller keeps below 16 MiB."""
        end = self._at + count
        if end > len(self._window):
            if count > self.remaining:
                raise self._truncated(what, count)
            self._refill(max(count, self._size))
            end = count
        data = self._window[self._at : end]
        self._at = end
        return data

    def _refill(self, count: int) -> None:
        self._base, self._at = self.position, 0
        self._window = self.file.read(self._base, min(count, self.file.size - self._base))

    def skip(self, count: int, what: str) -> None:
        """Pass over ``count`` bytes without reading them."""
        if count > self.remaining:
            raise self._truncated(what, count)
        self._at += count
        if self._at > len(self._window):
            self._base, self._at, self._window = self.position, 0, b""

    def u32(self, what: str) -> int:
        """The next unsigned 32-bit number."""
        return int.from_bytes(self.take(4, what), "little")

    def u64(self, what: str) -> int:
        """The next unsigned 64-bit number."""
        return int.from_bytes(self.take(8, what), "little")

    def length(self, what: str, limit: int) -> int:
        """The length of the string that follows, which lies within the file and the limit."""
        at = self.position
        length = self.u64(what)
        if length > self.remaining:
            raise self.fail(
                f"{what} claims {length} bytes, {self.remaining} remain",
                at=at,
                hint=DAMAGED,
            )
        if length > limit:
            raise self.fail(f"{what} has {length} bytes, more than {limit}", at=at)
        return length

    def string(self, what: str, limit: int) -> bytes:
        """The next string's bytes."""
        window, start = self._window, self._at + 8
        if start <= len(window):  # the common case at one call's price
            end = start + U64.unpack_from(window, self._at)[0]
            if end <= len(window) and end - start <= limit:
                self._at = end
                return window[start:end]
        return self.take(self.length(what, limit), what)

    def skip_strings(self, count: int, what: str) -> None:
        """Pass over ``count`` strings; none of them becomes an object.

        The loop does the least that finds the next length: a jump that leaves
        the window ends it, and only then, once a window, is anything checked.
        262,144 tokens take about 30 ms so.
        """
        left = count
        while left:
            at, window, unpack = self._at, self._window, U64.unpack_from
            strings = repeat(None, left)
            try:
                for _ in strings:
                    at += 8 + unpack(window, at)[0]
                left = 0
            except (struct.error, OverflowError):
                # The length at ``at`` lies outside of the window; the iterator
                # has already counted its string.
                left = length_hint(strings) + 1
            self._jump(at, what)
            if self.remaining < 8 * left:
                raise self._truncated(what, 8 * left)
            if left:
                self._refill(max(8, self._size))

    def _jump(self, at: int, what: str) -> None:
        """Move to ``at``, counted from the window's start: the end of a string."""
        beyond = at - len(self._window)
        if beyond > MAX_STRING or self._base + at > self.file.size:
            raise self._long_string(what)
        self._base, self._at = (self._base, at) if beyond <= 0 else (self._base + at, 0)
        if beyond > 0:
            self._window = b""

    def _long_string(self, what: str) -> FormatError:
        """The error for the first string from here that does not fit, found again by its length."""
        at = self._at
        while (length := U64.unpack_from(self._window, at)[0]) <= MAX_STRING:
            if self._base + at + 8 + length > self.file.size:
                break
            at += 8 + length
        return self.fail(
            f"a string of {what} claims {length} bytes; the file has {self.file.size}, "
            f"a string at most {MAX_STRING}",
            at=self._base + at,
            hint=DAMAGED,
        )
