"""The parts of the page's server by themselves: paths, the board, the log, checks, the style."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from asked import asked
from stores import copy_tiny_store

from mbuild.build.build import build
from mbuild.build.history import BuildRecord, History
from mbuild.build.prepare import read_recipe
from mbuild.build.sources.resolve import LocalContext
from mbuild.build.sources.values import Material
from mbuild.core.digest import Digest
from mbuild.core.errors import CancelledError, FormatError
from mbuild.core.events import (
    BuildEvent,
    BuildStarted,
    Code,
    LayerReady,
    Status,
    StepFinished,
    StepProgress,
    StepStarted,
    Warned,
)
from mbuild.core.names import ModelName
from mbuild.server.jobs import Jobs
from mbuild.server.page import builds, records, stored
from mbuild.server.page.board import ENDED, LINES, Board, ServedBuild
from mbuild.server.page.checking import problems
from mbuild.server.page.places import cut, without_places
from mbuild.server.wording import _ONLY_LOGGED, STATUSES, log_line
from mbuild.store import Store
from mbuild.view.picture.style import STYLE
from mbuild.view.picture.svg import _CLASSES


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with the model ``tiny``."""
    return Store(copy_tiny_store(tmp_path / "store"))


def built(store: Store, name: str, folder: Path) -> BuildRecord:
    """Build a model from ``tiny``; its record."""
    recipe, _ = read_recipe(f"FROM tiny\nSYSTEM {name}\n".encode(), "Modelfile", store)
    for _ in build(asked(recipe, LocalContext(folder, store), ModelName.parse(name)), store):
        pass
    return next(History(store).newest_first())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/me/x.gguf: no such file", "…/x.gguf: no such file"),
        ("FROM /a/b/c.gguf", "FROM …/c.gguf"),
        ('"/a/b" and (/c/d)', '"…/b" and (…/d)'),
        ("--imatrix=/data/i.gguf", "--imatrix=…/i.gguf"),
        ("~/models/x.gguf", "…/x.gguf"),
        (r"C:\models\x.gguf", "…/x.gguf"),
        (r"\\host\share\x.gguf", "…/x.gguf"),
        ("POST /api/blobs/sha256:abc", "POST /api/blobs/sha256:abc"),
        ("hf.co/org/repo and me/mario:7b", "hf.co/org/repo and me/mario:7b"),
        ("https://host/a/b", "https://host/a/b"),
        ("1/2 of </b> or /think", "1/2 of </b> or /think"),
        ("./lora and ../lora", "./lora and ../lora"),
    ],
)
def test_an_absolute_path_is_cut_to_its_name(text: str, shown: str) -> None:
    """Names of models, addresses and relative paths are no absolute paths."""
    assert cut(text) == shown


def test_a_record_without_places_names_its_files(store: Store, tmp_path: Path) -> None:
    """Folders with blanks in them go, too; ids, names and steps stay."""
    record = built(store, "mario", tmp_path)
    folder = "/home/some body/models"
    error = f"{folder}/x y.gguf: no such file"
    material = Material("x y.gguf", f"{folder}/x y.gguf", 1)
    steps = (record.steps[0]._replace(materials=(material,)), *record.steps[1:])
    shown = without_places(record._replace(error=error, steps=steps), lambda text: text)
    assert shown.error == "…/x y.gguf: no such file"
    assert shown.steps[0].materials[0].place == ""
    assert (shown.id, shown.names, shown.models) == (record.id, record.names, record.models)


