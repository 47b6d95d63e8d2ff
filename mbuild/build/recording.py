"""A build's line in the store's log: its steps, when they ran, and why."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mbuild import __version__
from mbuild.build.graph import Step, before, in_order, names_of
from mbuild.build.history import BuildRecord, History, StepRecord, new_id
from mbuild.build.results import Outcome
from mbuild.core.digest import Digest
from mbuild.core.events import (
    BuildEvent,
    Cause,
    Note,
    Reason,
    Status,
    StepFinished,
    StepProgress,
    StepStarted,
)
from mbuild.store.records import DESCRIPTION

if TYPE_CHECKING:
    from mbuild.build.explain import DescribedStep
    from mbuild.build.plan import Plan
    from mbuild.build.prepare import Build, Resolved
    from mbuild.build.reasons import Explanation
    from mbuild.build.underway import Telling
    from mbuild.store import Store


class Recorder:
    """Follows one build from its start, and adds it to the log at its end.

    Once the build does more than find results it also tells other processes that it runs.
    ``found`` and ``plans`` are what the build comes from and its graphs, once they are known.
    """

    def __init__(self, wanted: Build, store: Store) -> None:
        self._wanted = wanted
        self._store = store
        self._history = History(store)
        self._id = wanted.id or new_id()
        self._time = time.time_ns()
        self.clock = time.monotonic()
        self._targets: Sequence[Step] = ()
        self._ends: Sequence[Step] = ()
        self._outcome = Outcome()
        self._reasons: Mapping[Step, Reason] | None = None
        self.found: Sequence[Resolved] = ()
        self.plans: Sequence[Plan] = ()
        self._telling: Telling | None = None
        self._order: Sequence[Step] = ()
        self._places: Mapping[Step, int] = {}

    def begins(self, targets: Sequence[Step], outcome: Outcome, ends: Sequence[Step] = ()) -> None:
        """The graph is known; ``outcome`` fills while it runs.

        ``ends`` are the steps that nothing else needs, where those are not the targets alone.
        """
        self._targets, self._outcome, self._ends = targets, outcome, ends or targets
        if self._telling is not None:
            self._tell_all(self._telling)

    def watched(
        self, events: Generator[BuildEvent, None, None]
    ) -> Generator[BuildEvent, None, None]:
        """The same events; from the first that is more than a result found others are told."""
        try:
            for event in events:
                if self._telling is not None:
                    self._tell(self._telling, event)
                elif isinstance(event, (Status, StepStarted)):
                    from mbuild.build.underway import Telling

                    self._telling = Telling(self._store, self._id)
                    self._tell_all(self._telling)
                    self._tell(self._telling, event)
                if isinstance(event, StepProgress) and event.completed < event.total:
                    # While a long step runs, for which this thread waits: the end wants it.
                    import mbuild.build.provenance.keeping  # noqa: F401
                yield event
        finally:
            events.close()

    def _tell_all(self, telling: Telling) -> None:
        self._number()
        telling.tell(self._record("running", map(self._now, self._order)))

    def _number(self) -> None:
        """Give each step its place among the build's."""
        self._order = in_order(self._ends)
        self._places = {step: place for place, step in enumerate(self._order)}

    def _tell(self, telling: Telling, event: BuildEvent) -> None:
        """Tell what became of a step; that it begins may be known here before its outcome says."""
        if not isinstance(event, (StepStarted, StepFinished)):
            return
        place = event.step - 1  # 0 is what is fetched before there are steps
        if 0 <= place < len(self._order):
            now = self._now(self._order[place])
            if isinstance(event, StepStarted):
                now = now._replace(status="running", started=time.monotonic() - self.clock)
            telling.tell_step(place, now)

    def _now(self, step: Step) -> StepRecord:
        """A step while the build runs; why it runs is looked up when all is over."""
        outcome, record = self._outcome, self._described(step)
        result, run, begun = (
            outcome.results.get(step),
            outcome.ran.get(step),
            outcome.begun.get(step),
        )
        if run is not None:
            record = record._replace(
                status="ran",
                started=run.started - self.clock,
                seconds=run.seconds,
                written=run.written,
            )
        elif result is None and begun is not None:
            record = record._replace(status="running", started=begun - self.clock)
        elif result is None:
            record = record._replace(status="waiting")
        return record if result is None else record._replace(layers=result.layers)

    @property
    def reasons(self) -> Mapping[Step, Reason]:
        """Why each step ran that ran, in the build's order; looked up when first asked for."""
        if self._reasons is None:
            order = in_order(self._ends)
            self._reasons = _why(self._wanted, order, self._outcome, self._store, self._history)
        return self._reasons

    @property
    def ran(self) -> bool:
        """Whether any step ran so far."""
        return bool(self._outcome.ran)

    @property
    def files(self) -> Mapping[str, Digest]:
        """The digests of files that were found by reading, by path."""
        return self._outcome.files

    @property
    def first(self) -> bool:
        """Whether there is no earlier build of the model: nobody asks why it is built."""
        return {reason.causes for reason in self.reasons.values()} == {(Cause.FIRST,)}

    def ends(self, result: str, error: str = "", models: Mapping[str, Digest] = {}) -> BuildRecord:
        """Add the build to the log; its line there."""
        try:
            self._number()
            record = self._record(result, map(self._ended, self._order))
            record = record._replace(error=error, models=models)
            self._history.append(record)
            return record
        finally:
            if self._telling is not None:
                self._telling.end()

    def _record(self, result: str, steps: Iterable[StepRecord]) -> BuildRecord:
        """The build with these steps, as long as it has taken."""
        return BuildRecord(
            self._id,
            self._time,
            time.monotonic() - self.clock,
            self._wanted.request,
            {},
            result,
            "",
            tuple(steps),
            __version__,
            tuple(self._places[target] for target in self._targets),
        )

    def _described(self, step: Step) -> StepRecord:
        """A step whose result was in the cache, as far as it says it itself."""
        return StepRecord(
            step.kind,
            step.label,
            self._outcome.keys.get(step, ""),
            tuple(self._places[source] for source in before(step)),
            "cached",
            materials=step.materials,
            role=str(step.role),
            subject=step.subject,
            target=step.target,
            fetched=self._outcome.fetched.get(step, 0),
        )

    def _ended(self, step: Step) -> StepRecord:
        """A step when the build is over."""
        outcome, record = self._outcome, self._described(step)
        result, run = outcome.results.get(step), outcome.ran.get(step)
        if result is None:
            record = record._replace(status="unfinished", read=step.reads)
            begun = outcome.begun.get(step)
            if begun is None:
                return record
            took = time.monotonic() - begun
            return record._replace(started=begun - self.clock, seconds=took)
        shown = {name: result.facts.get(name) for name in step.shows}
        measured = {name: value for name, value in shown.items() if value is not None}
        record = record._replace(measured=measured)
        if run is None:
            return record._replace(layers=result.layers)
        reason = self.reasons.get(step)
        return record._replace(
            status="ran",
            reasons=reason.texts if reason else (),
            causes=reason.causes if reason else (),
            started=run.started - self.clock,
            seconds=run.seconds,
            read=step.reads,
            written=run.written,
            layers=result.layers,
        )


