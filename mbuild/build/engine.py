"""Runs a graph of steps: cached ones from the cache, the others as soon as they can.

The engine knows no kind of step. A build with nothing to do stays in
:meth:`BuildEngine.run` and starts no thread.
"""

from __future__ import annotations

from collections.abc import (
    Collection,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING

from mbuild.build.graph import Result, Step, in_order, names_of
from mbuild.build.results import Outcome, StepCache
from mbuild.core.events import (
    BuildEvent,
    StepFinished,
)

if TYPE_CHECKING:
    from mbuild.store.ports import BuildStore
    from mbuild.work.cancel import Cancel
    from mbuild.work.pools import WorkerPool


class BuildEngine:
    """Runs steps against one store. ``use_cache=False`` runs every step.

    ``pool`` computes for steps that can hand work out. ``cancel`` stops a run from another
    thread, at once and not at its next event.
    """

    def __init__(
        self,
        store: BuildStore,
        use_cache: bool = True,
        pool: WorkerPool | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        self.store = store
        self.use_cache = use_cache
        self.cache = StepCache(store, use_cache)
        self.pool = pool
        self.cancel = cancel

    def run(self, targets: Sequence[Step], outcome: Outcome) -> Generator[BuildEvent, None, None]:
        """Bring the targets' results into ``outcome``, yielding events.

        Raises what a step raised; the other running steps are stopped first.
        """
        steps = in_order(targets)
        numbers = {step: number for number, step in enumerate(steps, start=1)}
        missing: list[Step] = []
        for step in steps:
            result, key = (None, "") if step.fetches else self.cache.look_up(step, outcome.results)
            if result is None:
                missing.append(step)
            else:
                outcome.results[step] = result
                outcome.keys[step] = key
                yield StepFinished(numbers[step], step.label, True, 0.0, 0, *names_of(step))
        if missing and self.use_cache and self.store.shared is not None:
            yield from self._take(missing, outcome, numbers)
            missing = [step for step in missing if step not in outcome.results]
        for step in self.there(steps, missing, bring=True):
            missing.remove(step)
            outcome.results[step] = Result()
            yield StepFinished(numbers[step], step.label, True, 0.0, 0, *names_of(step))
        if missing:
            yield from self._run(missing, outcome, numbers)

    def _run(
        self,
        steps: Sequence[Step],
        outcome: Outcome,
        numbers: Mapping[Step, int],
        *,
        takes: bool = False,
    ) -> Iterator[BuildEvent]:
        from mbuild.build.running import GraphRun

        pool, cancel = self.pool, self.cancel
        run = GraphRun(self.cache, outcome, numbers, steps, takes=takes, pool=pool, cancel=cancel)
        return run.events()

    def _take(
        self, missing: Sequence[Step], outcome: Outcome, numbers: Mapping[Step, int]
    ) -> Iterator[BuildEvent]:
        """Take what other machines have made, before anything is fetched to make it from."""
        from mbuild.build.exchange import foreseen

        assert self.store.shared is not None
        found = foreseen(missing, outcome.results, self.store.shared)
        if found:
            yield from self._run(found, outcome, numbers, takes=True)

    def there(self, steps: Sequence[Step], missing: Collection[Step], *, bring: bool) -> list[Step]:
        """The fetching steps that need not run: nobody who runs needs them, or all is here."""
        needed = {each for step in missing if not step.fetches for each in step.needs}
        needed |= {each for step in steps if step.holds for each in step.needs}
        there = []
        for step in reversed(steps):  # who fetches may need what another one fetches
            if not step.fetches:
                continue
            if step not in needed or step.is_there(self.store, bring=bring):
                there.append(step)
            else:
                needed.update(step.needs)
        return there[::-1]
