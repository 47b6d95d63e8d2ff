"""Fetch or make: by what this machine has measured, by what others say, else by a guess."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import fakes
import pytest
from fakes import FakeStep
from fakes_shared import MemoryStorage
from fakes_store import MemoryStore

from mbuild.build.costs import Cost
from mbuild.build.engine import BuildEngine
from mbuild.build.exchange import Weighed, weigh
from mbuild.build.rates import Estimate, remember, seconds_to_make
from mbuild.build.reasons import Explanation
from mbuild.build.results import Outcome
from mbuild.build.surveying import State, survey
from mbuild.core.digest import Digest
from mbuild.core.events import Cause, Code, Note, Status
from mbuild.shared.cache import TeamCache
from mbuild.store.ports import BuildStore
from mbuild.store.records import RATES, TOOK, Took
from mbuild.work import cores

KEY = "ab" * 32
SIZE = 100_000_000


class Quantizing(FakeStep):
    """A step that takes all cores and reads weights."""

    kind: ClassVar[str] = "fake-quantizing"
    reads: ClassVar[int] = 1
    target: ClassVar[str] = "Q4_K_M"

    def cost(self, store: BuildStore) -> Cost:
        """As large as its text."""
        return Cost(writes=len(self.text), every_core=True)


STEP = Quantizing("a", "b")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[MemoryStore, TeamCache]:
    """A store on four cores, and what it shares."""
    monkeypatch.setattr("mbuild.work.cores.cores", lambda: 4)
    store = MemoryStore(tmp_path)
    return store, TeamCache([], MemoryStorage(), store.blobs)


def test_the_machine_s_own_runs_count_most(machine: tuple[MemoryStore, TeamCache]) -> None:
    """The middle of the last ones, by the bytes made; others' word and the guess come after."""
    store, shared = machine
    assert seconds_to_make(STEP, KEY, store, shared, SIZE) == Estimate(2.0 + 0.25, "guess")
    shared.put(TOOK, KEY, Took(30.0, 2))
    assert seconds_to_make(STEP, KEY, store, shared, SIZE) == Estimate(15.0, "elsewhere")
    for seconds in (8.0, 400.0, 10.0):
        remember(store, STEP, 2 * SIZE, Took(seconds, 4))
    assert seconds_to_make(STEP, KEY, store, shared, SIZE) == Estimate(5.0, "here")
    other = Quantizing("other", "c")
    assert seconds_to_make(other, KEY, store, shared, 2 * SIZE) == Estimate(10.0, "here")


def test_only_runs_that_tell_a_rate_are_remembered(machine: tuple[MemoryStore, TeamCache]) -> None:
    """Not those that were over at once, nor without a result; and the last eight."""
    store, _ = machine
    remember(store, STEP, SIZE, Took(0.1, 4))
    remember(store, STEP, 0, Took(10.0, 4))
    assert store.cache.get(RATES, "fake-quantizing Q4_K_M") is None
    for number in range(1, 12):
        remember(store, STEP, SIZE, Took(float(number), 2))
    rows = store.cache.get(RATES, "fake-quantizing Q4_K_M")
    assert rows == [[SIZE, 2.0 * number] for number in range(4, 12)]


def test_the_faster_way_is_taken(machine: tuple[MemoryStore, TeamCache]) -> None:
    """By the seconds that both take; where only running could tell it is fetched."""
    store, shared = machine
    vars(shared)["_pace"].add(10_000_000, 1.0)  # ten megabytes a second
    blobs = {Digest("0" * 64): SIZE}
    remember(store, STEP, SIZE, Took(9.0, 4))
    weighed = weigh(STEP, KEY, blobs, store, shared)
    assert weighed == Weighed(pytest.approx(10.0), Estimate(9.0, "here")) and not weighed.pays
    for _ in range(3):
        remember(store, STEP, SIZE, Took(11.0, 4))
    assert weigh(STEP, KEY, blobs, store, shared).pays
    assert Weighed(1000.0, None).pays
    note = Note(Cause.MADE_SOONER, weighed.values())
    (said,) = Explanation(note=note).texts()
    assert said.endswith("would come in 10 s and is made here in 9.0 s,"
                         " as such steps took on this machine")  # fmt: skip


def test_a_build_measures_and_tells_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it took goes with the result, and stays here as a rate; a plan says what is taken."""
    monkeypatch.setattr("mbuild.build.rates._SHORTEST", 0.0)
    fakes.RUNS.clear()
    storage, step = MemoryStorage(), Quantizing("slow", "x" * 100)
    one, two = MemoryStore(tmp_path / "1"), MemoryStore(tmp_path / "2")
    one.shared = TeamCache([], storage, one.blobs)
    outcome = Outcome()
    list(BuildEngine(one).run([step], outcome))
    list(one.shared.drain())
    ((size, work),) = one.cache.get(RATES, "fake-quantizing Q4_K_M") or []
    assert size == 100 and work > 0
    two.shared = TeamCache([storage], None, two.blobs)
    took = two.shared.get_many(TOOK, [outcome.keys[step]])[outcome.keys[step]]
    assert took.seconds >= 0 and took.cores == cores.cores()
    (row,) = survey(BuildEngine(two), [step])
    assert row.state is State.SHARED and row.weighed is not None
    assert row.weighed.making is not None and row.weighed.making.source == "elsewhere"
    two.cache.put(RATES, "fake-quantizing Q4_K_M", [[100, 1e-9]])
    vars(two.shared)["_pace"].add(1 << 20, 1000.0)
    (row,) = survey(BuildEngine(two), [step])
    assert row.state is State.RUN and row.lost is not None
    assert row.lost.cause is Cause.MADE_SOONER and row.lost.values["by"] == "here"
    events = list(BuildEngine(two).run([step], Outcome()))
    (said,) = [e for e in events if isinstance(e, Status) and e.code is Code.MAKING_SOONER]
    assert said.values["making"] == 0.0 and float(str(said.values["fetching"])) > 0
    assert fakes.RUNS == ["slow", "slow"]


@pytest.mark.parametrize(
    "text", ["[]", "[1]", "[-1, 2]", "[1, 0]", '["1", 2]', "[1, true]", "[1e400, 1]", "[NaN, 1]",
             "[1, 99999999]", "{}", "x", "[1, 1.5]"]
)  # fmt: skip
def test_a_time_that_no_step_takes_counts_as_none(text: str) -> None:
    """Whatever somebody wrote."""
    assert TOOK.read(text) is None
    assert RATES.read("[[0, 1]]") is None and RATES.read("[[1, -1]]") is None
