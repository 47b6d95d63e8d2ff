"""The picture of a build's graph: before it, from a forecast, or after it, from the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mbuild.build.network import BuildGraph
from mbuild.build.sources.values import Material
from mbuild.build.surveying import State
from mbuild.build.underway import RUNNING, WAITING
from mbuild.core.units import human_duration, human_size
from mbuild.core.values import NamedTuple
from mbuild.view.picture import Node, NodeLook, NodeRole, Picture
from mbuild.view.picture.simplify import simplify_picture

if TYPE_CHECKING:
    from mbuild.build.forecast import Forecast, PlannedStep
    from mbuild.build.history import BuildRecord, StepRecord

MANIFEST = "manifest"
"""The kind of step that makes a model; it is drawn under the model's name."""


class _Step(NamedTuple):
    """A step of either kind of build, as far as it is drawn."""

    kind: str
    label: str
    key: str
    inputs: tuple[int, ...]
    materials: tuple[Material, ...]
    look: NodeLook
    facts: tuple[str, ...]
    details: tuple[str, ...]


_PLANNED: dict[State, NodeLook] = {
    State.CACHED: NodeLook.CACHED,
    State.SHARED: NodeLook.CACHED,
    State.RUN: NodeLook.RUN,
    State.DEPENDS: NodeLook.DEPENDS,
}

_RECORDED: dict[str, NodeLook] = {
    "cached": NodeLook.CACHED,
    "ran": NodeLook.RAN,
    RUNNING: NodeLook.RUNNING,
    WAITING: NodeLook.WAITED,
}

_STRONGEST = (
    NodeLook.FAILED,
    NodeLook.RUNNING,
    NodeLook.RAN,
    NodeLook.RUN,
    NodeLook.WAITED,
    NodeLook.DEPENDS,
    NodeLook.CACHED,
)
"""Of steps that are one because their keys are, the first of these looks counts."""


def picture_of_plan(forecast: Forecast) -> Picture:
    """What a build would do: sizes, and times as such steps took before."""
    steps = [_planned(step) for step in forecast.steps]
    runs, cached = len(forecast.to_run), len(steps) - len(forecast.to_run)
    facts = [f"{runs} steps to run, {cached} cached"]
    if forecast.to_run:
        facts.append(f"{human_size(forecast.writes)} to write")
        if forecast.seconds is not None:
            facts.append(f"about {human_duration(forecast.seconds)}")
    models = forecast.request.names_by_place(forecast.manifests)
    return _picture(forecast.names, models, steps, ", ".join(facts))


def picture_of_build(record: BuildRecord) -> Picture:
    """What a build did, or has done so far: sizes, times and reasons as they were."""
    steps = [_recorded(step) for step in record.steps]
    ended = record.result != RUNNING
    facts = [
        f"{record.result} in {human_duration(record.seconds)}" if ended else record.result,
        f"{record.ran} steps run, {record.cached} cached",
    ]
    if record.written:
        facts.append(f"{human_size(record.written)} written")
    return _picture(record.names, record.names_by_step, steps, ", ".join(facts))


def look_of(step: StepRecord) -> NodeLook:
    """How a step of a past or running build looks."""
    if step.status == "unfinished":
        return NodeLook.FAILED if step.seconds else NodeLook.WAITED
    return _RECORDED[step.status]


def _planned(step: PlannedStep) -> _Step:
    sizes = []
    if step.reads and not step.cached:
        sizes.append(f"reads {human_size(step.reads)}")
    if step.writes and not step.cached:
        sizes.append(f"writes {human_size(step.writes)}")
    state = _PLANNED[step.state].value
    if step.seconds and step.seconds >= 0.1 and not step.cached:
        state += f" · about {human_duration(step.seconds)}"
    reasons = step.why.texts() if step.why else ()
    return _Step(
        step.kind,
        step.label,
        step.key,
        step.inputs,
        step.materials,
        _PLANNED[step.state],
        (state, *sizes),
        tuple(f"because: {reason}" for reason in reasons),
    )


