"""``mbuild plan`` and ``mbuild explain``: what a build would do, what it takes, and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mbuild.build.engine import State
from mbuild.cli.build import asked_for, build_options
from mbuild.cli.common import columns_of, format_option, human_size
from mbuild.cli.meter import counted
from mbuild.cli.screen import wrapped
from mbuild.core.units import human_duration, local_time

if TYPE_CHECKING:
    from mbuild.build.forecast import Forecast, PlannedStep, Survey
    from mbuild.build.history import BuildRecord
    from mbuild.build.steps import PlannedTensor

PLAN_EPILOG = """\
\b
Examples:
  mbuild plan -t mario
  mbuild plan -q q4_K_M -t mario --tensors
  mbuild plan -q q4_K_M -q q8_0 -t mario --format json
"""

EXPLAIN_EPILOG = """\
\b
Examples:
  mbuild explain -t mario
  mbuild explain -q q4_K_M -t mario --format json
"""

_WORDS = {State.CACHED: "cached", State.RUN: "run", State.DEPENDS: "maybe"}
_INDENT = " " * 9


@click.command("plan", epilog=PLAN_EPILOG)
@build_options
@click.option("--tensors", is_flag=True, help="List each tensor that is quantized.")
@format_option
@click.pass_context
def plan_command(ctx: click.Context, /, *, style: str, tensors: bool, **options: Any) -> None:
    """Preview a build: steps, bytes, memory and time; write nothing.

    First the sums, then the steps in order, cached or not. Times are those that
    such steps took on this machine before. Exit status 1 if the disk has no
    room for it.
    """
    from mbuild.build.forecast import forecast

    request, store = asked_for(ctx, **options)
    planned = forecast(request, store)
    show_steps(planned, style, tensors=tensors)
    if not planned.fits:
        if style == "text":
            need, free = human_size(planned.writes), human_size(planned.free)
            click.echo(f"will not fit on this disk: {need} to write, {free} free", err=True)
        ctx.exit(1)


def show_steps(planned: Forecast, style: str, *, tensors: bool = False) -> None:
    """A forecast as lines of text, or as one JSON object; with a line for each tensor if asked."""
    if style == "json":
        click.echo(json.dumps(_plan_json(planned), indent=2))
        return
    width = columns_of()

    def say(text: str, first: str = "") -> None:
        for line in wrapped(text, width, _INDENT, f"{first:<{len(_INDENT)}}" if first else None):
            click.echo(line)

    say(_total_line(planned), f"{', '.join(planned.names)}: ")
    for step in planned.steps:
        say(_step_text(step), _WORDS[step.state])
        if tensors:
            _show_tensors(step.tensors)
        elif step.tensors and not step.cached:
            say(_counts(step.tensors))


def _step_text(step: PlannedStep) -> str:
    facts = []
    if not step.cached:
        if step.reads:
            facts.append(f"reads {human_size(step.reads)}")
        if step.writes:
            facts.append(f"writes {human_size(step.writes)}")
        if step.seconds and step.seconds >= 0.1:
            facts.append(f"about {human_duration(step.seconds)}")
    return f"{step.label}{'  ' if facts else ''}{', '.join(facts)}"


def _counts(tensors: Sequence[PlannedTensor]) -> str:
    """How many tensors get which type, and those that keep theirs."""
    made = Counter(tensor.after for tensor in tensors if tensor.after != tensor.before)
    kept = Counter(tensor.after for tensor in tensors if tensor.after == tensor.before)
    texts = [f"{number} to {type_}" for type_, number in made.most_common()]
    texts += [f"{number} stay {type_}" for type_, number in kept.most_common()]
    return f"{counted(len(tensors), 'tensor')}: {', '.join(texts)}"


def _total_line(planned: Forecast) -> str:
    runs = len(planned.to_run)
    text = f"{counted(runs, 'step')} to run, {len(planned.steps) - runs} cached"
    if not runs:
        return text
    text += f", {human_size(planned.reads)} to read, {human_size(planned.writes)} to write"
    text += f" ({human_size(planned.free)} free)"
    if planned.memory:
        text += f", up to {human_size(planned.memory)} of memory"
    seconds = planned.seconds
    return text + (f", about {human_duration(seconds)}" if seconds and seconds >= 0.1 else "")


def _show_tensors(tensors: Sequence[PlannedTensor]) -> None:
    """A line for each tensor of a quantization: name, type before and after, new size."""
    width = max((len(tensor.name) for tensor in tensors), default=0)
    for name, before, after, size in tensors:
        types = f"{before} -> {after}" if after != before else before
        click.echo(f"          {name:<{width}}  {types:<16}  {human_size(size):>9}")


def _plan_json(planned: Forecast) -> dict[str, Any]:
    steps = [
        {
            **step._asdict(),
            "state": step.state.value,
            "tensors": [tensor._asdict() for tensor in step.tensors],
            "why": list(step.why.texts()) if step.why else [],
            "materials": [material._asdict() for material in step.materials],
        }
        for step in planned.steps
    ]
    return {
        "names": list(planned.names),
        "steps": steps,
        "reads": planned.reads,
        "writes": planned.writes,
        "free": planned.free,
        "fits": planned.fits,
        "memory": planned.memory,
        "seconds": planned.seconds,
        "compared_with": planned.base.id if planned.base else None,
    }


@click.command("explain", epilog=EXPLAIN_EPILOG)
@build_options
@format_option
@click.pass_context
def explain_command(ctx: click.Context, /, *, style: str, **options: Any) -> None:
    """Explain why each step will run or is cached.

    Every input that changed since the last build of the model, old and new,
    taken from the very values that decide. Files are read if nobody knows yet
    whether they changed.
    """
    from mbuild.build.forecast import survey

    request, store = asked_for(ctx, hash_files=True, **options)
    surveyed = survey(request, store)
    if store.private.exists():
        store.database.close()  # the digests of files that were read
    if style == "json":
        click.echo(json.dumps(_explain_json(request.all_names, surveyed), indent=2))
        return
    width = columns_of()
    head = f"{', '.join(request.all_names)}: {_compared(surveyed.base)}"
    click.echo("\n".join(wrapped(head, width, _INDENT, "")))
    for row, why in zip(surveyed.rows, surveyed.why, strict=True):
        texts = why.texts() if why else ()
        first, *rest = texts if surveyed.base is not None and texts else ("",)
        text = f"{row.step.label}{': ' if first else ''}{first}"
        lines = wrapped(text, width, _INDENT, f"{_WORDS[row.state]:<{len(_INDENT)}}")
        indent = " " * (len(row.step.label) + len(_INDENT) + 2)
        if width and len(indent) > width // 2:
            indent = _INDENT
        for each in rest:
            lines += wrapped(each, width, indent)
        click.echo("\n".join(lines))


def _compared(base: BuildRecord | None) -> str:
    if base is None:
        return "no earlier build to compare with"
    return f"compared with build {base.id} of {local_time(base.time)}"


def _explain_json(names: Sequence[str], surveyed: Survey) -> dict[str, Any]:
    steps = []
    for row, why in zip(surveyed.rows, surveyed.why, strict=True):
        value: dict[str, Any] = {
            "step": row.step.label,
            "kind": row.step.kind,
            "state": row.state.value,
        }
        if why:
            value["changes"] = [change.to_json() for change in why.changes]
            value["note"] = "" if why.note is None else why.texts()[0]
            value["cause"] = "" if why.note is None else why.note.cause.value
        steps.append(value)
    base = surveyed.base
    return {"names": list(names), "compared_with": base.id if base else None, "steps": steps}
