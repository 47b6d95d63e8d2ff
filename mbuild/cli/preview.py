"""A forecast of a build, as lines of text or as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from mbuild.build.reasons import ESTIMATES
from mbuild.build.surveying import State
from mbuild.cli.common import columns_of, human_size
from mbuild.cli.meter import counted
from mbuild.cli.screen import wrapped
from mbuild.core.events import Cause
from mbuild.core.units import human_duration

if TYPE_CHECKING:
    from mbuild.build.costs import PlannedTensor
    from mbuild.build.forecast import Forecast, PlannedStep


STATES = {
    State.CACHED: "cached",
    State.RUN: "run",
    State.DEPENDS: "maybe",
    State.SHARED: "shared",
}
"""The word that a line begins with: what becomes of its step."""


INDENT = " " * 9
"""Where the text of such a line begins."""


def show_steps(planned: Forecast, style: str, *, tensors: bool = False) -> None:
    """A forecast as lines of text, or as one JSON object; with a line for each tensor if asked."""
    if style == "json":
        click.echo(json.dumps(_plan_json(planned), indent=2))
        return
    width = columns_of()

    def say(text: str, first: str = "") -> None:
        for line in wrapped(text, width, INDENT, f"{first:<{len(INDENT)}}" if first else None):
            click.echo(line)

    head = f"{', '.join(planned.names)}: {_total_line(planned)}"
    click.echo("\n".join(wrapped(head, width, INDENT, "")))
    for step in planned.steps:
        say(_step_text(step), STATES[step.state])
        if step.why is not None and step.why.causes() == (Cause.MADE_SOONER,):
            say(step.why.texts()[0])
        if step.eight_bits is not None and not step.cached:
            say(
                f"its weights are quantized in the files, which have {human_size(step.reads)};"
                f" --outtype q8_0 would write {human_size(step.eight_bits)}"
            )
        if tensors:
            _show_tensors(step.tensors)
        elif step.tensors and not step.cached:
            say(_counts(step.tensors))


def _step_text(step: PlannedStep) -> str:
    facts = []
    if not step.cached:
        if step.fetches:
            facts.append(f"fetches {human_size(step.fetches)}")
        if step.reads:
            facts.append(f"reads {human_size(step.reads)}")
        if step.writes and not step.fetches:
            facts.append(f"writes {human_size(step.writes)}")
        if step.seconds and step.seconds >= 0.1:
            facts.append(f"about {human_duration(step.seconds)}")
        if step.instead is not None and step.instead.seconds >= 0.1:
            making = human_duration(step.instead.seconds)
            facts.append(f"made here in about {making}, {ESTIMATES[step.instead.source]}")
    return f"{step.label}{'  ' if facts else ''}{', '.join(facts)}"


def _counts(tensors: Sequence[PlannedTensor]) -> str:
    """How many tensors get which type, and those that keep theirs."""
    made = Counter(tensor.after.name for tensor in tensors if tensor.after != tensor.before)
    kept = Counter(tensor.after.name for tensor in tensors if tensor.after == tensor.before)
    texts = [f"{number} to {type_}" for type_, number in made.most_common()]
    texts += [f"{number} stay {type_}" for type_, number in kept.most_common()]
    return f"{counted(len(tensors), 'tensor')}: {', '.join(texts)}"


def _total_line(planned: Forecast) -> str:
    shared = sum(step.state is State.SHARED for step in planned.steps)
    runs = len(planned.to_run) - shared
    text = f"{counted(runs, 'step')} to run, {len(planned.steps) - runs - shared} cached"
    if shared:
        text += f", {shared} shared"
    if not planned.to_run:
        return text
    if planned.fetches:
        text += f", {human_size(planned.fetches)} to fetch"
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
        types = f"{before.name} -> {after.name}" if after != before else before.name
        click.echo(f"          {name:<{width}}  {types:<16}  {human_size(size):>9}")


def _plan_json(planned: Forecast) -> dict[str, Any]:
    steps = [
        {
            **step._asdict(),
            "state": step.state.value,
            "instead": step.instead._asdict() if step.instead else None,
            "tensors": [tensor.to_json() for tensor in step.tensors],
            "why": list(step.why.texts()) if step.why else [],
            "materials": [material._asdict() for material in step.materials],
        }
        for step in planned.steps
    ]
    return {
        "names": list(planned.names),
        "steps": steps,
        "fetches": planned.fetches,
        "reads": planned.reads,
        "writes": planned.writes,
        "free": planned.free,
        "fits": planned.fits,
        "memory": planned.memory,
        "seconds": planned.seconds,
        "compared_with": planned.base.id if planned.base else None,
    }
