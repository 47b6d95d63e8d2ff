"""What a running build tells other processes: its steps as they go, and nothing when it is over."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from pathlib import Path

import pytest
from asked import asked
from example_models import settle
from gguf_files import tiny_gguf
from running_builds import told

from mbuild.build.build import build
from mbuild.build.history import History
from mbuild.build.prepare import Build, read_recipe
from mbuild.build.sources.resolve import LocalContext
from mbuild.build.underway import FOLDER, build_underway, builds_underway
from mbuild.core.events import BuildEvent, StepFinished, StepStarted
from mbuild.core.names import ModelName
from mbuild.store import Store
from mbuild.view.picture import NodeLook
from mbuild.view.report.drawing import look_of, picture_of_build


@pytest.fixture
def wanted(tmp_path: Path) -> Build:
    """The build of a small model with a system message."""
    tiny_gguf(tmp_path / "tiny.gguf")
    settle()
    store = Store(tmp_path / "store")
    recipe, _ = read_recipe(b"FROM ./tiny.gguf\nSYSTEM Mario\n", "Modelfile", store)
    return asked(recipe, LocalContext(tmp_path, store), ModelName.parse("mario"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The store of :func:`wanted`, as another process opens it."""
    return Store(tmp_path / "store")


def until(events: Generator[BuildEvent, None, None], kind: type) -> BuildEvent:
    return next(event for event in events if isinstance(event, kind))


def files(store: Store) -> list[str]:
    folder = store.private / FOLDER
    return os.listdir(folder) if folder.exists() else []


def test_others_see_each_step_of_a_running_build(wanted: Build, store: Store) -> None:
    """Its id and names, what has begun, what has run with its layers, and what waits."""
    events = build(wanted._replace(id="0123456789ab"), store)
    started = until(events, StepStarted)
    assert isinstance(started, StepStarted)
    (record,) = builds_underway(Store(store.root))
    assert (record.id, record.names, record.result) == (
        "0123456789ab",
        ("mario:latest",),
        "running",
    )
    statuses = {step.label: step.status for step in record.steps}
    assert statuses[started.label] == "running" and "waiting" in statuses.values()
    finished = until(events, StepFinished)
    assert isinstance(finished, StepFinished)
    again = build_underway(store, "0123456789ab")
    assert again is not None
    step = again.steps[finished.step - 1]
    assert (step.status, step.label) == ("ran", finished.label) and step.layers
    looks = {look_of(each) for each in again.steps}
    assert looks <= {NodeLook.RAN, NodeLook.RUNNING, NodeLook.WAITED}
    assert picture_of_build(again).title.startswith("mario:latest: running, ")
    list(events)
    assert files(store) == [] and builds_underway(store) == []
    assert next(History(store).newest_first()).id == "0123456789ab"


def test_a_stopped_build_tells_nothing_more(wanted: Build, store: Store) -> None:
    """Whoever follows a build and goes away ends what it tells, too."""
    events = build(wanted, store)
    until(events, StepStarted)
    assert len(files(store)) == 1
    events.close()
    assert files(store) == []
    assert next(History(store).newest_first()).result == "stopped"


def test_a_build_with_nothing_to_do_writes_no_file(wanted: Build, store: Store) -> None:
    """All that others could see of it would be over before they look."""
    list(build(wanted, store))
    (store.private / FOLDER).rmdir()
    list(build(wanted, store))
    assert not (store.private / FOLDER).exists()


def test_a_build_that_cannot_tell_builds_all_the_same(wanted: Build, store: Store) -> None:
    """A file where the folder would be stops nothing."""
    store.prepare()
    (store.private / FOLDER).write_text("")
    list(build(wanted, store))
    assert next(History(store).newest_first()).result == "built"


def test_what_a_killed_build_left_is_not_shown_and_goes(wanted: Build, store: Store) -> None:
    """A file that nobody holds says nothing, and the next build removes it."""
    list(build(wanted, store))
    record = next(History(store).newest_first())
    killed = told(store, record, "00000000aaaa")
    assert [each.id for each in builds_underway(store)] == ["00000000aaaa"]
    assert killed._file is not None
    killed._file.leave()  # as when its process dies
    assert builds_underway(store) == [] and len(files(store)) == 1
    other = told(store, record, "00000000bbbb")
    assert [each.id for each in builds_underway(store)] == ["00000000bbbb"]
    assert len(files(store)) == 1
    other.end()


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"place":99,"step":{}}',
        b'{"place":0,"step":[]}',
        b'{"build":1}',
    ],
)
def test_lines_that_cannot_be_read_are_passed_over(
    wanted: Build, store: Store, line: bytes
) -> None:
    """A torn or foreign line hides nothing of what the others say."""
    list(build(wanted, store))
    record = next(History(store).newest_first())
    telling = told(store, record, "00000000cccc")
    assert telling._file is not None
    os.write(telling._file.fd, line + b"\n" + json.dumps({"place": 0}).encode()[:5])
    (found,) = builds_underway(store)
    assert found.id == "00000000cccc" and len(found.steps) == len(record.steps)
    telling.end()
