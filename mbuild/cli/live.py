"""The lines at the bottom of a terminal that change while something runs.

A frame is written in one piece, over the one before, and only if it differs. The
cursor rests at the beginning of the frame's first line, so that whatever a terminal
does with the lines when it is resized (xterm cuts them, tmux and others fold them
anew), erasing from the cursor to the end of the screen removes all of them and
nothing else. The cursor is never hidden: nothing has to be restored, even after
a ``kill -9``.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TextIO

# Of the libraries that know how wide a character is, this one loads in half the time of wcwidth.
from rich.cells import cell_len

from mbuild.cli.common import color_on
from mbuild.cli.rate import Rate
from mbuild.core.units import human_size, short_duration
from mbuild.core.values import NamedTuple

FRAME_SECONDS = 0.1
SHOWN_AFTER = 0.3
"""Seconds that something runs before it gets a line; what is done sooner does not flash."""

COLUMN = 8
"""Cells of the first column: a percentage here, ``done`` or ``cached`` on finished lines."""

_BAR = 24
_MIN_BAR = 6
_LABEL = 28
_MIN_LABEL = 12
_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB"), (1, "B"))


class Glyphs(NamedTuple):
    """What bars and cut texts are drawn with."""

    full: str
    half: str
    empty: str
    cut: str


LINES = Glyphs("━", "╸", "─", "…")
ASCII = Glyphs("#", "#", "-", "..")

DIM, CYAN = "2", "36"

_NO_FOLDING, _FOLDING = "\x1b[?7l", "\x1b[?7h"


class TerminalLook(NamedTuple):
    """How a terminal wants its lines: how many cells, which glyphs, with colors or not."""

    width: int
    height: int = 24
    glyphs: Glyphs = LINES
    color: bool = False

    def paint(self, text: str, code: str) -> str:
        """The text in a color or weight, where there are any."""
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and text else text


class LiveRow(NamedTuple):
    """A running step as it is shown: texts that are empty while nobody knows them.

    ``part`` is what is done, between 0 and 1; ``elapsed`` stands in its place.
    """

    label: str
    part: float | None = None
    elapsed: str = ""
    done: str = ""
    speed: str = ""
    remaining: str = ""
    note: str = ""


def row(label: str, rate: Rate, now: float, elapsed: float) -> LiveRow:
    """The row of something that has run for ``elapsed`` seconds."""
    speed, remaining = rate.speed(now), rate.remaining(now)
    return LiveRow(
        label,
        min(1.0, rate.completed / rate.total) if rate.total > 0 else None,
        short_duration(elapsed),
        done_text(rate.completed, rate.total),
        f"{human_size(speed)}/s" if speed else "",
        f"{short_duration(remaining)} left" if remaining is not None else "",
    )


def done_text(completed: int, total: int) -> str:
    """``1.2/2.3 GB``; ``1.2 GB`` while nobody knows the total, nothing before the first byte."""
    if total <= 0:
        return human_size(completed) if completed else ""
    unit, name = next(pair for pair in _UNITS if total >= pair[0])
    digits = 1 if unit > 1 and total < 10 * unit else 0
    return f"{min(completed, total) / unit:.{digits}f}/{total / unit:.{digits}f} {name}"


def frame(rows: Sequence[LiveRow], look: TerminalLook) -> list[str]:
    """The lines of a frame, each narrower than the terminal, no more than fit on it."""
    room = max(1, look.height - 1)
    if len(rows) > room:
        more = LiveRow(f"and {len(rows) - room + 1} more")
        rows = [*rows[: room - 1], more] if room > 1 else rows[:1]
    width, shape = max(1, look.width - 1), _shape(rows, look.width - 1)
    if shape is None:
        return [fit(_percent(item) or item.label, width, look.glyphs.cut) for item in rows]
    return [_line(item, shape, look) for item in rows]


class _Shape(NamedTuple):
    """Cells that each part of a frame's lines gets, the same on all of them; 0: left out."""

    label: int
    bar: int
    room: int


