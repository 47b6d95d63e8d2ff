"""Where something stands, as editors count: lines, and columns in units of an encoding."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

from mbuild.core.patterns import regex

Units = Callable[[str], int]
"""How many units of an encoding a text has."""

UNITS: dict[str, Units] = {
    "utf-8": lambda text: len(text.encode("utf-8", "surrogatepass")),
    "utf-16": lambda text: len(text) + sum(char > "\uffff" for char in text),
    "utf-32": len,
}
"""The encodings that columns are counted in, by the protocol's names."""

_LINE_END = regex("\r\n|\r|\n")


class TextLines:
    """The lines of a text. They end as the protocol says: with LF, CRLF, or CR by itself."""

    def __init__(self, text: str, units: Units = UNITS["utf-16"]) -> None:
        self._text = text
        self._units = units
        self._starts = [0, *(match.end() for match in _LINE_END.finditer(text))]

    def place(self, offset: int) -> tuple[int, int]:
        """Line and column of a character, both counted from 0."""
        line = bisect_right(self._starts, offset) - 1
        return line, self._units(self._text[self._starts[line] : offset])

    def offset(self, line: int, column: int) -> int:
        """The character at a place; of a place beyond a line's end that end, and so of the text."""
        if line >= len(self._starts):
            return len(self._text)
        start = self._starts[line]
        text = self._text[start : self.end(start)]
        if len(text) <= column and self._units(text) <= column:
            return start + len(text)
        taken = 0
        for index, char in enumerate(text):
            taken += self._units(char)
            if taken > column:
                return start + index
        return start + len(text)

    def start(self, offset: int) -> int:
        """Where the line of a character begins."""
        return self._starts[bisect_right(self._starts, offset) - 1]

    def end(self, offset: int) -> int:
        """Where the line of a character ends, the line end left out."""
        match = _LINE_END.search(self._text, offset)
        return match.start() if match else len(self._text)

    def after(self, offset: int) -> int:
        """Where the line behind that of a character begins, or the end of the text."""
        match = _LINE_END.search(self._text, offset)
        return match.end() if match else len(self._text)
