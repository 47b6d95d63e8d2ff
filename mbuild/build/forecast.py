"""What a build would do, without doing it: steps, bytes, time, and why."""

from __future__ import annotations

import statistics
from collections.abc import Hashable
from contextlib import suppress
from typing import TYPE_CHECKING

from mbuild.build.costs import Cost, PlannedTensor, memory_together
from mbuild.build.engine import BuildEngine
from mbuild.build.explain import DescribedStep, explain
from mbuild.build.graph import before, names_of
from mbuild.build.history import BuildRecord, History
from mbuild.build.prepare import Build, learn, plans_of
from mbuild.build.reasons import Explanation
from mbuild.build.recording import describe_steps
from mbuild.build.sources.values import Material
from mbuild.build.surveying import State, Surveyed
from mbuild.build.surveying import survey as surveyed
from mbuild.core.events import Cause, Note
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from mbuild.build.rates import Estimate
    from mbuild.build.request import BuildRequest
    from mbuild.store import Store

_PAST_BUILDS = 200
"""How many builds back the estimates look."""


class PlannedStep(NamedTuple):
    """A step before a build.

    ``inputs`` are places in the list of steps. ``reads``, ``fetches`` and ``writes`` are
    bytes of sources, of other machines' and of new blobs, 0 for a cached step;
    ``writes``, with what is fetched among it, is None when nobody can know yet. ``seconds`` is
    what such steps took on this machine, None while none ran. ``tensors`` are those of a
    quantization, ``memory`` is in bytes; ``every_core`` tells that the work spreads over all
    cores; ``eight_bits`` is what Q8_0 would take of weights that were quantized already.
    ``instead`` is how long making it here would take, of a result that is fetched.
    ``key`` is empty while it is not known; ``materials`` are the files, folders and
    models that the step is made from.
    """

    kind: str
    label: str
    state: State
    inputs: tuple[int, ...] = ()
    reads: int = 0
    writes: int | None = 0
    seconds: float | None = 0.0
    memory: int = 0
    tensors: tuple[PlannedTensor, ...] = ()
    why: Explanation | None = None
    key: str = ""
    materials: tuple[Material, ...] = ()
    every_core: bool = False
    fetches: int = 0
    eight_bits: int | None = None
    instead: Estimate | None = None

    @property
    def cached(self) -> bool:
        """Whether its result is in the cache."""
        return self.state is State.CACHED


class Forecast(NamedTuple):
    """All steps of a build to be; ``base`` is the build that it is compared with.

    ``manifests`` are the places of those that make the request's targets, one each.
    ``free`` is what the store's disk has room for, in bytes. ``seconds`` is
    None if some step that runs has no past to estimate from.
    """

    request: BuildRequest
    steps: tuple[PlannedStep, ...]
    base: BuildRecord | None
    free: int
    manifests: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What the models will be called, target by target."""
        return tuple(map(str, self.request.names))

    @property
    def reads(self) -> int:
        """Bytes of files and of stored weights to read; variants share one read."""
        reading = (step for step in self.to_run if step.reads)
        used = {material for step in reading for material in step.materials}
        return sum(material.size for material in used)

    @property
    def fetches(self) -> int:
        """Bytes that come from other machines."""
        return sum(step.fetches for step in self.to_run)

    @property
    def writes(self) -> int:
        """Bytes to write, where known: the disk's peak too, for nothing is written twice."""
        return sum(step.writes or 0 for step in self.to_run)

    @property
    def memory(self) -> int:
        """The peak of memory, in bytes."""
        return max((step.memory for step in self.to_run), default=0)

    @property
    def seconds(self) -> float | None:
        """How long the steps will take: the longest chain of them, for the others run beside.

        Work that spreads over all cores takes them from those on the chain, so it counts
        wherever it stands.
        """
        if any(step.seconds is None for step in self.to_run):
            return None
        if len(self.to_run) < 2:
            return sum(step.seconds or 0.0 for step in self.to_run)
        from mbuild.build.network import BuildGraph

        times = [step.seconds or 0.0 for step in self.steps]
        path = set(BuildGraph.of_rows(self.steps).critical_path(lambda place: times[place]))
        counts = (n for n, step in enumerate(self.steps) if n in path or step.every_core)
        return sum(times[place] for place in counts)

    @property
    def fits(self) -> bool:
        """Whether the disk has room for what will be written."""
        return self.writes <= self.free

    @property
    def to_run(self) -> tuple[PlannedStep, ...]:
        """The steps that are not cached."""
        return tuple(step for step in self.steps if not step.cached)


class Survey(NamedTuple):
    """Each step in order, what a build would do with it, and where it runs or may run, why.

    ``base`` is the build that it is compared with.
    """

    rows: tuple[Surveyed, ...]
    why: tuple[Explanation | None, ...]
    base: BuildRecord | None
    manifests: tuple[int, ...]


