"""Renderers of build events: a terminal's rows, plain lines, JSON lines, or only the id.

Progress goes to standard error, as from ``ollama create`` and ``docker build``;
what a program reads (JSON lines, the id) goes to standard output. What a bar needs
is loaded when a step runs: a build with nothing to do prints its lines and is done.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from mbuild.cli.common import color_on, columns_of, printable
from mbuild.core.digest import Digest
from mbuild.core.events import (
    BuildEvent,
    BuildFinished,
    Explained,
    LayerReady,
    ModelBuilt,
    Reason,
    Replaced,
    Status,
    StepFinished,
    StepProgress,
    StepStarted,
    Warned,
    WritingManifest,
)
from mbuild.core.units import human_duration, human_size

if TYPE_CHECKING:
    from mbuild.cli.live import Live, Row
    from mbuild.cli.rate import Rate

Show = Callable[[BuildEvent], None]
Clock = Callable[[], float]

PLAIN_SECONDS = 10.0
"""Seconds between two lines about one running step where there is no terminal."""

_INDENT = 8

_DIM, _BOLD, _YELLOW = "2", "1", "33"

_TOLD_BY_ROWS = ("parsing ", "converting ", "quantizing ")
"""How Ollama's lines begin that say what a running step's row says already."""


@contextmanager
def renderer(style: str) -> Iterator[Show]:
    """The renderer that ``--progress`` names, for the time of one build."""
    if style == "auto":
        style = "tty" if is_terminal() else "plain"
    if style == "tty":
        terminal = Terminal()
        try:
            yield terminal.show
        finally:
            terminal.close()
    else:
        yield {"plain": Plain().show, "json": show_json, "quiet": show_quiet}[style]


def follow(events: Generator[BuildEvent, None, None], style: str) -> None:
    """Show a build; whatever ends this has ended the build, too, with its threads and files."""
    with renderer(style) as show, closing(events):
        for event in events:
            show(event)


def is_terminal() -> bool:
    """Whether standard error is a terminal on which a line can be written again."""
    if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        # The Windows Terminal sets no TERM.
        return sys.stderr.isatty() and bool(os.environ.get("WT_SESSION"))
    return True


def line_of(event: BuildEvent) -> str | None:
    """The line that Ollama prints for an event, if it has one."""
    match event:
        case Status(text):
            return printable(text)
        case Warned(text):
            return f"warning: {printable(text.removeprefix('warning: '))}"
        case LayerReady(digest, existing=existing):
            return f"{'using existing' if existing else 'creating new'} layer {digest}"
        case WritingManifest():
            return "writing manifest"
        case Replaced(name, id):
            return f"replaced {name} (was {id.short})"
        case Explained(steps):
            return "\n".join(map(printable, why_lines(steps)))
        case BuildFinished():
            return "success"
    return None


def why_lines(steps: Sequence[Reason]) -> list[str]:
    """One line a step that ran, with the reason; steps of one reason share a line."""
    labels: dict[tuple[str, ...], list[str]] = {}
    for label, texts in steps:
        labels.setdefault(texts, []).append(label)
    return [f"ran {', '.join(names)}: {'; '.join(texts)}" for texts, names in labels.items()]


def model_text(event: ModelBuilt) -> str:
    """A model's name, id and size."""
    return f"{event.name or '(no name)'}  {event.id.short}  {human_size(event.size)}"


def summary(event: BuildFinished) -> str:
    """The last line: what was built, how long it took, what was cached."""
    seconds = event.seconds
    name = event.name or "the model, without a name,"
    return (
        f"built {name} in {f'{seconds:.1f} s' if seconds < 60 else human_duration(seconds)}:"
        f" {event.ran}"
        f" {'step' if event.ran == 1 else 'steps'} run, {event.cached} cached,"
        f" {human_size(event.written)} written"
    )


