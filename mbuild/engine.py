"""Runs a graph of steps: cached ones from the cache, the others as soon as they can.

The engine knows no kind of step. A build with nothing to do stays in
:func:`_look_up` and loads neither networkx nor threads.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mbuild.errors import CancelledError, MbuildError
from mbuild.events import BuildEvent, Status, StepFinished, StepProgress, StepStarted, Warned
from mbuild.graph import Result, Step, StepContext, as_networkx, cache_key, describe, in_order

if TYPE_CHECKING:
    import queue
    import threading
    from concurrent.futures import Future

    import networkx

    from mbuild.store import Store

_RECORD = "step"
_REPORT_SECONDS = 0.1
_FLUSH_SECONDS = 0.2
_WORKERS = 4


class Outcome:
    """What running a graph gave: every step's result, and which of them ran."""

    def __init__(self) -> None:
        self.results: dict[Step, Result] = {}
        self.ran: set[Step] = set()


class Engine:
    """Runs steps against one store. ``use_cache=False`` runs every step."""

    def __init__(self, store: Store, use_cache: bool = True) -> None:
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
            result = self._look_up(step, outcome.results)
            if result is None:
                missing.append(step)
            else:
                outcome.results[step] = result
                yield StepFinished(numbers[step], step.label, True, 0.0, 0, step.kind)
        if missing:
            yield from _Run(self, outcome, numbers, missing).events()

    def survey(self, targets: Sequence[Step]) -> list[tuple[Step, bool]]:
        """Each step in order and whether its result is in the cache, without running any.

        A step whose inputs would have to run first counts as not cached.
        """
        results: dict[Step, Result] = {}
        rows: list[tuple[Step, bool]] = []
        for step in in_order(targets):
            result = self._look_up(step, results)
            if result is not None:
                results[step] = result
            rows.append((step, result is not None))
        return rows

    def _look_up(self, step: Step, results: Mapping[Step, Result]) -> Result | None:
        """The cached result of a step, if it is recorded and its layers are still there."""
        if not self.use_cache or any(source not in results for source in step.inputs):
            return None
        description = describe(step, [results[source] for source in step.inputs])
        if description is None:
            return None
        text = self.store.database.get(_RECORD, cache_key(description))
        if text is None:
            return None
        with suppress(ValueError, KeyError, TypeError, MbuildError):
            result = Result.from_json(text)
            if all(self.store.blobs.has(layer.digest, layer.size) for layer in result.layers):
                return result._replace(existed=frozenset(layer.digest for layer in result.layers))
        return None

    def record(self, step: Step, inputs: Sequence[Result], result: Result) -> None:
        """Keep a step's result under its key."""
        description = describe(step.learned(result), inputs)
        if description is not None:
            self.store.database.put(_RECORD, cache_key(description), result.to_json())


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
        import threading

        self._engine = engine
        self._outcome = outcome
        self._numbers = numbers
        self._steps = steps
        self._events: queue.SimpleQueue[BuildEvent | Future[Any]] = queue.SimpleQueue()
        self._stop: threading.Event = threading.Event()

    @cached_property
    def _graph(self) -> networkx.DiGraph[Step]:
        import networkx

        graph = as_networkx(self._steps)
        if not networkx.is_directed_acyclic_graph(graph):
            raise MbuildError("the build graph has a cycle")
        return graph

    def events(self) -> Iterator[BuildEvent]:
        from concurrent.futures import Future, ThreadPoolExecutor

        waiting = {
            step: sum(source not in self._outcome.results for source in step.inputs)
            for step in self._steps
        }
        pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="mbuild-step")
        running: dict[Future[Any], list[Step]] = {}
        try:
            ready = [step for step, count in waiting.items() if count == 0]
            while ready or running:
                for batch in _batches(ready):
                    future = pool.submit(self._work, batch)
                    running[future] = batch
                    future.add_done_callback(self._events.put)
                graph = self._graph  # networkx is loaded while the first steps run already
                ready = []
                event = self._events.get()
                if not isinstance(event, Future):
                    yield event
                    continue
                for step, outcome in zip(running.pop(event), event.result(), strict=True):
                    yield self._finish(step, *outcome)
                    for user in graph.successors(step):
                        waiting[user] -= 1
                        if waiting[user] == 0:
                            ready.append(user)
        finally:
            self._stop.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _finish(self, step: Step, result: Result, cached: bool, seconds: float) -> BuildEvent:
        self._outcome.results[step] = result
        if not cached:
            self._outcome.ran.add(step)
        written = sum(layer.size for layer in result.layers if layer.digest not in result.existed)
        number = self._numbers[step]
        return StepFinished(number, step.label, cached, seconds, written, step.kind)

    def _work(self, steps: Sequence[Step]) -> list[tuple[Result, bool, float]]:
        """In a worker thread: each step's result, whether it was cached, and the seconds."""
        engine, results = self._engine, self._outcome.results
        # Steps whose inputs had to run may still be cached, if those came out as before.
        found = {step: engine._look_up(step, results) for step in steps}
        missing = [step for step in steps if found[step] is None]
        before = time.monotonic()
        made = self._make(missing) if missing else []
        seconds = time.monotonic() - before
        for step, result in zip(missing, made, strict=True):
            engine.record(step, [results[source] for source in step.inputs], result)
            found[step] = result
        if seconds > _FLUSH_SECONDS:
            engine.store.database.flush()
        return [(r, s not in missing, seconds) for s, r in found.items() if r is not None]

    def _make(self, steps: Sequence[Step]) -> list[Result]:
        """Run one step, or several of one group together."""
        for step in steps:
            leader = self._numbers[steps[0]]
            self._events.put(StepStarted(self._numbers[step], step.label, leader))
        context = self._context(steps[0])
        if len(steps) > 1:
            results: list[Result] = steps[0].run_together(steps, context)  # type: ignore[attr-defined]
            return results
        inputs = [self._outcome.results[source] for source in steps[0].inputs]
        return [steps[0].run(context, inputs)]

    def _context(self, step: Step) -> StepContext:
        number, label = self._numbers[step], step.label
        last = 0.0

        def report(completed: int, total: int) -> None:
            nonlocal last
            if self._stop.is_set():
                raise CancelledError("the build was stopped")
            now = time.monotonic()
            if total and (now - last >= _REPORT_SECONDS or completed >= total):
                last = now
                self._events.put(StepProgress(number, label, completed, total))

        return StepContext(
            self._engine.store,
            report,
            lambda text: self._events.put(Status(text)),
            lambda text: self._events.put(Warned(text)),
        )


def _batches(steps: Sequence[Step]) -> list[list[Step]]:
    """Steps of one group together, all others alone."""
    batches: dict[int, list[Step]] = {}
    for step in steps:
        batches.setdefault(id(step if step.group is None else step.group), []).append(step)
    return list(batches.values())
