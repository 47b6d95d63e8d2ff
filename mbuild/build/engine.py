"""Runs a graph of steps: cached ones from the cache, the others as soon as they can.

The engine knows no kind of step. A build with nothing to do stays in
:func:`_look_up` and starts no thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from mbuild.build.graph import (
    Result,
    Step,
    StepContext,
    cache_key,
    describe,
    in_order,
    names_of,
)
from mbuild.core.errors import MbuildError
from mbuild.core.events import (
    BuildEvent,
    Cause,
    Note,
    Status,
    StepFinished,
    StepProgress,
    StepStarted,
    Warned,
)
from mbuild.store.records import DESCRIPTION, STEP

if TYPE_CHECKING:
    import queue
    from concurrent.futures import Future

    from mbuild.store.ports import BuildStore

_REPORT_SECONDS = 0.1
_FLUSH_SECONDS = 0.2
_WORKERS = 4


class Run(NamedTuple):
    """When a step ran: seconds since the clock's zero, and seconds of work."""

    started: float
    seconds: float


class Outcome:
    """What running a graph gave: every step's result and key.

    ``begun`` says when steps began, by the monotonic clock, those that never ended
    among them. For those that ran also when they did, what was hashed for their keys, and
    why there was no cached result, should no input have changed.
    """

    def __init__(self) -> None:
        self.results: dict[Step, Result] = {}
        self.keys: dict[Step, str] = {}
        self.ran: dict[Step, Run] = {}
        self.begun: dict[Step, float] = {}
        self.descriptions: dict[Step, dict[str, Any]] = {}
        self.lost: dict[Step, Note] = {}


class State(StrEnum):
    """What a build would do with a step."""

    CACHED = "cached"
    RUN = "run"
    DEPENDS = "depends"
    """It runs if a step that has to run before it comes out differently."""


class Surveyed(NamedTuple):
    """A step before a build; ``description`` is None while not all of it is known.

    ``lost`` is why it has no cached result, should no input have changed.
    """

    step: Step
    state: State
    description: dict[str, Any] | None
    key: str = ""
    lost: Note | None = None


class Engine:
    """Runs steps against one store. ``use_cache=False`` runs every step."""

    def __init__(self, store: BuildStore, use_cache: bool = True) -> None:
        self.store = store
        self.use_cache = use_cache

    def run(self, targets: Sequence[Step], outcome: Outcome) -> Iterator[BuildEvent]:
        """Bring the targets' results into ``outcome``, yielding events.

        Raises what a step raised; the other running steps are stopped first.
        """
        steps = in_order(targets)
        numbers = {step: number for number, step in enumerate(steps, start=1)}
        missing: list[Step] = []
        for step in steps:
            result, key = self._look_up(step, outcome.results)
            if result is None:
                missing.append(step)
            else:
                outcome.results[step] = result
                outcome.keys[step] = key
                yield StepFinished(numbers[step], step.label, True, 0.0, 0, *names_of(step))
        if missing:
            yield from _Run(self, outcome, numbers, missing).events()

    def survey(self, targets: Sequence[Step]) -> list[Surveyed]:
        """What a build would do with each step, in order, without running any."""
        results: dict[Step, Result] = {}
        rows: list[Surveyed] = []
        for step in in_order(targets):
            result, _ = self._look_up(step, results, bring=False)
            if result is not None:
                results[step] = result
            if any(source not in results for source in step.inputs):
                rows.append(Surveyed(step, State.DEPENDS, None))
                continue
            description = describe(step, [results[source] for source in step.inputs])
            key = cache_key(description) if description else ""
            state = State.RUN if result is None else State.CACHED
            rows.append(Surveyed(step, state, description, key, self.lost(key)))
        return rows

    def _look_up(
        self, step: Step, results: Mapping[Step, Result], bring: bool = True
    ) -> tuple[Result | None, str]:
        """The cached result of a step, if it is recorded and its layers are still there.

        With it the step's key, empty while that is not known. Layers that only the cache
        keeps are brought back, unless nothing is to be written.
        """
        if not self.use_cache or any(source not in results for source in step.inputs):
            return None, ""
        description = describe(step, [results[source] for source in step.inputs])
        if description is None:
            return None, ""
        key = cache_key(description)
        return self._cached(key, bring), key

    def _cached(self, key: str, bring: bool) -> Result | None:
        """What is recorded under a key, if its layers are still there; ``bring`` them back."""
        text = self.store.cache.get(STEP, key)
        if text is None:
            return None
        with suppress(ValueError, KeyError, TypeError, MbuildError):
            result = Result.from_json(text)
            sizes = {layer.digest: layer.size for layer in result.layers}
            blobs = self.store.blobs
            if bring:
                whole = all(blobs.bring(*item) for item in sizes.items())
            else:
                whole = not blobs.missing(sizes)
            if whole:
                return result._replace(existed=frozenset(layer.digest for layer in result.layers))
        return None

    def lost(self, key: str) -> Note:
        """Why there is no result under a key: it was never there, or its layers are gone.

        Without a key files had to be read for it, and nothing but that was the reason.
        """
        if not key:
            return Note(Cause.READ_AGAIN)
        text = self.store.cache.get(STEP, key)
        with suppress(ValueError, KeyError, TypeError, MbuildError):
            for layer in Result.from_json(text or "").layers:
                size = self.store.blobs.size(layer.digest)
                if size is not None and size != layer.size:
                    return Note(Cause.LAYER_DAMAGED, {"layer": layer.digest.short, "size": size})
                if size is None:
                    return Note(Cause.LAYER_REMOVED, {"layer": layer.digest.short})
        return Note(Cause.RESULT_REMOVED)

    def record(self, description: Mapping[str, Any], result: Result) -> str:
        """Keep a step's result, and its description, under its key; returns the key.

        The layers that it made outlive the models that name them.
        """
        for layer in result.layers:
            if layer.digest not in result.existed:
                self.store.blobs.keep(layer.digest)
        key = cache_key(description)
        self.store.cache.put(STEP, key, result.to_json())
        self.store.cache.put(DESCRIPTION, key, description)
        return key