def _shape(rows: Sequence[LiveRow], width: int) -> _Shape | None:
    """How lines of ``width`` cells are divided; None where there is room for one column only."""
    room = width - COLUMN
    if room < 1:
        return None
    longest = max((cell_len(item.label) for item in rows), default=0)
    taken = max((_cells(_fields(item, room - _MIN_LABEL)) for item in rows), default=0)
    # A fair part for the labels, then the bar up to its limit, then the rest of the labels.
    least = min(longest, max(_LABEL, room // 3, _MIN_LABEL))
    free = room - taken - min(least, room - taken - _MIN_BAR - 2) - 2
    fits = room - taken - _MIN_BAR - 2 >= _MIN_LABEL
    bar = min(_BAR, free) if fits and any(item.part is not None for item in rows) else 0
    return _Shape(min(longest, room - taken - (bar + 2 if bar else 0)), bar, room)


def _line(item: LiveRow, shape: _Shape, look: TerminalLook) -> str:
    """One row: percentage, label, bar, bytes, speed, remaining time, as far as there is room."""
    fields = _fields(item, shape.room - _MIN_LABEL)
    label = fit(item.label, shape.label, look.glyphs.cut)
    label += " " * (shape.label - cell_len(label))
    bar = ""
    if shape.bar:
        bar = " " * shape.bar if item.part is None else _bar(item.part, shape.bar, look)
    parts = [label, bar, *fields]
    return (_percent(item).ljust(COLUMN) + "  ".join(part for part in parts if part)).rstrip()


def _percent(item: LiveRow) -> str:
    return f"{int(item.part * 100):5}%" if item.part is not None else f"{item.elapsed:>6}"


def _cells(fields: Sequence[str]) -> int:
    return sum(len(field) + 2 for field in fields)


def _fields(item: LiveRow, room: int) -> list[str]:
    """The texts behind the bar that fit, the remaining time before all others."""
    if item.note:
        return [item.note] if len(item.note) + 2 <= room else []
    widths = {"done": 10, "speed": 8, "remaining": 11}
    texts = {name: getattr(item, name).rjust(width) for name, width in widths.items()}
    kept: set[str] = set()
    for name in ("remaining", "speed", "done"):
        if len(texts[name]) + 2 <= room:
            kept.add(name)
            room -= len(texts[name]) + 2
    return [text for name, text in texts.items() if name in kept]


def _bar(part: float, width: int, look: TerminalLook) -> str:
    """A bar of ``width`` cells with halves of cells."""
    halves = int(part * width * 2)
    glyphs = look.glyphs
    full = glyphs.full * (halves // 2) + glyphs.half * (halves % 2)
    return look.paint(full, CYAN) + look.paint(glyphs.empty * (width - len(full)), DIM)


def fit(text: str, width: int, cut: str = LINES.cut) -> str:
    """A text in at most ``width`` cells: its middle goes, since names differ at their ends."""
    if cell_len(text) <= width:
        return text
    room = width - cell_len(cut)
    if room <= 0:
        return _head(text, width)
    tail = _head(text[::-1], room // 2)[::-1]
    return _head(text, room - cell_len(tail)) + cut + tail


def _head(text: str, width: int) -> str:
    """As many characters from the beginning as fit in ``width`` cells."""
    end = len(text)
    while end and cell_len(text[:end]) > width:
        end -= 1
    return text[:end]


class Live:
    """Rows at the bottom of a terminal, drawn ten times a second until it is closed.

    ``rows`` gives them, and is called by a thread of this object's own too, with
    its lock held. Permanent lines go above them through :meth:`above`.
    """

    def __init__(self, rows: Callable[[], Sequence[LiveRow]], stream: TextIO | None = None) -> None:
        self.lock = threading.RLock()
        self._rows = rows
        self._stream = stream or sys.stderr
        self._drawn: tuple[list[str], TerminalLook] = [], look_of(self._stream)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="mbuild-live", daemon=True)
        self._thread.start()

    def above(self, line: str, code: str = "") -> None:
        """Write a line that stays, above the rows; ``code`` is its color or weight."""
        with self.lock:
            self._draw(line, code)

    def close(self) -> None:
        """Erase the rows and leave the cursor where they began."""
        self._stop.set()
        with self.lock:
            if self._drawn[0]:
                self._write("\r\x1b[J")
        self._thread.join()

    def _tick(self) -> None:
        while not self._stop.wait(FRAME_SECONDS):
            with self.lock:
                if not self._stop.is_set():
                    self._draw()

    def _draw(self, above: str | None = None, code: str = "") -> None:
        """Write a line that stays and the frame below it, unless nothing differs."""
        look = look_of(self._stream)
        lines = [] if self._stop.is_set() else frame(self._rows(), look)
        if above is None and (lines, look) == self._drawn:
            return
        drawn, before = self._drawn
        text = "\r"
        if drawn and look.width != before.width:
            text += "\x1b[J"  # the terminal may have folded what is there
        if above is not None:
            text += _permanent(above, code, look)
        # A terminal that is narrower already than it says (tmux tells a quarter of a
        # second later) must not fold the frame: its lines would be more than we go up.
        if lines:
            text += _NO_FOLDING + "\n".join(line + "\x1b[K" for line in lines) + _FOLDING
        if lines or drawn:
            text += "\x1b[J\r"
        if len(lines) > 1:
            text += f"\x1b[{len(lines) - 1}A"
        self._write(text)
        self._drawn = lines, look

    def _write(self, text: str) -> None:
        # A terminal that is gone must not end a build that goes on without it.
        with suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


def _permanent(line: str, code: str, look: TerminalLook) -> str:
    """A whole line over whatever the frame had there.

    One that folds needs room first: behind the last cell of a row nothing can be
    erased without its last character.
    """
    if cell_len(line) < look.width:
        return look.paint(line, code) + "\x1b[K\n"
    return "\x1b[J" + look.paint(line, code) + "\n"


def look_of(stream: TextIO) -> TerminalLook:
    """How a stream's terminal is now: its size can change at any time."""
    columns, lines = 0, 0
    with suppress(OSError, ValueError, AttributeError):
        columns, lines = os.get_terminal_size(stream.fileno())
    return TerminalLook(
        columns or _number("COLUMNS", 80),
        lines or _number("LINES", 24),
        LINES if _can_encode(stream) else ASCII,
        color_on(stream),
    )


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() and int(text) > 0 else default


def _can_encode(stream: TextIO) -> bool:
    try:
        "".join(LINES).encode(getattr(stream, "encoding", None) or "ascii")
    except (UnicodeError, LookupError):
        return False
    return True
