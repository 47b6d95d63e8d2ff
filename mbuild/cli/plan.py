"""``mbuild plan`` and ``mbuild explain``: what a build would do, what it takes, and why."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mbuild.cli.build import asked_for, build_options
from mbuild.cli.common import human_size
from mbuild.engine import State
from mbuild.units import human_duration, local_time

if TYPE_CHECKING:
    from mbuild.builder.forecast import Forecast, PlannedStep, Survey
    from mbuild.history import BuildRecord
    from mbuild.steps import PlannedTensor

PLAN_EPILOG = """\
\b
Examples:
  mbuild plan -t mario
  mbuild plan -q q4_K_M -q q8_0 -t mario --format json
"""

EXPLAIN_EPILOG = """\
\b
Examples:
  mbuild explain -t mario
  mbuild explain -q q4_K_M -t mario --format json
"""

_WORDS = {State.CACHED: "cached", State.RUN: "run", State.DEPENDS: "depends"}

format_option = click.option(
    "--format", "style", type=click.Choice(["text", "json"]), default="text", help="Text or JSON."
)


@click.command("plan", epilog=PLAN_EPILOG)
@build_options
@format_option
@click.pass_context
def plan_command(ctx: click.Context, /, *, style: str, **options: Any) -> None:
    """Show what a build would do and take; write nothing.

    The steps in order, cached or not; bytes to read and write, memory, and time
    as such steps took on this machine before. Exit status 1 if the disk has no
    room for it.
    """
    from mbuild.builder.forecast import forecast

    request, store = asked_for(ctx, **options)
    planned = forecast(request, store)
    show_steps(planned, style)
    if not planned.fits:
        if style == "text":
            need, free = human_size(planned.writes), human_size(planned.free)
            click.echo(f"will not fit on this disk: {need} to write, {free} free", err=True)
        ctx.exit(1)


def show_steps(planned: Forecast, style: str) -> None:
    """A forecast as lines of text, or as one JSON object."""
    if style == "json":
        click.echo(json.dumps(_plan_json(planned), indent=2))
        return
    for step in planned.steps:
        click.echo(_step_line(step))
        _show_tensors(step.tensors)
    click.echo(_total_line(planned))


def _step_line(step: PlannedStep) -> str:
    facts = []
    if not step.cached:
        if step.reads:
            facts.append(f"reads {human_size(step.reads)}")
        if step.writes:
            facts.append(f"writes {human_size(step.writes)}")
        if step.seconds and step.seconds >= 0.1:
            facts.append(f"about {human_duration(step.seconds)}")
    return f"{_WORDS[step.state]:<7}  {step.label}{'  ' if facts else ''}{', '.join(facts)}"


def _total_line(planned: Forecast) -> str:
    runs = len(planned.to_run)
    text = f"{planned.names[0]}: {runs} steps to run, {len(planned.steps) - runs} cached"
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
    """Say for every step whether it is cached, and for one that will run, why.

    Every input that changed since the last build of the model, old and new,
    taken from the very values that decide. Files are read if nobody knows yet
    whether they changed.
    """
    from mbuild.builder.forecast import survey

    request, store = asked_for(ctx, hash_files=True, **options)
    surveyed = survey(request, store)
    if store.private.exists():
        store.database.close()  # the digests of files that were read
    if style == "json":
        click.echo(json.dumps(_explain_json(request.all_names, surveyed), indent=2))
        return
    click.echo(f"{request.all_names[0]}: {_compared(surveyed.base)}")
    for row, why in zip(surveyed.rows, surveyed.why, strict=True):
        texts = why.texts() if why else ()
        first, *rest = texts or ("",)
        lines = [f"{_WORDS[row.state]:<7}  {row.step.label}{': ' if first else ''}{first}"]
        indent = " " * (len(row.step.label) + 11)
        click.echo("\n".join([*lines, *(indent + text for text in rest)]))


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
            value["note"] = why.note
        steps.append(value)
    base = surveyed.base
    return {"names": list(names), "compared_with": base.id if base else None, "steps": steps}
