"""What is noted of each step of a build: whether it ran, why, when, and what it wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from fakes import FakeStep

from mbuild.build.engine import BuildEngine
from mbuild.build.graph import Step, StepContext
from mbuild.build.history import BuildRecord, History
from mbuild.build.prepare import Build
from mbuild.build.recording import Recorder, describe_steps
from mbuild.build.request import BuildRequest, Script, Target
from mbuild.build.results import Outcome
from mbuild.build.sources.resolve import LocalContext
from mbuild.core.digest import Digest
from mbuild.core.errors import MbuildError, SourceError
from mbuild.core.events import Cause
from mbuild.core.names import ModelName
from mbuild.language.recipe import Recipe
from mbuild.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def run(store: Store, *targets: Step, use_cache: bool = True, name: str = "m") -> Recorder:
    """Run steps as a build of a model does, with a line in the log at the end."""
    script = Script("Modelfile", Digest.of(b""), "/project")
    request = BuildRequest((Target((ModelName.parse(name),)),), script)
    context = LocalContext(Path("/project"), store)
    recorder = Recorder(Build(request, Recipe(()), context, use_cache), store)
    outcome = Outcome()
    recorder.begins(targets, outcome)
    try:
        list(BuildEngine(store, use_cache).run(targets, outcome))
    except MbuildError as error:
        recorder.ends("failed", error.message)
        raise
    recorder.ends("built", models={f"{name}:latest": Digest.of(b"manifest")})
    store.database.flush()
    return recorder


def last(store: Store) -> BuildRecord:
    return next(History(store).newest_first())


def causes(recorder: Recorder) -> dict[str, Sequence[str]]:
    """Why each step ran, by its label."""
    return {step.label: reason.causes for step, reason in recorder.reasons.items()}


def chain(text: str, end: str = "") -> tuple[Step, Step]:
    """A step, and one over it."""
    first = FakeStep("first", text)
    return first, FakeStep("second", end, (first,))


def test_a_first_build_ran_because_it_is_the_first(store: Store) -> None:
    """Each step with its inputs' places, its layers, and the bytes that are new."""
    recorder = run(store, chain("a")[1])
    assert recorder.first
    record = last(store)
    assert [step.label for step in record.steps] == ["first", "second"]
    assert [step.status for step in record.steps] == ["ran", "ran"]
    assert [step.inputs for step in record.steps] == [(), (0,)]
    assert record.manifests == (1,)
    assert [step.written for step in record.steps] == [step.layers[0].size for step in record.steps]
    assert all(step.causes == (Cause.FIRST,) and step.reasons for step in record.steps)
    assert record.models == {"m:latest": Digest.of(b"manifest")}


def test_a_build_with_nothing_to_do_has_no_reasons(store: Store) -> None:
    """Its steps were cached, with the layers that they have; nobody calls it the first."""
    run(store, chain("a")[1])
    recorder = run(store, chain("a")[1])
    assert recorder.reasons == {}
    assert not recorder.first
    record = last(store)
    assert [step.status for step in record.steps] == ["cached", "cached"]
    assert all(step.layers and not step.reasons and not step.written for step in record.steps)


def test_only_what_ran_has_a_reason(store: Store) -> None:
    """Compared with the last build of the same model."""
    run(store, chain("a", "x")[1])
    recorder = run(store, chain("a", "y")[1])
    assert list(causes(recorder)) == ["second"]
    assert Cause.FIRST not in causes(recorder)["second"]
    assert [step.status for step in last(store).steps] == ["cached", "ran"]


def test_a_build_without_the_cache_says_so(store: Store) -> None:
    """Nothing differs from the last one: nobody wanted its results."""
    run(store, chain("a")[1])
    recorder = run(store, chain("a")[1], use_cache=False)
    assert causes(recorder) == {"first": (Cause.NO_CACHE,), "second": (Cause.NO_CACHE,)}
    assert not recorder.first


def test_a_step_that_failed_is_unfinished_and_so_is_what_needs_it(store: Store) -> None:
    """It has a time, those that never began have none; what was made before is kept."""

    def fail(context: StepContext) -> None:
        raise SourceError("no such weights")

    first = FakeStep("first", "a")
    second = FakeStep("second", "", (first,), fail)
    with pytest.raises(SourceError):
        run(store, FakeStep("third", "", (second,)))
    record = last(store)
    assert (record.result, record.error, record.models) == ("failed", "no such weights", {})
    assert [step.status for step in record.steps] == ["ran", "unfinished", "unfinished"]
    assert record.steps[1].started >= record.steps[0].started
    assert (record.steps[2].started, record.steps[2].seconds) == (0.0, 0.0)
    assert [bool(step.layers) for step in record.steps] == [True, False, False]


def test_a_build_that_never_had_a_graph_is_a_line_too(store: Store) -> None:
    """With no steps, so that one can see that somebody tried."""
    request = BuildRequest((Target((ModelName.parse("m"),)),))
    wanted = Build(request, Recipe(()), LocalContext(Path("/project"), store))
    Recorder(wanted, store).ends("failed", "no such file")
    assert (last(store).steps, last(store).error) == ((), "no such file")


def test_an_earlier_builds_steps_are_described_from_the_cache(store: Store) -> None:
    """With what was hashed for their keys; where that is gone the key is all there is."""
    run(store, chain("a")[1])
    described = describe_steps(last(store), store)
    assert [step.kind for step in described] == ["fake", "fake"]
    assert described[0].description is not None
    assert described[0].description["fields"] == {"text": "a"}
    assert described[0].key == last(store).steps[0].key
    other = Store(store.root.parent / "other")
    other.prepare()
    assert [step.description for step in describe_steps(last(store), other)] == [None, None]