def describe_steps(record: BuildRecord, store: Store) -> list[DescribedStep]:
    """The steps of an earlier build with what was hashed for their keys, where it is kept."""
    from mbuild.build.explain import DescribedStep

    known = store.cache.get_many(DESCRIPTION, [step.key for step in record.steps if step.key])
    return [
        DescribedStep(s.kind, s.role, s.subject, s.target, s.key, known.get(s.key))
        for s in record.steps
    ]


def _why(
    wanted: Build, order: Sequence[Step], outcome: Outcome, store: Store, history: History
) -> dict[Step, Reason]:
    """The reasons of the steps that ran: what differs from the last build of the model."""
    ran = [step for step in order if step in outcome.ran]
    if not ran:
        return {}
    from mbuild.build.reasons import Explanation

    last = history.last_of(wanted.request)
    steps = [step for step in order if step in outcome.results]
    if last is None:
        rows = dict.fromkeys(ran, Explanation(note=Note(Cause.FIRST)))
    else:
        from mbuild.build.explain import DescribedStep, explain

        new = [
            DescribedStep(
                *names_of(step),
                outcome.keys.get(step, ""),
                outcome.descriptions.get(step),
                outcome.lost.get(step),
            )
            for step in steps
        ]
        found = explain(new, describe_steps(last, store), store)
        rows = dict(zip(steps, found, strict=True))
    return {step: _reason(step, rows[step], wanted) for step in ran}


def _reason(step: Step, why: Explanation, wanted: Build) -> Reason:
    """Why a step ran; where nothing differs, perhaps because no result was to be used."""
    if not why.changes and not wanted.use_cache and why.causes() != (Cause.FIRST,):
        why = why._replace(note=Note(Cause.NO_CACHE))
    return Reason(step.label, why.texts(), why.causes())