class Plain:
    """One line an event, without control characters: for logs.

    A step that takes its time gets a line about its progress every ten seconds,
    and one when it is done.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._rates: dict[int, Rate] = {}
        self._told: dict[int, float] = {}
        self._said: set[int] = set()
        self._models: list[ModelBuilt] = []

    def show(self, event: BuildEvent) -> None:
        """Write what there is to write about an event."""
        if isinstance(event, StepStarted):
            self._told[event.step] = self._clock()
        elif isinstance(event, StepProgress):
            self._progress(event)
        elif isinstance(event, StepFinished):
            if event.step in self._said:
                words = (f"{printable(event.label)}: done", *_effort(event))
                click.echo(", ".join(words), err=True)
        elif isinstance(event, ModelBuilt):
            self._models.append(event)
        elif (line := line_of(event)) is not None:
            click.echo(line, err=True)
        if isinstance(event, BuildFinished):
            for model in self._models if len(self._models) > 1 else ():
                click.echo(f"model {model_text(model)}", err=True)
            click.echo(summary(event), err=True)

    def _progress(self, event: StepProgress) -> None:
        from mbuild.cli.rate import Rate

        now = self._clock()
        rate = self._rates.setdefault(event.step, Rate())
        rate.update(now, event.completed, event.total)
        if now - self._told.setdefault(event.step, now) < PLAIN_SECONDS:
            return
        from mbuild.cli.live import row

        self._told[event.step] = now
        self._said.add(event.step)
        told = row(printable(event.label), rate, now, 0.0)
        part = f"{int(told.part * 100)}%" if told.part is not None else ""
        texts = (part, told.done, told.speed, told.remaining)
        click.echo(f"{told.label}: {', '.join(text for text in texts if text)}", err=True)


def show_json(event: BuildEvent) -> None:
    """One JSON object a line: ``event`` is the event's name, the rest its fields."""
    click.echo(json.dumps({"event": type(event).__name__, **_jsonable(event)}))


def _jsonable(value: Any) -> Any:
    """Digests as texts, named tuples as objects, other sequences as arrays."""
    if isinstance(value, Digest):
        return str(value)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: _jsonable(item) for name, item in value._asdict().items()}
    return [_jsonable(item) for item in value] if isinstance(value, (list, tuple)) else value


def show_quiet(event: BuildEvent) -> None:
    """Nothing but each model's id at the end, and warnings."""
    if isinstance(event, ModelBuilt):
        click.echo(str(event.id))
    elif isinstance(event, Warned):
        click.echo(line_of(event), err=True)


@contextmanager
def failures(style: str) -> Iterator[None]:
    """For programs that read events: one about whatever ends a build without its models."""
    try:
        yield
    except click.exceptions.Exit:
        raise
    except BaseException as error:
        if style == "json":
            from mbuild.cli.endings import failed

            with suppress(OSError):
                show_json(failed(error))
        raise


class Terminal:
    """A row for each running step, what is finished above them, and a total at the end."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._live: Live | None = None
        self._running: dict[int, tuple[StepStarted, float, Rate]] = {}
        self._said: set[str] = set()

    def show(self, event: BuildEvent) -> None:
        """Write what there is to write about an event."""
        match event:
            case StepStarted():
                self._start(event)
            case StepProgress(step, _, completed, total) if step in self._running:
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
                    self._write(f"{'why':<{_INDENT}}{printable(line.removeprefix('ran '))}", _DIM)
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
        effort = ", ".join(_effort(event))
        line = f"{word:<{_INDENT}}{printable(event.label)}{'  ' if effort else ''}{effort}"
        self._write(line, code)

    def _status(self, event: Status) -> None:
        """Each once, unless a row says it: variants of one model do much that is the same."""
        if event.text in self._said or (self._running and event.text.startswith(_TOLD_BY_ROWS)):
            return
        self._said.add(event.text)
        self._write(" " * _INDENT + printable(event.text), _DIM)

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

    def _rows(self) -> list[Row]:
        from mbuild.cli.live import SHOWN_AFTER, Row, row

        now, rows = self._clock(), []
        for event, started, rate in self._running.values():
            if now - started < SHOWN_AFTER:
                continue
            label = printable(event.label).replace("\t", " ")
            if event.leader not in (0, event.step) and event.leader in self._running:
                leader = row(label, self._running[event.leader][2], now, 0.0)
                rows.append(Row(label, leader.part, note="in the same pass"))
            else:
                rows.append(row(label, rate, now, now - started))
        return rows


def _effort(event: StepFinished) -> list[str]:
    """How long a step took and what it wrote, as far as there is something to tell."""
    seconds = human_duration(event.seconds) if event.seconds >= 0.05 else ""
    written = f"{human_size(event.written)} written" if event.written else ""
    return [text for text in (seconds, written) if text]
