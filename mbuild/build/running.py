"""Runs the steps of a graph that have no cached result, each as soon as it can."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from mbuild.build.graph import Made, Result, Step, StepContext, before, names_of
from mbuild.build.results import Outcome, Run, describe
from mbuild.build.waiting import Waiting, batches, passes
from mbuild.core.events import (
    BuildEvent,
    Cause,
    Code,
    Note,
    Status,
    StepFinished,
    StepProgress,
    StepStarted,
    Value,
    Warned,
)
from mbuild.core.values import NamedTuple
from mbuild.store.records import Took
from mbuild.work.cancel import Cancel
from mbuild.work.cores import cores

if TYPE_CHECKING:
    from mbuild.build.results import StepCache
    from mbuild.core.digest import Digest
    from mbuild.work.pools import WorkerPool

_REPORT_SECONDS = 0.1
_LEAST_AT_ONCE = 2
"""Steps at once where one thread computes: of two one often waits for the disk."""
_FLUSH_SECONDS = 0.2
_LOOK_SECONDS = 0.1  # between two looks whether a run was stopped from another thread


class _Done(NamedTuple):
    """A step with its result and key, and when it ran, if it was not cached.

    ``fetched`` are bytes that came from other machines.
    """

    step: Step
    result: Result
    key: str
    run: Run | None = None
    fetched: int = 0


class _Begun(NamedTuple):
    """What a step fetches is on its way."""

    step: Step


class GraphRun:
    """One run of the steps that have no cached result, on a few threads."""

    def __init__(
        self,
        cache: StepCache,
        outcome: Outcome,
        numbers: Mapping[Step, int],
        steps: Sequence[Step],
        *,
        takes: bool = False,
        pool: WorkerPool | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        """``takes``: nothing is made, and what other machines do not have is left.

        ``pool`` and ``cancel`` are those of the engine.
        """
        self._cache = cache
        self._pool = pool
        self._outcome = outcome
        self._numbers = numbers
        self._steps = steps
        self._takes = takes
        self._found: dict[str, Digest] = {}  # of files that were read or fetched, by path
        self._arriving: dict[Digest, Any] = {}
        self._events: queue.SimpleQueue[BuildEvent | _Done | _Begun | Future[None]] = (
            queue.SimpleQueue()
        )
        self._can_be_stopped = cancel is not None
        self._cancel = Cancel("the build was stopped", cancel)

    def events(self) -> Iterator[BuildEvent]:
        """What happens; raises what a step raised, once the other steps are stopped."""
        waiting = Waiting(self._steps, self._others())
        pool = ThreadPoolExecutor(max(_LEAST_AT_ONCE, cores()), thread_name_prefix="mbuild-step")
        running = 0
        try:
            ready = waiting.ready()
            while ready or running:
                for batch in batches(ready):
                    pool.submit(self._work, batch).add_done_callback(self._events.put)
                    running += 1
                ready = []
                event = self._next()
                if isinstance(event, Future):
                    event.result()  # raises what a step raised
                    running -= 1
                elif isinstance(event, _Done):
                    yield self._finish(event)
                    ready = waiting.done(event.step)
                elif isinstance(event, _Begun):
                    # Workers read files by their names, so they have to be whole.
                    ready = waiting.begun(event.step) if self._pool is None else []
                else:
                    yield event
        finally:
            self._cancel.cancel()
            pool.shutdown(wait=True, cancel_futures=True)
            for arrival in self._arriving.values():
                arrival.release()

    def _next(self) -> BuildEvent | _Done | _Begun | Future[None]:
        """The next event; raises :class:`CancelledError` soon after the run was stopped."""
        if not self._can_be_stopped:  # only whoever closes the iterator stops it
            return self._events.get()
        while True:
            self._cancel.check()
            try:
                return self._events.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                continue

    def _others(self) -> Container[Step]:
        """What no step waits for: what is over, and what this run does without."""
        if not self._takes:
            return self._outcome.results
        own = set(self._steps)
        return {each for step in own for each in before(step) if each not in own}

    def _finish(self, done: _Done) -> BuildEvent:
        outcome, step, number = self._outcome, done.step, self._numbers[done.step]
        outcome.results[step] = done.result
        if done.run is None:
            outcome.keys[step] = done.key
            if done.fetched:
                outcome.fetched[step] = done.fetched
            return StepFinished(number, step.label, True, 0.0, 0, *names_of(step))
        outcome.ran[step] = done.run
        run, names = done.run, names_of(step)
        return StepFinished(
            number, step.label, False, run.seconds, run.written, *names, limits=run.limits
        )

    def _work(self, steps: Sequence[Step]) -> None:
        """In a worker thread: each step's result, from the cache or made now."""
        cache, results = self._cache, self._outcome.results
        # Steps whose inputs had to run may still be cached, if those came out as before.
        missing: dict[Step, str] = {}
        for step in steps:
            if step.fetches:
                self._outcome.lost[step] = Note(Cause.NOT_HERE)
                missing[step] = ""
                continue
            result, key = cache.look_up(self._learned(step), results)
            if result is None:
                self._outcome.lost[step] = cache.lost(key)
                missing[step] = key
            else:
                self._events.put(_Done(step, result, key))
        if missing:
            self._obtain(missing)

    def _obtain(self, missing: Mapping[Step, str]) -> None:
        """Make what is missing, or have it from other machines; keys are empty where unknown."""
        cache = self._cache
        shared = cache.store.shared
        if shared is None or not cache.use_cache:
            self.make([*missing])
            return
        from mbuild.build.exchange import SharedSteps

        exchange = SharedSteps(cache.store, shared, self)
        (exchange.take if self._takes else exchange.work)(missing)

    def took(self, step: Step, result: Result, key: str, size: int) -> None:
        """Another machine has made a step's result."""
        self._events.put(_Done(step, result, key, fetched=size))

    def comes(self, step: Step) -> Callable[[int, int], None]:
        """A result is fetched: that is shown like work."""
        number = self._numbers[step]
        self._events.put(StepStarted(number, step.label, number, *names_of(step)))
        return self._context(step).report

    def say(self, code: Code, values: Mapping[str, Value]) -> None:
        """Something about other machines."""
        self._events.put(Status(code, values))

    def check(self) -> None:
        """Whether to go on."""
        self._cancel.check()

    def _learned(self, step: Step) -> Step:
        """A step with the digests of what was read or fetched before it."""
        return step.learned(self._found) if self._found else step

    def make(self, steps: Sequence[Step]) -> None:
        """Run one step, or several of one group together; each result counts when it is there."""
        for step in steps:
            leader, number = self._numbers[steps[0]], self._numbers[step]
            self._events.put(StepStarted(number, step.label, leader, *names_of(step)))
        began = time.monotonic()
        self._outcome.begun.update(dict.fromkeys(steps, began))
        inputs = [self._inputs(step) for step in steps]
        files = dict(self._found)
        unrecorded: list[tuple[Step, Made]] = []
        weights: list[tuple[Step, Made]] = []
        own = {self._learned(step): step for step in steps}
        first, *_ = own
        for known, made in first.run_together([*own], self._context(steps[0]), inputs):
            step = own[known]
            files |= made.files
            self._found |= made.files
            if not self._record(step, made, files, began):
                unrecorded.append((step, made))
            if made.result.layers:
                weights.append((step, made))
            run = Run(began, time.monotonic() - began, made.new, made.limits)
            self._events.put(_Done(step, made.result, "", run))
        for step, made in unrecorded:  # until the files' digests were known
            self._record(step, made, files, began)
        self._outcome.files |= files
        if len(weights) == 1:  # of several nobody knows how long each would have taken alone
            self._measure(*weights[0], began)
        if time.monotonic() - began > _FLUSH_SECONDS:
            self._cache.store.cache.flush()

    def _inputs(self, step: Step) -> list[Result]:
        return [self._outcome.results[source] for source in step.inputs]

    def _measure(self, step: Step, made: Made, began: float) -> None:
        """Keep how long it took, for whoever has the choice to fetch such a result."""
        if step.reads and not step.fetches:
            from mbuild.build.rates import remember

            size = sum(layer.size for layer in made.result.layers)
            remember(self._cache.store, step, size, _took(began))

    def _record(self, step: Step, made: Made, files: Mapping[str, Digest], began: float) -> bool:
        """Keep a new result in the cache, if everything that decides it is known."""
        description = describe(step.learned(files), self._inputs(step))
        if description is not None:
            self._outcome.descriptions[step] = description
            kept = (
                made._replace(new=()) if step.fetches else made
            )  # it keeps what it fetched itself
            key = self._outcome.keys[step] = self._cache.record(description, kept)
            self._give(step, key, made.result, description, began)
        return description is not None

    def _give(
        self, step: Step, key: str, result: Result, description: Mapping[str, Any], began: float
    ) -> None:
        shared = self._cache.store.shared
        if shared is not None and shared.writes:
            from mbuild.build.exchange import give

            give(shared, step, key, result, description, _took(began))

    def _context(self, step: Step) -> StepContext:
        number, label, names = self._numbers[step], step.label, names_of(step)
        last = 0.0

        def report(completed: int, total: int) -> None:
            nonlocal last
            self._cancel.check()
            now = time.monotonic()
            if total and (now - last >= _REPORT_SECONDS or completed >= total):
                last = now
                self._events.put(StepProgress(number, label, completed, total, *names))

        return StepContext(
            self._cache.store,
            report,
            lambda code, values: self._events.put(Status(code, values)),
            lambda text: self._events.put(Warned(text)),
            self._cache.use_cache,
            lambda: self._events.put(_Begun(step)),
            self._arriving,
            step.fetches and passes(step, self._steps),
            self._pool,
        )


def _took(began: float) -> Took:
    """The time since then, on all cores that this process may use."""
    return Took(time.monotonic() - began, cores())
