"""Renderers of build events: a terminal's bars, plain lines, JSON lines, or only the id.

Progress goes to standard error, as from ``ollama create`` and ``docker build``;
what a program reads (JSON lines, the id) goes to standard output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from mbuild.cli.common import human_size
from mbuild.digest import Digest
from mbuild.events import (
    BuildEvent,
    BuildFinished,
    Explained,
    LayerReady,
    ModelBuilt,
    Reason,
    Status,
    StepFinished,
    StepProgress,
    Warned,
    WritingManifest,
)

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Show = Callable[[BuildEvent], None]


@contextmanager
def renderer(style: str) -> Iterator[Show]:
    """The renderer that ``--progress`` names, for the time of one build."""
    if style == "auto":
        style = "tty" if sys.stderr.isatty() else "plain"
    if style == "tty":
        with _terminal() as show:
            yield show
    else:
        yield {"plain": show_plain, "json": show_json, "quiet": show_quiet}[style]


def line_of(event: BuildEvent) -> str | None:
    """The line that Ollama prints for an event, if it has one."""
    match event:
        case Status(text):
            return text
        case Warned(text):
            return f"warning: {text.removeprefix('warning: ')}"
        case LayerReady(digest, existing=existing):
            return f"{'using existing' if existing else 'creating new'} layer {digest}"
        case WritingManifest():
            return "writing manifest"
        case Explained(steps):
            return "\n".join(why_lines(steps))
        case BuildFinished():
            return "success"
    return None


def why_lines(steps: Sequence[Reason]) -> list[str]:
    """One line a step that ran, with the reason; steps of one reason share a line."""
    labels: dict[tuple[str, ...], list[str]] = {}
    for label, texts in steps:
        labels.setdefault(texts, []).append(label)
    return [f"ran {', '.join(names)}: {'; '.join(texts)}" for texts, names in labels.items()]


def summary(event: BuildFinished) -> str:
    """The last line: what was built, how long it took, what was cached."""
    return (
        f"built {event.name} in {event.seconds:.1f} s: {event.ran} steps run,"
        f" {event.cached} cached, {human_size(event.written)} written"
    )


def show_plain(event: BuildEvent) -> None:
    """One line an event, without control characters."""
    line = line_of(event)
    if line is not None:
        click.echo(line, err=True)
    if isinstance(event, BuildFinished):
        click.echo(summary(event), err=True)


def show_json(event: BuildEvent) -> None:
    """One JSON object a line: ``event`` is the event's name, the rest its fields."""
    value: dict[str, Any] = {"event": type(event).__name__}
    for name, field in event._asdict().items():
        value[name] = str(field) if isinstance(field, Digest) else field
    click.echo(json.dumps(value))


def show_quiet(event: BuildEvent) -> None:
    """Nothing but the model's id at the end."""
    if isinstance(event, ModelBuilt):
        click.echo(str(event.id))
    elif isinstance(event, Warned):
        show_plain(event)


@contextmanager
def _terminal() -> Iterator[Show]:
    """Lines as they come, and a bar for each step that takes its time.

    rich is loaded when the first bar is needed: a build with nothing to do
    prints its lines and is done.
    """
    bars = _Bars()
    try:
        yield bars.show
    finally:
        bars.close()


class _Bars:
    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._tasks: dict[int, TaskID] = {}

    def show(self, event: BuildEvent) -> None:
        if isinstance(event, StepProgress):
            self._advance(event)
        elif isinstance(event, StepFinished) and event.step in self._tasks:
            assert self._progress is not None
            self._progress.remove_task(self._tasks.pop(event.step))
        elif isinstance(event, BuildFinished):
            self.close()
            click.secho(summary(event), bold=True, err=True)
        elif (line := line_of(event)) is not None:
            self._print(line, dim=isinstance(event, LayerReady) and event.existing)

    def _print(self, line: str, *, dim: bool) -> None:
        if self._progress is None:
            click.secho(line, dim=dim, err=True)
        else:
            self._progress.console.print(line, style="dim" if dim else None, highlight=False)

    def _advance(self, event: StepProgress) -> None:
        if self._progress is None:
            self._progress = _new_progress()
            self._progress.start()
        if event.step not in self._tasks:
            self._tasks[event.step] = self._progress.add_task(event.label, total=None)
        total = event.total or None
        self._progress.update(self._tasks[event.step], completed=event.completed, total=total)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _new_progress() -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
