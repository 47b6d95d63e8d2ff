"""What the engine promises, with three kinds of fake steps: the specification of the cache."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import fakes
import pytest
from fakes import FakeMember, FakeReader, FakeStep, waiting_for

from mbuild.build.engine import BuildEngine
from mbuild.build.graph import Step, StepContext
from mbuild.build.results import Outcome, cache_key, describe
from mbuild.build.surveying import State, survey
from mbuild.core.digest import Digest
from mbuild.core.errors import CancelledError, SourceError
from mbuild.core.events import BuildEvent, Cause, StepFinished, StepStarted, Warned
from mbuild.store import Store
from mbuild.store.records import STEP


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store, open for a build."""
    fakes.RUNS.clear()
    opened = Store(tmp_path)
    opened.begin()
    yield opened
    opened.end()


def run(store: Store, *targets: Step, use_cache: bool = True) -> tuple[list[str], Outcome]:
    """The names of the steps that ran, sorted, and the outcome."""
    fakes.RUNS.clear()
    outcome = Outcome()
    list(BuildEngine(store, use_cache).run(targets, outcome))
    return sorted(fakes.RUNS), outcome


def text_of(store: Store, outcome: Outcome, step: Step) -> str:
    """What a step put into its layer."""
    (layer,) = outcome.results[step].layers
    return store.blobs.read(layer.digest, 1000).decode()


def chain(first: str = "a", second: str = "b") -> tuple[FakeStep, FakeStep]:
    """A step, and one over it."""
    below = FakeStep("below", first)
    return below, FakeStep("above", second, (below,))


def test_a_step_gets_the_results_of_its_inputs(store: Store) -> None:
    """Inputs run before their users, which see what they came out as."""
    below, above = chain()
    ran, outcome = run(store, above)
    assert ran == ["above", "below"]
    assert fakes.RUNS == ["below", "above"]
    assert text_of(store, outcome, above) == f"b\n{outcome.results[below].layers[0].digest}"


def test_a_second_build_runs_nothing(store: Store) -> None:
    """Every result comes from the cache, under the key of its step, and is the same."""
    _, above = chain()
    _, first = run(store, above)
    ran, second = run(store, *chain()[1:])
    assert ran == []
    assert second.results == first.results
    assert second.keys == first.keys
    assert not second.ran


def test_only_what_depends_on_a_change_runs(store: Store) -> None:
    """A step beside the changed one comes from the cache."""

    def build(text: str) -> list[str]:
        below, beside = FakeStep("below", text), FakeStep("beside", "c")
        return run(store, FakeStep("top", "t", (below, beside)))[0]

    assert build("a") == ["below", "beside", "top"]
    assert build("b") == ["below", "top"]
    assert build("a") == []


def test_a_step_that_comes_out_unchanged_stops_the_rebuild(store: Store) -> None:
    """Inputs count with their results: another key below, the same layer, nothing above runs."""
    run(store, FakeStep("above", "b", (FakeReader("file", "same"),)))
    touched = FakeReader("file", "same")  # nobody knows that it is the same
    ran, outcome = run(store, FakeStep("above", "b", (touched,)))
    assert ran == ["file"]
    assert len(outcome.results) == 2


def test_equal_steps_run_once(store: Store) -> None:
    """However often they are made and by whomever they are used."""
    users = [FakeStep(name, name, (FakeStep("common", "c"),)) for name in ("one", "two", "three")]
    ran, outcome = run(store, *users)
    assert ran == ["common", "one", "three", "two"]
    assert len(outcome.results) == 4


def test_a_step_that_is_twice_an_input_is_given_twice(store: Store) -> None:
    """A model may have the same license text in two places."""
    common = FakeStep("common", "c")
    top = FakeStep("top", "t", (common, FakeStep("common", "c")))
    ran, outcome = run(store, top)
    assert ran == ["common", "top"]
    digest = outcome.results[common].layers[0].digest
    assert text_of(store, outcome, top) == f"t\n{digest}\n{digest}"