def test_the_log_is_read_again_when_it_changes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking twice reads once; a build that ends meanwhile is there the next time."""
    past = records.PastBuilds()
    first = built(store, "mario", tmp_path)
    reads = 0
    newest = History.newest_first

    def counted(self: History, *fits: Callable[[bytes], bool]) -> Iterator[BuildRecord]:
        nonlocal reads
        reads += 1
        return newest(self, *fits)

    monkeypatch.setattr(History, "newest_first", counted)
    for _ in range(3):
        assert [row["id"] for row in past.rows(store, str)] == [first.id]
        assert past.find(store, first.id) == first
        assert past.find(store, "nobody") is None
    assert reads == 3
    second = built(store, "luigi", tmp_path)
    assert [row["id"] for row in past.rows(store, str)] == [second.id, first.id]
    found = past.find(store, second.id)
    assert found is not None
    details = records.details(found)
    assert [model["name"] for model in details["models"]] == ["luigi:latest"]
    assert details["finished"] == details["steps"] == len(details["of"])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("FROM tiny\nSYSTEM x\n", []),
        ("FROM @sha256:" + "0" * 64 + "\nSYSTEM x\n", []),
        ("FROM hf.co/org/repo\n", []),
        ("FROM tinny\n", [("no-such-model", 1, "did you mean tiny:latest?")]),
        ("FROM ./x.gguf\n", [("no-files-here", 1, "upload the file")]),
        ("FROM tiny\nADAPTER /etc\n", [("no-files-here", 2, "upload the file")]),
        ("FROM tiny\nPARAMETER temprature 1\n", [("unknown-parameter", 2, "temperature")]),
        (
            "FROM tiny\nPARAMETER temprature 1\nDRAFT x\n",
            [("unknown-parameter", 2, "temperature"), ("no-files-here", 3, "upload the file")],
        ),
        ("# syntax=mbuild/1\nFROM nobody AS a\nFROM a\n", [("no-such-model", 2, "")]),
        ("# syntax=mbuild/1\nFROM tiny\nINCLUDE other\n", [("", None, "send its text")]),
    ],
)
def test_check_says_what_a_build_here_would_say(
    store: Store, text: str, found: list[tuple[str, int | None, str]]
) -> None:
    """Each problem has its code, its line, and what to do; nothing of the disk is read."""
    said = problems(text, store)
    assert len(said) == len(found), said
    for problem, (code, line, remedy) in zip(said, found, strict=True):
        assert problem.code == code or not code
        assert line is None or (problem.span is not None and problem.span.line == line)
        assert remedy in problem.suggestion


def follow(board: Board, jobs: Jobs, name: str, events: list[BuildEvent], error: Any) -> Any:
    """A build of a server that has these events and ends so."""

    def run() -> Iterator[BuildEvent]:
        yield from events
        if error is not None:
            raise error

    return board.follow(jobs.join(name, run), name, [f"{name}:latest"], str)


def test_a_board_shows_how_builds_are_and_how_they_ended() -> None:
    """Steps, bytes and lines while they run, then built, failed with words, or stopped."""

    async def scenario() -> None:
        board, jobs = Board(), Jobs(1)
        steps: list[BuildEvent] = [
            BuildStarted("a", 3),
            StepFinished(1, "x", True, 0.0, 0),
            StepStarted(2, "y"),
            StepProgress(2, "y", 5, 10),
            Warned("odd"),
        ]
        first = follow(board, jobs, "a", steps, None)
        second = follow(board, jobs, "b", steps, FormatError("no"))
        third = follow(board, jobs, "c", [], None)
        assert third.state == "waiting"
        third.job.cancel()
        seen = 0
        while not all(each.job.done for each in (first, second, third)):
            assert board.changes > seen
            seen = board.changes
            await board.news(seen, 10)
        assert [each.state for each in (first, second, third)] == ["built", "failed", "stopped"]
        assert isinstance(third.job.error, CancelledError) and third.error == ""
        assert second.error == "no" and second.summary()["finished"] == 1
        assert [text for _, text in second.lines] == ["warning: odd"]
        assert board.all() == [third, second, first] and board.get("b") is second
        assert board.follow(first.job, "other", [], str) is first

    asyncio.run(scenario())


def test_a_board_keeps_no_more_than_it_shows() -> None:
    """Ended builds and lines beyond the limits are forgotten, the oldest first."""

    async def scenario() -> None:
        board, jobs = Board(), Jobs(4)
        warned: list[BuildEvent] = [Warned(str(n)) for n in range(LINES + 5)]
        last: ServedBuild | None = None
        for number in range(ENDED + 5):
            last = follow(board, jobs, str(number), warned if number == 0 else [], None)
            while not last.job.done:
                await asyncio.sleep(0.001)
            if number == 0:
                texts = [text for _, text in last.lines]
                assert len(texts) == LINES and texts[-1] == f"warning: {LINES + 4}"
        assert len(board.all()) <= ENDED + 1
        assert board.get("0") is None and board.get(str(ENDED + 4)) is last

    asyncio.run(scenario())


def test_every_status_has_a_line_in_the_log() -> None:
    """Those that no client of Ollama gets, too; a step has none, for it has a row."""
    sentences = {**STATUSES, **_ONLY_LOGGED}.values()
    fields = {field for text in sentences for _, field, _, _ in Formatter().parse(text) if field}
    values = {**dict.fromkeys(fields, "x"), "types": ("A", "B"), "tensors": ("t",), "size": 2000}
    lines = {code: log_line(Status(code, values)) for code in Code}
    assert all(lines.values()) and lines[Code.SENT_SHARED] == "sent 2.0 KB to the shared cache"
    assert log_line(LayerReady(Digest("0" * 64), "model", 1, True)).startswith("using existing")
    assert log_line(StepStarted(1, "x")) == log_line(StepProgress(1, "x", 1, 2)) == ""


def test_the_style_has_a_rule_for_every_look() -> None:
    """What is drawn on the page has its colours from there."""
    for name in _CLASSES.values():
        assert f".mbuild-graph .{name} .box" in STYLE and f".{name} .icon" in STYLE
    assert "prefers-color-scheme:dark" in STYLE and "<" not in STYLE


def test_shared_layers_are_those_of_several_models(store: Store, tmp_path: Path) -> None:
    """The largest first, each with all models that use it."""
    for name in ("mario", "luigi"):
        built(store, name, tmp_path)
    rows = stored._shared(store)
    sizes = [row["size"] for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert rows[0]["users"] == ["luigi:latest", "mario:latest", "tiny:latest"]
    assert "system" not in {row["kind"] for row in rows}


def test_the_address_of_a_report_lasts_half_an_hour_to_an_hour(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It stays the same for half an hour, and has no signature where there is no token."""
    from mbuild.server.security import AccessPolicy
    from mbuild.server.service import Service

    service = Service(tmp_path, AccessPolicy(token="secret"))
    now = 1_000_000 * builds.REPORT_SECONDS
    seen = {}
    for seconds in (0, 1, builds.REPORT_SECONDS - 1, builds.REPORT_SECONDS):
        monkeypatch.setattr(builds.time, "time", lambda seconds=seconds: now + seconds)
        seen[seconds] = builds.report_address(service, "abc")
    assert len(set(seen.values())) == 2 and seen[0] == seen[builds.REPORT_SECONDS - 1]
    assert f"expires={now + 2 * builds.REPORT_SECONDS}&" in seen[0]
    open_to_all = Service(tmp_path, AccessPolicy())
    assert builds.report_address(open_to_all, "abc") == "/api/mbuild/builds/abc/report"
