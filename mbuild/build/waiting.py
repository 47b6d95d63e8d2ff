"""Which steps of a run can start: those that wait for nothing any more."""

from __future__ import annotations

from collections.abc import Container, Hashable, Sequence
from typing import TYPE_CHECKING

from mbuild.build.graph import before

if TYPE_CHECKING:
    from mbuild.build.graph import Step


class Waiting:
    """Counts for each step what it waits for; ``there`` are the steps that are over."""

    def __init__(self, steps: Sequence[Step], there: Container[Step]) -> None:
        self._count: dict[Step, int] = {}
        self._users: dict[Step, list[Step]] = {step: [] for step in steps}
        for step in steps:
            sources = [source for source in before(step) if source not in there]
            self._count[step] = len(sources)
            for source in sources:
                self._users[source].append(step)

    def ready(self) -> list[Step]:
        """The steps that wait for nothing from the start."""
        return [step for step, count in self._count.items() if count == 0]

    def begun(self, step: Step) -> list[Step]:
        """The steps that can start now that what this one fetches is on its way."""
        early = [user for user in self._users[step] if user.overlaps and step in user.needs]
        self._users[step] = [user for user in self._users[step] if user not in early]
        return self._go_on(early)

    def done(self, step: Step) -> list[Step]:
        """The steps that can start now that this one is over."""
        return self._go_on(self._users[step])

    def _go_on(self, users: Sequence[Step]) -> list[Step]:
        ready = []
        for user in users:
            self._count[user] -= 1
            if self._count[user] == 0:
                ready.append(user)
        return ready


def batches(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps of one group together, all others alone."""
    found: dict[Hashable, list[Step]] = {}
    for step in steps:
        found.setdefault(step if step.group is None else step.group, []).append(step)
    return list(found.values())


def passes(step: Step, steps: Sequence[Step]) -> bool:
    """Whether those of the steps that need what this one fetches read it once, while it comes.

    So it is where they are of one group and wait for the same.
    """
    users = [user for user in steps if step in user.needs]
    waits = {frozenset(before(user)).intersection(steps) for user in users}
    return all(user.overlaps for user in users) and len(waits) == len(batches(users)) == 1
