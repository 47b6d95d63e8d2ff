"""Texts and tables that fit on a terminal; elsewhere they are as long as they are.

Loaded where something may not fit, so never by a build with nothing to do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len as cells

from mbuild.cli.live import fit
from mbuild.core.values import NamedTuple

_LEAST = 8
"""Cells that a text gets at least, however narrow the terminal is."""


def wrapped(text: str, width: int, indent: str = "", first: str | None = None) -> list[str]:
    """A line in as many as it needs, cut at spaces; a word that fits on no line is cut itself.

    ``first`` stands before the first line and ``indent`` before the others, both inside
    ``width`` cells; 0 is no limit.
    """
    start = indent if first is None else first
    if not width or cells(start + text) <= width:
        return [start + text]
    lines, line, filled = [], start, False
    for gap, word in _words(text):
        if filled and cells(line + gap + word) > width:
            lines.append(line)
            line, gap, filled = indent, "", False
        first_room = max(_LEAST, width - cells(line + gap))
        for piece in _pieces(word, first_room, max(_LEAST, width - cells(indent))):
            if filled and not gap:  # the rest of a word that was cut
                lines.append(line)
                line = indent
            line, gap, filled = line + gap + piece, "", True
    return [*lines, line]


def narrowed(text: str, width: int) -> str:
    """A text with each line that is too long in as many as it needs, the others under its first.

    Lines of a Modelfile that a message shows (``3 | SYSTEM ...``) stay as they are; ``width`` 0
    is no limit.
    """
    if not width or all(cells(line) <= width for line in text.split("\n")):
        return text
    lines: list[str] = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip(" ")))
        shown = re.match(r" *\d* \|", line)
        lines += [line] if shown else wrapped(line.strip(" "), width, indent + "  ", indent)
    return "\n".join(lines)


def _words(text: str) -> Iterator[tuple[str, str]]:
    """Each word with the spaces before it."""
    for found in re.finditer(r"(\s*)(\S+)", text):
        yield found[1], found[2]


def _pieces(word: str, room: int, width: int) -> Iterator[str]:
    """A word, or what fits on each line of one that is too long for any."""
    if cells(word) <= max(room, width):
        yield word
        return
    while word:
        end = len(word)
        while end > 1 and cells(word[:end]) > room:
            end -= 1
        yield word[:end]
        word, room = word[end:], width


class Column(NamedTuple):
    """A column of a table: its head, which are left out first, and whether it can be cut."""

    head: str
    drop: int = 0
    """The columns with the highest number go first where there is no room; 0 stays."""
    least: int = 0
    """Cells to which the column's texts may be cut; 0: not at all."""
    right: bool = False


def fitted(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, gap: int = 3
) -> list[str]:
    """The lines of a table with a head, within ``width`` cells where that can be; 0: no limit.

    First the gaps shrink, then columns are left out, then texts are cut in their middle.
    """
    shown = list(range(len(columns)))
    while True:
        widths = {i: max(cells(row[i]) for row in [_heads(columns), *rows]) for i in shown}
        if not width or _total(widths, gap) <= width:
            break
        gap = 2
        over = _total(widths, gap) - width
        spare = {i: widths[i] - columns[i].least for i in shown if columns[i].least}
        if over <= sum(max(0, cell) for cell in spare.values()):
            for i in spare:
                cut = min(over, max(0, spare[i]))
                widths[i], over = widths[i] - cut, over - cut
            break
        last = max(shown, key=lambda i: columns[i].drop)
        if not columns[last].drop:
            break
        shown.remove(last)
    return [
        (" " * gap).join(_cell(row[i], widths[i], columns[i]) for i in shown).rstrip()
        for row in [_heads(columns), *rows]
    ]


def _heads(columns: Sequence[Column]) -> tuple[str, ...]:
    return tuple(column.head for column in columns)


def _total(widths: dict[int, int], gap: int) -> int:
    return sum(widths.values()) + gap * (len(widths) - 1)


def _cell(text: str, width: int, column: Column) -> str:
    text = fit(text, width)
    space = " " * (width - cells(text))
    return space + text if column.right else text + space
