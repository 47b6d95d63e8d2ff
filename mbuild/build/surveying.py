"""What a build would do with each step, without running any."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from mbuild.build.exchange import offer
from mbuild.build.graph import Result, Step, in_order
from mbuild.build.results import cache_key, describe
from mbuild.core.events import Cause, Note
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from mbuild.build.engine import BuildEngine
    from mbuild.build.exchange import Weighed


class State(StrEnum):
    """What a build would do with a step."""

    CACHED = "cached"
    RUN = "run"
    DEPENDS = "depends"
    """It runs if a step that has to run before it comes out differently."""
    SHARED = "shared"
    """Its result comes from the shared cache."""


class Surveyed(NamedTuple):
    """A step before a build; ``description`` is None while not all of it is known.

    ``lost`` is why it has no cached result, should no input have changed. ``fetches`` are the
    bytes that come from the shared cache, ``weighed`` tells why.
    """

    step: Step
    state: State
    description: dict[str, Any] | None
    key: str = ""
    lost: Note | None = None
    fetches: int = 0
    weighed: Weighed | None = None


def survey(engine: BuildEngine, targets: Sequence[Step]) -> list[Surveyed]:
    """What the engine would do with each step, in order."""
    results: dict[Step, Result] = {}
    rows: list[Surveyed] = []
    steps = in_order(targets)
    for step in steps:
        if step.fetches:
            rows.append(_surveyed_fetch(step))
            continue
        result, _ = engine.cache.look_up(step, results, bring=False)
        if result is not None:
            results[step] = result
        if any(source not in results for source in step.inputs):
            state = State.DEPENDS if engine.use_cache else State.RUN
            rows.append(Surveyed(step, state, None))
            continue
        description = describe(step, [results[source] for source in step.inputs])
        key = cache_key(description) if description else ""
        state = State.RUN if result is None else State.CACHED
        row = Surveyed(step, state, description, key, engine.cache.lost(key))
        rows.append(row if result is not None else _offered(engine, row, results))
    missing = [row.step for row in rows if row.state in (State.RUN, State.DEPENDS)]
    there = set(engine.there(steps, missing, bring=False))
    return [row._replace(state=State.CACHED) if row.step in there else row for row in rows]


def _offered(engine: BuildEngine, row: Surveyed, results: dict[Step, Result]) -> Surveyed:
    """A step that would run, or what other machines have of it, noted among the results."""
    shared = engine.store.shared
    if shared is None or not engine.use_cache:
        return row
    found = offer(row.step, row.key, engine.store, shared)
    if found is None:
        return row
    if not found.weighed.pays:
        return row._replace(lost=Note(Cause.MADE_SOONER, found.weighed.values()))
    results[row.step] = found.result
    return row._replace(state=State.SHARED, fetches=found.size, weighed=found.weighed)


def _surveyed_fetch(step: Step) -> Surveyed:
    description = describe(step, ())
    key = cache_key(description) if description else ""
    return Surveyed(step, State.RUN, description, key, Note(Cause.NOT_HERE))