def _recorded(step: StepRecord) -> _Step:
    look = look_of(step)
    facts = ["waits" if step.status == WAITING else look.value]
    if look in (NodeLook.RAN, NodeLook.FAILED) and step.seconds >= 0.0005:
        facts.append(human_duration(step.seconds))
    size = sum(layer.size for layer in step.layers)
    if size:
        facts.append(human_size(size))
    details = [f"because: {reason}" for reason in step.reasons]
    if step.fetched:
        details.append(f"{human_size(step.fetched)} from the shared cache")
    details += [f"{layer.kind} {layer.digest.short}" for layer in step.layers]
    return _Step(
        step.kind,
        step.label,
        step.key,
        step.inputs,
        step.materials,
        look,
        (" · ".join(facts),),
        tuple(details),
    )


_Models = Mapping[int, tuple[str, ...]]
"""The names of the models, by the places of the steps that make them."""


def _picture(names: Sequence[str], models: _Models, steps: Sequence[_Step], facts: str) -> Picture:
    """Sources, then steps; steps with one key are one, if that leaves no cycle."""
    title = f"{_listed(names, 3)}: {facts}" if names else facts
    summary = f"The steps of the build of {_listed(names, 12)}: {facts}."
    for merge in (True, False):
        nodes, edges = _nodes(models, steps, merge=merge)
        try:
            BuildGraph(range(len(nodes)), edges).order()
        except ValueError:
            continue
        return simplify_picture(Picture(title, summary, tuple(nodes), tuple(edges)))
    raise AssertionError("steps come after their inputs")


def _listed(names: Sequence[str], most: int) -> str:
    """Names with commas; of many only the first."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"


def _nodes(
    models: _Models, steps: Sequence[_Step], *, merge: bool
) -> tuple[list[Node], list[tuple[int, int]]]:
    nodes: list[Node] = []
    edges: list[tuple[int, int]] = []
    sources = _materials(steps)
    at: dict[tuple[str, str], int] = {}
    for (name, place), size in sources.items():
        at[name, place] = len(nodes)
        nodes.append(_source(name, place, size))
    place_of: dict[int, int] = {}
    by_key: dict[tuple[str, str], int] = {}
    for number, step in enumerate(steps):
        key = (step.kind, step.key)
        if merge and step.key and key in by_key:
            place_of[number] = by_key[key]
            nodes[by_key[key]] = _stronger(nodes[by_key[key]], _node(step, models.get(number, ())))
        else:
            by_key[key] = place_of[number] = len(nodes)
            nodes.append(_node(step, models.get(number, ())))
        here = place_of[number]
        edges += ((at[m.name, m.place], here) for m in step.materials)
        edges += ((place_of[source], here) for source in step.inputs if source in place_of)
    return nodes, list(dict.fromkeys(edges))


def _stronger(a: Node, b: Node) -> Node:
    """Of two nodes that are the same step the one that did more; a model keeps both its names."""
    first = min(a, b, key=lambda node: _STRONGEST.index(node.look))
    if a.role is NodeRole.MODEL:
        return first._replace(label=", ".join(dict.fromkeys((a.label, b.label))))
    return first


def _materials(steps: Sequence[_Step]) -> dict[tuple[str, str], int]:
    """Every file, folder and model that a step is made from, with its size."""
    found: dict[tuple[str, str], int] = {}
    for step in steps:
        for name, place, size in step.materials:
            found[name, place] = max(size, found.get((name, place), 0))
    return found


def _source(name: str, place: str, size: int) -> Node:
    facts = (human_size(size),) if size else ()
    title = "\n".join([f"{name}: {place or 'a model in the store'}", *facts])
    return Node(name, NodeRole.SOURCE, NodeLook.GIVEN, "source", facts, title)


def _node(step: _Step, models: Sequence[str]) -> Node:
    label = ", ".join(models) or step.label
    title = "\n".join([step.label, *models, *step.facts, *step.details])
    role = NodeRole.MODEL if step.kind == MANIFEST else NodeRole.STEP
    return Node(label, role, step.look, step.kind, step.facts, title)