def test_without_the_cache_every_step_runs(store: Store) -> None:
    """And what came out is recorded all the same."""
    _, above = chain()
    run(store, above)
    ran, outcome = run(store, above, use_cache=False)
    assert ran == ["above", "below"]
    assert len(outcome.ran) == 2
    assert run(store, above)[0] == []


def test_what_a_step_made_now_is_new(store: Store) -> None:
    """A layer that the store had is no new one, though the step ran."""
    below, above = chain()
    _, first = run(store, above)
    assert [layer.size for layer in first.ran[below].new] == [1]
    _, again = run(store, above, use_cache=False)
    assert again.ran[below].new == ()
    assert again.ran[below].written == 0


def test_a_lost_layer_is_made_again(store: Store) -> None:
    """A record without its layer counts for nothing, and the reason is known."""
    below, above = chain()
    _, outcome = run(store, above)
    (layer,) = outcome.results[below].layers
    for path in store.root.rglob(layer.digest.filename):
        path.unlink()
    ran, again = run(store, above)
    assert ran == ["below"]
    assert again.lost[below].cause is Cause.LAYER_REMOVED
    assert again.results == outcome.results


def test_a_kept_layer_is_brought_back(store: Store) -> None:
    """One that went with its model, but that the cache keeps, is no reason to run a step."""
    below, above = chain()
    _, outcome = run(store, above)
    (layer,) = outcome.results[below].layers
    store.blobs.path(layer.digest).unlink()
    assert run(store, above)[0] == []
    assert store.blobs.has(layer.digest, layer.size)


def test_a_layer_of_another_size_is_damaged(store: Store) -> None:
    """It is not used, and the damage is named."""
    below, above = chain()
    _, outcome = run(store, above)
    (layer,) = outcome.results[below].layers
    for path in store.root.rglob(layer.digest.filename):
        path.unlink()
    store.blobs.path(layer.digest).write_bytes(b"longer than before")
    rows = {row.step: row for row in survey(BuildEngine(store), [above])}
    assert rows[below].state is State.RUN
    lost = rows[below].lost
    assert lost is not None
    assert lost.cause is Cause.LAYER_DAMAGED


@pytest.mark.parametrize("record", ["", "null", "{}", '{"layers": [7], "facts": {}}'])
def test_a_damaged_record_costs_a_rebuild(store: Store, record: str) -> None:
    """Whatever stands there, the step runs again, and the record is whole afterwards."""
    below, above = chain()
    _, outcome = run(store, above)
    store.cache.put(STEP, outcome.keys[below], record)
    ran, again = run(store, above)
    assert ran == ["below"]
    assert again.results == outcome.results
    assert run(store, above)[0] == []


def test_a_key_that_is_learned_by_running(store: Store) -> None:
    """Without a digest a step runs; it is recorded under the key that it has with it."""
    unread = FakeReader("file", "content")
    ran, outcome = run(store, unread)
    assert ran == ["file"]
    known = FakeReader("file", "content", digest=Digest.of(b"content"))
    description = describe(known, [])
    assert description is not None
    assert outcome.keys[unread] == cache_key(description)
    assert run(store, known)[0] == []
    assert run(store, FakeReader("file", "content"))[0] == ["file"]


def test_a_group_runs_together(store: Store) -> None:
    """All its steps that have to run, in one call; those that are cached are left out."""
    members = [FakeMember(name, name) for name in ("one", "two", "three")]
    run(store, members[1])
    assert fakes.RUNS == ["together: two", "two"]
    run(store, *members)
    assert fakes.RUNS == ["together: one, three", "one", "three"]


def test_groups_are_told_apart_by_value(store: Store) -> None:
    """Two teams are two calls."""
    members = [FakeMember(name, name, team=name[0]) for name in ("a1", "a2", "b1")]
    run(store, *members)
    calls = {line for line in fakes.RUNS if line.startswith("together")}
    assert calls == {"together: a1, a2", "together: b1"}


