"""One run of steps that have no cached result: it makes these and no others, and can be stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import fakes
import pytest
from fakes import FakeStep

from mbuild.build.graph import Step
from mbuild.build.results import Outcome, StepCache
from mbuild.build.running import GraphRun
from mbuild.core.errors import CancelledError
from mbuild.core.events import StepFinished, StepStarted
from mbuild.store import Store
from mbuild.work.cancel import Cancel


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[StepCache]:
    """The cache of an empty store, open for a build."""
    fakes.RUNS.clear()
    store = Store(tmp_path)
    store.begin()
    yield StepCache(store)
    store.end()


KINDS = (StepStarted, StepFinished)


def test_only_the_given_steps_are_made(cache: StepCache) -> None:
    """What is in the outcome already is an input and is not made again; numbers are kept."""
    below = FakeStep("below", "a")
    above = FakeStep("above", "b", (below,))
    numbers: dict[Step, int] = {below: 4, above: 7}
    outcome = Outcome()
    list(GraphRun(cache, outcome, numbers, [below]).events())
    events = list(GraphRun(cache, outcome, numbers, [above]).events())
    assert fakes.RUNS == ["below", "above"]
    kinds = [(type(event), event.step) for event in events if isinstance(event, KINDS)]
    assert kinds == [(StepStarted, 7), (StepFinished, 7)]
    found, key = cache.look_up(above, outcome.results)
    assert found == outcome.results[above]
    assert key == outcome.keys[above]


def test_a_run_is_stopped_from_outside(cache: StepCache) -> None:
    """No step begins once the token of the engine was used."""
    cancel = Cancel("enough")
    step = FakeStep("one", "a", (), lambda context: cancel.cancel())
    last = FakeStep("two", "b", (step,))
    outcome = Outcome()
    run = GraphRun(cache, outcome, {step: 1, last: 2}, [step, last], cancel=cancel)
    with pytest.raises(CancelledError):
        list(run.events())
    assert fakes.RUNS == ["one"]
    assert last not in outcome.results
