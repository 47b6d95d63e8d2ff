"""What a build takes from other machines and gives to them, with small steps and no network."""

from __future__ import annotations

import threading
from pathlib import Path

import fakes
import pytest
from fakes import FakeStep
from fakes_shared import MemoryStorage
from fakes_store import MemoryStore

from mbuild.build.engine import BuildEngine
from mbuild.build.exchange import foreseen, matters, sane_result
from mbuild.build.results import Outcome
from mbuild.build.surveying import State, survey
from mbuild.core.events import Code, Status
from mbuild.shared.cache import TeamCache


class Reader(FakeStep):
    """A step that reads weights, so that single flight is for it."""

    kind = "fake-reading"

    @property
    def reads(self) -> int:
        """A byte."""
        return 1


class Small(FakeStep):
    """A step that takes no time."""

    kind = "fake-small"
    trivial = True


class Machine:
    """A store and its builds."""

    def __init__(self, folder: Path, storage: MemoryStorage, *, life: float = 30.0) -> None:
        self.store = MemoryStore(folder)
        self.cache = TeamCache([], storage, self.store.blobs, life=life)
        self.store.shared = self.cache
        self.outcome = Outcome()
        self.codes: list[Code] = []

    def build(self, *targets: FakeStep) -> None:
        """Run, and wait until all has arrived."""
        for event in BuildEngine(self.store).run(targets, self.outcome):
            if isinstance(event, Status):
                self.codes.append(event.code)
        list(self.cache.drain())


@pytest.fixture
def storage() -> MemoryStorage:
    """An empty storage."""
    fakes.RUNS.clear()
    return MemoryStorage()


def test_another_machine_runs_only_what_is_trivial(storage: MemoryStorage, tmp_path: Path) -> None:
    """A chain of steps is taken in whole; its keys follow from the answers."""
    below = Reader("below", "a")
    above = Small("top", "c", (FakeStep("middle", "b", (below,)),))
    one, two = Machine(tmp_path / "1", storage), Machine(tmp_path / "2", storage)
    one.build(above)
    assert fakes.RUNS == ["below", "middle", "top"]
    states = [row.state for row in survey(BuildEngine(two.store), [above])]
    assert states == [State.SHARED, State.SHARED, State.RUN]
    two.build(above)
    assert fakes.RUNS == ["below", "middle", "top", "top"]
    assert two.outcome.results == one.outcome.results
    assert Code.TOOK_SHARED in two.codes
    assert not matters(above)
    storage.asked.clear()
    two.build(above)
    assert [what for what, _ in storage.asked if what != "sizes"] == [], "all is here"


def test_waves_of_steps_are_asked_for_together(storage: MemoryStorage, tmp_path: Path) -> None:
    """Forty steps over forty others are two questions."""
    below = [FakeStep(f"below {number}", f"{number}") for number in range(40)]
    above = [
        FakeStep(f"above {number}", f"x{number}", (step,)) for number, step in enumerate(below)
    ]
    one, two = Machine(tmp_path / "1", storage), Machine(tmp_path / "2", storage)
    one.build(*above)
    storage.asked.clear()
    found = foreseen([*below, *above], {}, two.cache)
    assert set(found) == {*below, *above}
    assert [(what, len(names)) for what, names in storage.asked] == [("read", 40), ("read", 40)]


def test_of_two_at_once_one_makes_it(storage: MemoryStorage, tmp_path: Path) -> None:
    """The second one begins while the first is at work, and waits for it."""
    begun, may_end = threading.Event(), threading.Event()
    step = Reader("slow", "a", then=lambda context: (begun.set(), may_end.wait(20)))
    one, two = Machine(tmp_path / "1", storage), Machine(tmp_path / "2", storage)
    first = threading.Thread(target=one.build, args=(step,))
    first.start()
    assert begun.wait(20)
    second = threading.Thread(target=two.build, args=(Reader("slow", "a"),))
    second.start()
    second.join(0.5)
    assert second.is_alive()
    may_end.set()
    first.join(20)
    second.join(20)
    assert fakes.RUNS == ["slow"]
    assert Code.WAITING_FOR_MACHINE in two.codes
    assert one.outcome.results == two.outcome.results
    assert not any(name.startswith("lease/") for name in storage.held)


def test_a_holder_that_fails_lets_go(storage: MemoryStorage, tmp_path: Path) -> None:
    """An error of one machine is not the other's: it makes the step itself, at once."""

    def fail(context: object) -> None:
        raise ZeroDivisionError

    one, two = Machine(tmp_path / "1", storage), Machine(tmp_path / "2", storage)
    with pytest.raises(ZeroDivisionError):
        one.build(Reader("bad", "a", then=fail))
    one.cache.close()
    assert not any(name.startswith("lease/") for name in storage.held)
    two.build(Reader("good", "a"))
    assert fakes.RUNS == ["bad", "good"]


def test_a_holder_that_died_is_taken_over(storage: MemoryStorage, tmp_path: Path) -> None:
    """Nobody renews its lease, so whoever waits makes the step."""
    begun, may_end = threading.Event(), threading.Event()
    step = Reader("slow", "a", then=lambda context: (begun.set(), may_end.wait(20)))
    one = Machine(tmp_path / "1", storage, life=0.4)
    two = Machine(tmp_path / "2", storage, life=0.4)
    first = threading.Thread(target=one.build, args=(step,))
    first.start()
    assert begun.wait(20)
    vars(one.cache)["_leases"]._renewing.stop()  # as if it had been killed
    two.build(Reader("other", "a"))
    assert fakes.RUNS == ["slow", "other"]
    assert Code.TAKING_OVER in two.codes
    may_end.set()
    first.join(20)
    made = [list(machine.outcome.results.values()) for machine in (one, two)]
    assert made[0] == made[1], "both made the same bytes"


def test_what_was_cached_here_is_given_too(storage: MemoryStorage, tmp_path: Path) -> None:
    """A machine that built before it knew the shared cache fills it without building."""
    from mbuild.build.exchange import give_cached

    step = Reader("before", "a")
    one, two = Machine(tmp_path / "1", storage), Machine(tmp_path / "2", storage)
    one.store.shared = None
    one.build(step)
    one.store.shared = one.cache
    give_cached(one.cache, one.outcome.keys, one.outcome.results)
    list(one.cache.drain())
    two.build(step)
    assert fakes.RUNS == ["before"]


def test_without_cache_nothing_is_taken_and_all_is_given(
    storage: MemoryStorage, tmp_path: Path
) -> None:
    """``--no-cache`` runs every step, and its results are of use to others."""
    step = Reader("step", "a")
    one, two = Machine(tmp_path / "1", storage), Machine(tmp_path / "2", storage)
    one.build(step)
    list(BuildEngine(two.store, use_cache=False).run([step], two.outcome))
    assert fakes.RUNS == ["step", "step"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        '{"layers": [], "facts": null}',
        '{"layers": [{}], "facts": {}}',
        '{"layers": 5, "facts": {}}',
        '{"layers": [{"mediaType": "x", "digest": "sha256:0", "size": 1}], "facts": {}}',
        '{"layers": ' + "[" * 100_000,
    ],
)
def test_what_no_result_can_be_is_none(text: str) -> None:
    """A record of another machine is read with care."""
    assert sane_result(FakeStep("a", "b"), text) is None
