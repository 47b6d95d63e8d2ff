"""What a forecast makes of its steps: sums, and the time that a build will take."""

from __future__ import annotations

import pytest

from mbuild.build.costs import Cost, memory_together
from mbuild.build.forecast import Forecast, PlannedStep
from mbuild.build.request import BuildRequest
from mbuild.build.surveying import State


def step(seconds: float | None, *inputs: int, every_core: bool = False) -> PlannedStep:
    """A step that will run."""
    return PlannedStep(
        "fake", "fake", State.RUN, inputs=inputs, seconds=seconds, every_core=every_core
    )


def forecast(*steps: PlannedStep) -> Forecast:
    """A build of these."""
    return Forecast(BuildRequest(()), steps, None, 1 << 40)


@pytest.mark.parametrize(
    ("steps", "seconds"),
    [
        ((), 0.0),
        ((step(3.0),), 3.0),
        ((step(3.0), step(4.0, 0)), 7.0),  # one after the other
        ((step(3.0), step(4.0)), 4.0),  # one beside the other
        ((step(3.0, every_core=True), step(4.0, every_core=True)), 7.0),  # they share the cores
        ((step(3.0, every_core=True), step(4.0), step(1.0, 0, 1)), 8.0),
        ((step(3.0), step(4.0), step(1.0, 0, 1)), 5.0),
        ((step(3.0), step(None)), None),  # no past to estimate from
    ],
)
def test_the_longest_chain_is_the_estimate(
    steps: tuple[PlannedStep, ...], seconds: float | None
) -> None:
    """What runs beside it adds nothing, unless it takes the cores from it."""
    assert forecast(*steps).seconds == seconds


def test_cached_steps_take_no_time() -> None:
    """They are in the graph all the same."""
    cached = PlannedStep("fake", "fake", State.CACHED)
    assert forecast(cached, step(2.0, 0), step(1.0, 1)).seconds == 3.0


def test_variants_take_memory_beside_each_other() -> None:
    """The most of one, and what each of the others adds: blocks for the disk, and results."""
    costs = [Cost(0, 100, beside=7), Cost(0, 300, beside=20), Cost(0, 200, beside=5)]
    assert memory_together(costs) == 300 + 7 + 5
    assert memory_together(costs[:1]) == 100
