"""Runs a graph of steps: cached ones from the cache, the others as soon as they can.

The engine knows no kind of step. A build with nothing to do stays in
:func:`look_up` and starts no thread.
"""

from __future__ import annotations

import time
from collections.abc import (
    Callable,
    Collection,
    Container,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mbuild.build.graph import (
    Made,
    Result,
    Step,
    StepContext,
    before,
    cache_key,
    describe,
    in_order,
    names_of,
)
from mbuild.core.errors import MbuildError
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
from mbuild.store.records import DESCRIPTION, STEP

if TYPE_CHECKING:
    import queue
    from concurrent.futures import Future

    from mbuild.core.digest import Digest
    from mbuild.store import Layer
    from mbuild.store.ports import BuildStore
    from mbuild.store.records import Took
    from mbuild.work.cancel import Cancel
    from mbuild.work.pools import WorkerPool

_REPORT_SECONDS = 0.1
_LEAST_AT_ONCE = 2
"""Steps at once where one thread computes: of two one often waits for the disk."""
_FLUSH_SECONDS = 0.2
_LOOK_SECONDS = 0.1  # between two looks whether a run was stopped from another thread


class Run(NamedTuple):
    """When a step ran: seconds since the clock's zero, and seconds of work.

    ``new`` are the layers that it made and that the store did not have before, ``limits``
    the seconds in which each resource held it up.
    """

    started: float
    seconds: float
    new: tuple[Layer, ...] = ()
    limits: Mapping[str, float] = {}

    @property
    def written(self) -> int:
        """Bytes of the new layers."""
        return sum(layer.size for layer in self.new)


class Outcome:
    """What running a graph gave: every step's result and key.

    ``begun`` says when steps began, by the monotonic clock, those that never ended
    among them. For those that ran also when they did, what was hashed for their keys, and
    why there was no cached result, should no input have changed. ``files`` are the digests
    that were found by reading, by path. ``fetched`` are the bytes of layers that came from other
    machines.
    """

    def __init__(self) -> None:
        self.results: dict[Step, Result] = {}
        self.keys: dict[Step, str] = {}
        self.ran: dict[Step, Run] = {}
        self.begun: dict[Step, float] = {}
        self.descriptions: dict[Step, dict[str, Any]] = {}
        self.lost: dict[Step, Note] = {}
        self.files: dict[str, Digest] = {}
        self.fetched: dict[Step, int] = {}


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
            result, key = (None, "") if step.fetches else self.look_up(step, outcome.results)
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
            yield from _Run(self, outcome, numbers, missing).events()

    def _take(
        self, missing: Sequence[Step], outcome: Outcome, numbers: Mapping[Step, int]
    ) -> Iterator[BuildEvent]:
        """Take what other machines have made, before anything is fetched to make it from."""
        from mbuild.build.exchange import foreseen

        assert self.store.shared is not None
        found = foreseen(missing, outcome.results, self.store.shared)
        if found:
            yield from _Run(self, outcome, numbers, found, takes=True).events()

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

    def look_up(
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
                return result
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

    def record(self, description: Mapping[str, Any], made: Made) -> str:
        """Keep a step's result, and its description, under its key; returns the key.

        The layers that it made outlive the models that name them.
        """
        for layer in made.new:
            self.store.blobs.keep(layer.digest)
        key = cache_key(description)
        self.store.cache.put(STEP, key, made.result.to_json())
        self.store.cache.put(DESCRIPTION, key, description)
        return key


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


class _Run:
    """One run of the steps that have no cached result, on a few threads."""

    def __init__(
        self,
        engine: BuildEngine,
        outcome: Outcome,
        numbers: Mapping[Step, int],
        steps: Sequence[Step],
        *,
        takes: bool = False,
    ) -> None:
        """``takes``: nothing is made, and what other machines do not have is left."""
        import queue

        from mbuild.work.cancel import Cancel

        self._engine = engine
        self._outcome = outcome
        self._numbers = numbers
        self._steps = steps
        self._takes = takes
        self._found: dict[str, Digest] = {}  # of files that were read or fetched, by path
        self._arriving: dict[Digest, Any] = {}
        self._events: queue.SimpleQueue[BuildEvent | _Done | _Begun | Future[None]] = (
            queue.SimpleQueue()
        )
        self._cancel = Cancel("the build was stopped", engine.cancel)

    def events(self) -> Iterator[BuildEvent]:
        from concurrent.futures import Future, ThreadPoolExecutor

        from mbuild.build.waiting import Waiting, batches
        from mbuild.work.cores import cores

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
                    ready = waiting.begun(event.step) if self._engine.pool is None else []
                else:
                    yield event
        finally:
            self._cancel.cancel()
            pool.shutdown(wait=True, cancel_futures=True)
            for arrival in self._arriving.values():
                arrival.release()

    def _next(self) -> BuildEvent | _Done | _Begun | Future[None]:
        """The next event; raises :class:`CancelledError` soon after the run was stopped."""
        import queue

        if self._engine.cancel is None:  # only whoever closes the iterator stops it
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
        engine, results = self._engine, self._outcome.results
        # Steps whose inputs had to run may still be cached, if those came out as before.
        missing: dict[Step, str] = {}
        for step in steps:
            if step.fetches:
                self._outcome.lost[step] = Note(Cause.NOT_HERE)
                missing[step] = ""
                continue
            result, key = engine.look_up(self._learned(step), results)
            if result is None:
                self._outcome.lost[step] = engine.lost(key)
                missing[step] = key
            else:
                self._events.put(_Done(step, result, key))
        if missing:
            self._obtain(missing)

    def _obtain(self, missing: Mapping[Step, str]) -> None:
        """Make what is missing, or have it from other machines; keys are empty where unknown."""
        engine = self._engine
        shared = engine.store.shared
        if shared is None or not engine.use_cache:
            self.make([*missing])
            return
        from mbuild.build.exchange import SharedSteps

        exchange = SharedSteps(engine.store, shared, self)
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
            self._engine.store.cache.flush()

    def _inputs(self, step: Step) -> list[Result]:
        return [self._outcome.results[source] for source in step.inputs]

    def _measure(self, step: Step, made: Made, began: float) -> None:
        """Keep how long it took, for whoever has the choice to fetch such a result."""
        if step.reads and not step.fetches:
            from mbuild.build.rates import remember

            size = sum(layer.size for layer in made.result.layers)
            remember(self._engine.store, step, size, _took(began))

    def _record(self, step: Step, made: Made, files: Mapping[str, Digest], began: float) -> bool:
        """Keep a new result in the cache, if everything that decides it is known."""
        description = describe(step.learned(files), self._inputs(step))
        if description is not None:
            self._outcome.descriptions[step] = description
            kept = (
                made._replace(new=()) if step.fetches else made
            )  # it keeps what it fetched itself
            key = self._outcome.keys[step] = self._engine.record(description, kept)
            self._give(step, key, made.result, description, began)
        return description is not None

    def _give(
        self, step: Step, key: str, result: Result, description: Mapping[str, Any], began: float
    ) -> None:
        shared = self._engine.store.shared
        if shared is not None and shared.writes:
            from mbuild.build.exchange import give

            give(shared, step, key, result, description, _took(began))

    def _context(self, step: Step) -> StepContext:
        from mbuild.build.waiting import passes

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
            lambda: self._events.put(_Begun(step)),
            self._arriving,
            step.fetches and passes(step, self._steps),
            self._engine.pool,
        )


def _took(began: float) -> Took:
    """The time since then, on all cores that this process may use."""
    from mbuild.store.records import Took
    from mbuild.work.cores import cores

    return Took(time.monotonic() - began, cores())