def survey(wanted: Build, store: Store) -> Survey:
    """Look every step up in the cache, and compare with the last build of the model."""
    learn(wanted, store)
    plans = plans_of(wanted, store)
    targets = [planned.manifest for planned in plans]
    ends = [step for planned in plans for step in planned.ends]
    rows = tuple(surveyed(BuildEngine(store, wanted.use_cache), ends))
    base = History(store).last_of(wanted.request)
    if base is None:
        reasons = [Explanation(note=Note(Cause.FIRST))] * len(rows)
    else:
        reasons = explain([_described(row) for row in rows], describe_steps(base, store), store)
    why = (_applies(row, reason, wanted) for row, reason in zip(rows, reasons, strict=True))
    places = {row.step: place for place, row in enumerate(rows)}
    return Survey(rows, tuple(why), base, tuple(places[target] for target in targets))


def _described(row: Surveyed) -> DescribedStep:
    return DescribedStep(*names_of(row.step), row.key, row.description, row.lost)


def forecast(wanted: Build, store: Store) -> Forecast:
    """What :func:`build` would do and take; reads headers, writes nothing."""
    rows, why, base, manifests = survey(wanted, store)
    past = _Past(store)
    places = {row.step: place for place, row in enumerate(rows)}
    shared: dict[Hashable, list[Cost]] = {}
    steps = []
    for row, explanation in zip(rows, why, strict=True):
        inputs = tuple(places[source] for source in before(row.step))
        planned = _planned(row, store, past, shared)
        steps.append(
            planned._replace(
                inputs=inputs, why=explanation, key=row.key, materials=row.step.materials
            )
        )
    for place, row in enumerate(rows):
        if steps[place].memory and row.step.group in shared:
            memory = memory_together(shared[row.step.group])
            steps[place] = steps[place]._replace(memory=memory)
    return Forecast(wanted.request, tuple(steps), base, _free(store.root), manifests)


def _applies(row: Surveyed, reason: Explanation, wanted: Build) -> Explanation | None:
    """Nothing to explain where nothing will run; no reason but the flag with ``--no-cache``."""
    if row.state in (State.CACHED, State.SHARED):
        return None
    if row.lost is not None and row.lost.cause is Cause.MADE_SOONER:
        return Explanation(note=row.lost)
    if row.state is State.DEPENDS:
        return Explanation(note=Note(Cause.DEPENDS))
    if not wanted.use_cache and (row.description is None or not reason.changes):
        return Explanation(note=Note(Cause.NO_CACHE))
    return reason


def _planned(
    row: Surveyed, store: Store, past: _Past, shared: dict[Hashable, list[Cost]]
) -> PlannedStep:
    """A step's sizes; ``shared`` collects the costs of groups, whose time is counted once."""
    step = row.step
    if row.state is State.CACHED:
        return PlannedStep(step.kind, step.label, row.state, tensors=step.tensors(store))
    if row.state is State.SHARED:
        size = row.fetches
        seconds = row.weighed.fetching if row.weighed is not None else 0.0
        making = row.weighed.making if row.weighed is not None else None
        planned = PlannedStep(step.kind, step.label, row.state, writes=size, fetches=size)
        return planned._replace(seconds=seconds, instead=making)
    if any(not each.is_there(store, bring=False) for each in step.needs):
        cost = Cost(None)  # its files' headers are not here
    else:
        cost = step.cost(store)
    first = step.group is None or step.group not in shared
    if step.group is not None:
        shared.setdefault(step.group, []).append(cost)
    size = (step.reads if first else 0) + (cost.writes or 0)
    return PlannedStep(
        step.kind,
        step.label,
        row.state,
        reads=step.reads,
        writes=cost.writes,
        seconds=0.0 if cost.in_passing else past.seconds(step.kind, size),
        memory=cost.memory,
        tensors=cost.tensors,
        every_core=cost.every_core,
        fetches=(cost.writes or 0) if step.fetches and not step.reads else 0,
        eight_bits=cost.eight_bits,
    )


class _Past:
    """How long steps took on this machine, by their kind."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rates: dict[str, list[tuple[int, float]]] | None = None

    def seconds(self, kind: str, size: int) -> float | None:
        """The estimate for a step over that many bytes read and written: the median rate.

        Small steps cost what they cost, whatever their bytes.
        """
        if self._rates is None:
            self._rates = self._read()
        runs = self._rates.get(kind)
        if not runs:
            return None
        least = min(seconds for _, seconds in runs)
        rate = statistics.median(seconds / max(bytes_, 1) for bytes_, seconds in runs)
        return max(least, rate * size)

    def _read(self) -> dict[str, list[tuple[int, float]]]:
        rates: dict[str, list[tuple[int, float]]] = {}
        for number, record in enumerate(History(self._store).newest_first()):
            if number >= _PAST_BUILDS:
                break
            groups: dict[tuple[str, float], tuple[int, float]] = {}
            for step in record.steps:
                if step.status == "ran":
                    key = (step.kind, step.started)  # steps that ran together
                    size, _ = groups.get(key, (step.read, 0.0))
                    made = sum(layer.size for layer in step.layers)
                    groups[key] = (size + made, step.seconds)
            for (kind, _), run in groups.items():
                rates.setdefault(kind, []).append(run)
        return rates


def _free(folder: Path) -> int:
    """Bytes free on the disk that the store lies on, or will."""
    import shutil

    for place in (folder, *folder.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(place).free
    return 0