def test_a_result_of_a_group_counts_at_once(store: Store) -> None:
    """Who needs an early one does not wait for the late ones."""
    gone_on = threading.Event()
    early, late = FakeMember("early", "e"), FakeMember("late", "l", then=waiting_for(gone_on))
    user = FakeStep("user", "u", (early,), then=lambda context: gone_on.set())
    assert run(store, user, late)[0] == ["early", "late", "together: early, late", "user"]


def test_one_of_a_group_fails(store: Store) -> None:
    """Its error is the build's; what others had made is kept, and what follows is not run."""

    def fail(context: StepContext) -> None:
        raise SourceError("no such thing")

    good, bad = FakeMember("good", "g"), FakeMember("bad", "b", then=fail)
    top = FakeStep("top", "t", (good, bad))
    with pytest.raises(SourceError, match="no such thing"):
        run(store, top)
    assert fakes.RUNS == ["together: good, bad", "good", "bad"]
    mended = FakeStep("top", "t", (good, FakeMember("bad", "b")))
    assert run(store, mended)[0] == ["bad", "together: bad", "top"]


def test_an_error_stops_the_other_steps(store: Store) -> None:
    """A step that runs beside hears of it at its next report."""
    stopped: list[str] = []

    def wait(context: StepContext) -> None:
        try:
            waiting_for(threading.Event())(context)
        except CancelledError:
            stopped.append("beside")
            raise

    def fail(context: StepContext) -> None:
        raise SourceError("no such thing")

    with pytest.raises(SourceError, match="no such thing"):
        run(store, FakeStep("beside", "s", then=wait), FakeStep("bad", "b", then=fail))
    assert stopped == ["beside"]


def test_closing_the_events_stops_the_build(store: Store) -> None:
    """The running step is stopped, none begins after it, and nothing of it is recorded."""
    below = FakeStep("below", "a", then=waiting_for(threading.Event()))
    above = FakeStep("above", "b", (below,))
    fakes.RUNS.clear()
    outcome = Outcome()
    events = BuildEngine(store).run([above], outcome)
    assert isinstance(next(events), StepStarted)
    events.close()  # type: ignore[attr-defined]
    assert fakes.RUNS in ([], ["below"])
    assert not outcome.results
    assert run(store, *chain()[1:])[0] == ["above", "below"]


def test_every_step_says_that_it_finished(store: Store) -> None:
    """Cached or not, with its number in the graph; a warning comes through as it is."""
    below = FakeStep("below", "a", then=lambda context: context.warn("careful"))
    above = FakeStep("above", "b", (below,))
    events: list[BuildEvent] = list(BuildEngine(store).run([above], Outcome()))
    assert finished(events) == [(1, "below", False), (2, "above", False)]
    assert Warned("careful") in events
    assert finished(list(BuildEngine(store).run([above], Outcome()))) == [
        (1, "below", True),
        (2, "above", True),
    ]


def finished(events: Sequence[BuildEvent]) -> list[tuple[int, str, bool]]:
    """Each step that finished: number, label, whether it was cached."""
    return [(e.step, e.label, e.cached) for e in events if isinstance(e, StepFinished)]


def test_a_survey_runs_nothing(store: Store) -> None:
    """It tells what would run, and what might if its input came out differently."""
    below, above = chain()
    states = [row.state for row in survey(BuildEngine(store), [above])]
    assert states == [State.RUN, State.DEPENDS]
    run(store, above)
    fakes.RUNS.clear()
    assert [row.state for row in survey(BuildEngine(store), [above])] == [
        State.CACHED,
        State.CACHED,
    ]
    changed = FakeStep("above", "c", (below,))
    states = [row.state for row in survey(BuildEngine(store), [changed])]
    assert states == [State.CACHED, State.RUN]
    assert fakes.RUNS == []
