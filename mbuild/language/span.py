"""Where something stands in a Modelfile: light, because a build with nothing to do reads it too."""

from __future__ import annotations

from mbuild.core.values import NamedTuple


class Span(NamedTuple):
    """Where something stands in the decoded text.

    ``line`` and ``column`` count from 1, columns in characters, and a CRLF is one
    line end, as editors have it. ``start`` and ``end`` are character offsets from
    0, ``end`` exclusive, the newline that ends the value left out. ``value`` is
    the offset of an instruction's value (of its opening quote, if it has one), on
    the same line as ``start``; ``last_line`` is the line that the value ends on
    (0: not known).
    """

    line: int
    column: int
    start: int
    end: int
    value: int
    last_line: int = 0

    def part(self, start: int, end: int) -> Span:
        """The part between two offsets, of which ``start`` is on this span's first line."""
        return Span(self.line, self.column + start - self.start, start, end, start, self.last_line)
