"""When each step of a build ran, and beside which others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.core.values import NamedTuple
from mbuild.view.picture import NodeLook
from mbuild.view.report.drawing import look_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mbuild.build.history import StepRecord


class Bar(NamedTuple):
    """One run: the steps in it, when it began and how long it took in seconds, and its lane.

    Lanes count from 1: runs of one lane follow each other. ``left`` and ``width``
    are parts of the whole, from 0 to 1.
    """

    labels: tuple[str, ...]
    look: NodeLook
    started: float
    seconds: float
    lane: int
    left: float
    width: float


def timeline(
    steps: Sequence[StepRecord], seconds: float, names: Mapping[int, Sequence[str]]
) -> tuple[Bar, ...]:
    """The runs of a build that took so many seconds, in the order of their beginning.

    ``names`` are the models that steps make, by the steps' places.
    """
    runs: dict[tuple[str, float, float, NodeLook], list[str]] = {}
    for place, step in enumerate(steps):
        look = look_of(step)
        if look in (NodeLook.RAN, NodeLook.FAILED):
            runs.setdefault((step.kind, step.started, step.seconds, look), []).append(
                " ".join((step.label, *names.get(place, ())))
            )
    whole = max([seconds, *(start + took for _, start, took, _ in runs)]) or 1.0
    free: list[float] = []
    bars = []
    for (_, start, took, look), labels in sorted(runs.items(), key=lambda run: run[0][1]):
        lane = next((n for n, end in enumerate(free) if end <= start + 1e-6), len(free))
        free[lane : lane + 1] = [start + took]
        bars.append(Bar(tuple(labels), look, start, took, lane + 1, start / whole, took / whole))
    return tuple(bars)
