"""Renderers of build events: plain lines, JSON lines, or only the id.

Progress goes to standard error, as from ``ollama create`` and ``docker build``;
what a program reads (JSON lines, the id) goes to standard output. A terminal's rows are
``cli/terminal.py``'s, the words ``cli/wording.py``'s. What a bar needs
is loaded when a step runs: a build with nothing to do prints its lines and is done.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from mbuild.cli.common import printable
from mbuild.cli.wording import effort, line_of, model_text, status_text, summary
from mbuild.core.digest import Digest
from mbuild.core.events import (
    BuildEvent,
    BuildFinished,
    ModelBuilt,
    Status,
    StepFinished,
    StepProgress,
    StepStarted,
    Warned,
)

if TYPE_CHECKING:
    from mbuild.cli.rate import Rate

Show = Callable[[BuildEvent], None]
Clock = Callable[[], float]

PLAIN_SECONDS = 10.0
"""Seconds between two lines about one running step where there is no terminal."""


@contextmanager
def renderer(style: str) -> Iterator[Show]:
    """The renderer that ``--progress`` names, for the time of one build."""
    if style == "auto":
        style = "tty" if is_terminal() else "plain"
    if style == "tty":
        from mbuild.cli.terminal import Terminal

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
                words = (f"{printable(event.label)}: done", *effort(event))
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
    """One JSON object a line: ``event`` is the event's name, the rest its fields.

    Programs that show a status get its sentence, too, as ``text``.
    """
    words = {"text": status_text(event)} if isinstance(event, Status) else {}
    click.echo(json.dumps({"event": type(event).__name__, **_jsonable(event), **words}))


def _jsonable(value: Any) -> Any:
    """Digests as texts, named tuples and mappings as objects, other sequences as arrays."""
    if isinstance(value, Digest):
        return str(value)
    if isinstance(value, dict):
        return {name: _jsonable(item) for name, item in value.items()}
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
            from mbuild.core.failures import failed

            with suppress(OSError):
                show_json(failed(error))
        raise