class _Done(NamedTuple):
    """A step's result and key, and when it ran, if it was not cached."""

    result: Result
    key: str
    run: Run | None = None
    description: dict[str, Any] | None = None


class _Run:
    """One run of the steps that have no cached result, on a few threads."""

    def __init__(
        self,
        engine: Engine,
        outcome: Outcome,
        numbers: Mapping[Step, int],
        steps: Sequence[Step],
    ) -> None:
        import queue

        from mbuild.work.cancel import Cancel

        self._engine = engine
        self._outcome = outcome
        self._numbers = numbers
        self._steps = steps
        self._events: queue.SimpleQueue[BuildEvent | Future[Any]] = queue.SimpleQueue()
        self._cancel = Cancel("the build was stopped")

    def events(self) -> Iterator[BuildEvent]:
        from concurrent.futures import Future, ThreadPoolExecutor

        needs = {
            step: [source for source in step.inputs if source not in self._outcome.results]
            for step in self._steps
        }
        waiting = {step: len(inputs) for step, inputs in needs.items()}
        users: dict[Step, list[Step]] = {step: [] for step in self._steps}
        for step, inputs in needs.items():
            for source in inputs:
                users[source].append(step)
        pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="mbuild-step")
        running: dict[Future[Any], list[Step]] = {}
        try:
            ready = [step for step, count in waiting.items() if count == 0]
            while ready or running:
                for batch in _batches(ready):
                    future = pool.submit(self._work, batch)
                    running[future] = batch
                    future.add_done_callback(self._events.put)
                ready = []
                event = self._events.get()
                if not isinstance(event, Future):
                    yield event
                    continue
                for step, done in zip(running.pop(event), event.result(), strict=True):
                    yield self._finish(step, done)
                    for user in users[step]:
                        waiting[user] -= 1
                        if waiting[user] == 0:
                            ready.append(user)
        finally:
            self._cancel.cancel()
            pool.shutdown(wait=True, cancel_futures=True)

    def _finish(self, step: Step, done: _Done) -> BuildEvent:
        outcome, number = self._outcome, self._numbers[step]
        outcome.results[step], outcome.keys[step] = done.result, done.key
        if done.run is None:
            return StepFinished(number, step.label, True, 0.0, 0, *names_of(step))
        outcome.ran[step] = done.run
        if done.description is not None:
            outcome.descriptions[step] = done.description
        return StepFinished(
            number, step.label, False, done.run.seconds, done.result.written, *names_of(step)
        )

    def _work(self, steps: Sequence[Step]) -> list[_Done]:
        """In a worker thread: each step's result, from the cache or made now."""
        engine, results = self._engine, self._outcome.results
        # Steps whose inputs had to run may still be cached, if those came out as before.
        found = {step: engine._look_up(step, results) for step in steps}
        missing = [step for step, (result, _) in found.items() if result is None]
        done = {step: _Done(r, key) for step, (r, key) in found.items() if r is not None}
        if missing:
            self._outcome.lost.update((step, engine.lost(found[step][1])) for step in missing)
            before = time.monotonic()
            self._outcome.begun.update(dict.fromkeys(missing, before))
            made = self._make(missing)
            run = Run(before, time.monotonic() - before)
            for step, result in zip(missing, made, strict=True):
                done[step] = self._record(step, result, run)
            if run.seconds > _FLUSH_SECONDS:
                engine.store.cache.flush()
        return [done[step] for step in steps]

    def _record(self, step: Step, result: Result, run: Run) -> _Done:
        """Keep a new result in the cache."""
        inputs = [self._outcome.results[source] for source in step.inputs]
        description = describe(step.learned(result), inputs)
        key = "" if description is None else self._engine.record(description, result)
        return _Done(result, key, run, description)

    def _make(self, steps: Sequence[Step]) -> list[Result]:
        """Run one step, or several of one group together."""
        for step in steps:
            leader, number = self._numbers[steps[0]], self._numbers[step]
            self._events.put(StepStarted(number, step.label, leader, *names_of(step)))
        context = self._context(steps[0])
        if len(steps) > 1:
            results: list[Result] = steps[0].run_together(steps, context)  # type: ignore[attr-defined]
            return results
        inputs = [self._outcome.results[source] for source in steps[0].inputs]
        return [steps[0].run(context, inputs)]

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
            self._engine.store,
            report,
            lambda code, values: self._events.put(Status(code, values)),
            lambda text: self._events.put(Warned(text)),
            self._engine.use_cache,
        )


def _batches(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps of one group together, all others alone."""
    batches: dict[int, list[Step]] = {}
    for step in steps:
        batches.setdefault(id(step if step.group is None else step.group), []).append(step)
    return list(batches.values())
