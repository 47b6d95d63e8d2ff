"""A build on a terminal: a row for each running step, and what is finished above them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from mbuild.cli.common import color_on, columns_of, printable
from mbuild.cli.wording import effort, line_of, model_text, summary, why_lines
from mbuild.core.events import (
    BuildEvent,
    BuildFinished,
    Code,
    Explained,
    ModelBuilt,
    Replaced,
    Status,
    StepFinished,
    StepProgress,
    StepStarted,
    Value,
    Warned,
)

if TYPE_CHECKING:
    from mbuild.cli.live import Live, LiveRow
    from mbuild.cli.rate import Rate

_INDENT = 8

_DIM, _BOLD, _YELLOW = "2", "1", "33"

_TOLD_BY_ROWS = frozenset(
    (Code.PARSING_GGUF, Code.CONVERTING_MODEL, Code.CONVERTING_ADAPTER, Code.QUANTIZING)
)
"""What a running step's row says already."""


class Terminal:
    """A row for each running step, what is finished above them, and a total at the end."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._live: Live | None = None
        self._running: dict[int, tuple[StepStarted, float, Rate]] = {}
        self._said: set[tuple[Code, tuple[tuple[str, Value], ...]]] = set()

    def show(self, event: BuildEvent) -> None:
        """Write what there is to write about an event."""
        match event:
            case StepStarted():
                self._start(event)
            case StepProgress(step, completed=completed, total=total) if step in self._running:
                assert self._live is not None
                with self._live.lock:
                    self._running[step][2].update(self._clock(), completed, total)
            case StepFinished():
                self._finish(event)
            case Warned():
                self._write(str(line_of(event)), _YELLOW)
            case Status():
                self._status(event)
            case Replaced():
                self._write(" " * _INDENT + str(line_of(event)), _DIM)
            case ModelBuilt():
                self._write(f"{'model':<{_INDENT}}{model_text(event)}")
            case Explained(steps):
                for line in why_lines(steps):
                    self._write(f"{'why':<{_INDENT}}{printable(line)}", _DIM)
            case BuildFinished():
                self.close()
                self._write(summary(event), _BOLD, indent="")

    def close(self) -> None:
        """Take the rows away; the cursor stands where they began."""
        if self._live is not None:
            self._live.close()
            self._live = None

    def _start(self, event: StepStarted) -> None:
        from mbuild.cli.live import Live
        from mbuild.cli.rate import Rate

        if self._live is None:
            self._live = Live(self._rows)
        with self._live.lock:
            self._running[event.step] = event, self._clock(), Rate()

    def _finish(self, event: StepFinished) -> None:
        if self._live is not None:
            with self._live.lock:
                self._running.pop(event.step, None)
        word, code = ("cached", _DIM) if event.cached else ("done", "")
        facts = ", ".join(effort(event))
        line = f"{word:<{_INDENT}}{printable(event.label)}{'  ' if facts else ''}{facts}"
        self._write(line, code)

    def _status(self, event: Status) -> None:
        """Each once, unless a row says it: variants of one model do much that is the same."""
        said = event.code, tuple(event.values.items())
        if said in self._said or (self._running and event.code in _TOLD_BY_ROWS):
            return
        self._said.add(said)
        self._write(" " * _INDENT + str(line_of(event)), _DIM)

    def _write(self, line: str, code: str = "", indent: str = " " * _INDENT) -> None:
        """Write a line; one that is too long for the terminal is wrapped between words."""
        columns = columns_of(sys.stderr)
        if not columns or (len(line) <= columns and line.isascii()):
            self._put(line, code)
            return
        from mbuild.cli.screen import wrapped

        for part in wrapped(line[_INDENT:], columns, indent, line[:_INDENT]):
            self._put(part, code)

    def _put(self, line: str, code: str) -> None:
        if self._live is not None:
            self._live.above(line, code)
        else:
            color = bool(code) and color_on(sys.stderr)
            click.echo(f"\x1b[{code}m{line}\x1b[0m" if color else line, err=True, color=color)

    def _rows(self) -> list[LiveRow]:
        from mbuild.cli.live import SHOWN_AFTER, LiveRow, row

        now, rows = self._clock(), []
        for event, started, rate in self._running.values():
            if now - started < SHOWN_AFTER:
                continue
            label = printable(event.label).replace("\t", " ")
            if event.leader not in (0, event.step) and event.leader in self._running:
                leader = row(label, self._running[event.leader][2], now, 0.0)
                rows.append(LiveRow(label, leader.part, note="in the same pass"))
            else:
                rows.append(row(label, rate, now, now - started))
        return rows
