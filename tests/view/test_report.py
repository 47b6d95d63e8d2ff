"""``mbuild report``: one page that says what a build did, and that is true later."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from asked import asked
from conftest import Run
from example_models import settle
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.build.build import build
from mbuild.build.history import StepRecord
from mbuild.build.prepare import read_recipe
from mbuild.build.sources.resolve import LocalContext
from mbuild.core.events import StepStarted
from mbuild.core.names import ModelName
from mbuild.store import Store
from mbuild.view.picture import NodeLook
from mbuild.view.report.timeline import timeline

MODELFILE = "FROM ./tiny.gguf\nSYSTEM You are {who}.\nPARAMETER temperature 0.5\n"


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in a folder with a small model and a Modelfile of it."""
    tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "Modelfile").write_text(MODELFILE.format(who="Mario"))
    settle()
    return in_process(tmp_path, monkeypatch)


class _Page(HTMLParser):
    """A page's text by section, its elements, and whether each that opens closes."""

    VOID = frozenset(("meta", "link", "path", "rect", "br"))

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sections: dict[str, str] = {}
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append((tag, dict(attrs).get("id") or ""))

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            if tag in ("td", "th"):
                self.handle_data(" ")
            assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for tag, name in self._open:
            if tag in ("section", "header"):
                self.sections[name or tag] = self.sections.get(name or tag, "") + data


def report(run: Run, *arguments: str) -> _Page:
    done = run("report", *arguments, "-o", "-")
    assert done.returncode == 0, done.stderr
    return _Page(done.stdout)


def test_the_page_says_what_was_built_and_why(mbuild: Run, tmp_path: Path) -> None:
    """Names and ids, steps with reasons, layers, tensors by type, settings, and the Modelfile."""
    mbuild("-t", "mario", "--quiet")
    (tmp_path / "Modelfile").write_text(MODELFILE.format(who="Luigi"))
    identity = mbuild("-t", "mario", "--quiet").stdout.removeprefix("sha256:")[:12]
    page = report(mbuild)
    assert "mario:latest" in page.sections["header"]
    assert "2 steps run, 4 cached" in page.sections["header"]
    assert identity in page.sections["models"] and "in the store" in page.sections["models"]
    assert 'text "You are Mario." -> "You are Luigi."' in page.sections["steps"]
    assert "nothing changed" in page.sections["steps"]
    rows = re.findall(r"[\w.]+", page.sections["tensors"])
    assert rows.count("F32") >= 2 and "token_embd.weight" in rows
    assert re.search(r"temperature\s+0\.5", page.sections["settings"])
    assert "You are Luigi." in page.sections["settings"]
    assert "FROM ./tiny.gguf" in page.sections["settings"]


def test_layers_name_the_models_that_share_them(mbuild: Run, tmp_path: Path) -> None:
    """A layer that another model of the store uses says so; one of its own says that."""
    mbuild("-t", "mario", "--quiet")
    (tmp_path / "Modelfile").write_text(MODELFILE.format(who="Luigi"))
    mbuild("-t", "luigi", "--quiet")
    layers = re.sub(r"\s+", " ", report(mbuild).sections["layers"])
    assert re.search(r"model \w{12} [\d.]+ KB mario:latest", layers)
    assert re.search(r"system \w{12} 14 B no other model", layers)


def test_nothing_is_asked_of_a_network(mbuild: Run) -> None:
    """The page has no script, loads nothing, and its policy forbids both."""
    mbuild("-t", "mario", "--quiet")
    page = report(mbuild)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "form"}
    for tag, attributes in page.elements:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#")[0] == "#" or attributes[name] == "data:,", tag
        assert not any(name.startswith("on") for name in attributes)
    policies = [a["content"] for t, a in page.elements if a.get("http-equiv")]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_the_last_build_goes_to_a_file_named_by_its_id(mbuild: Run, tmp_path: Path) -> None:
    """Without arguments the page of the last build is written here, and its name printed."""
    mbuild("-t", "mario", "--quiet")
    done = mbuild("report")
    name = done.stdout.strip()
    assert re.fullmatch(r"build-[0-9a-f]{12}\.html", name)
    assert (tmp_path / name).read_text().startswith("<!doctype html>")
    other = mbuild("report", name[6:16], "-o", "x.html")
    assert other.stdout == "x.html\n"
    assert (tmp_path / "x.html").read_bytes() == (tmp_path / name).read_bytes()


def test_a_failed_build_has_a_page(mbuild: Run, tmp_path: Path) -> None:
    """The error, the step that did not finish, and those that had not begun are on it."""
    data = (tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "tiny.gguf").write_bytes(data[:-8])
    assert mbuild("-t", "mario").returncode == 1
    page = report(mbuild)
    assert "failed" in page.sections["header"] and "tiny.gguf" in page.sections["header"]
    assert "not named" in page.sections["models"]
    assert "did not finish" in page.sections["timeline"]
    assert "the build ended before its turn" in page.sections["steps"]
    assert "It was not finished." in page.sections["layers"]


def test_a_stopped_build_has_a_page(mbuild: Run, tmp_path: Path, tiny_store: Store) -> None:
    """Whoever stops a build finds on its page how far it came."""
    recipe, _ = read_recipe(b"FROM ./tiny.gguf\n", "Modelfile", tiny_store)
    wanted = asked(recipe, LocalContext(tmp_path, tiny_store), ModelName.parse("mario"))
    events = build(wanted, tiny_store)
    assert any(isinstance(event, StepStarted) for event in events)
    events.close()  # type: ignore[attr-defined]
    page = report(mbuild)
    assert "stopped" in page.sections["header"]
    assert "not reached" in page.sections["steps"]
    assert "not named" in page.sections["models"]


def test_a_build_that_found_nothing_to_do_it_with_has_a_page(mbuild: Run, tmp_path: Path) -> None:
    """A missing file ends a build before it has a graph; the page says no more than is known."""
    (tmp_path / "tiny.gguf").unlink()
    assert mbuild("-t", "mario").returncode == 1
    page = report(mbuild)
    assert "failed" in page.sections["header"]
    assert "timeline" not in page.sections and "graph" not in page.sections


def test_models_that_are_gone_are_said_to_be(mbuild: Run, tmp_path: Path) -> None:
    """After rm the page still lists the layers, and which of them are gone."""
    mbuild("-t", "mario", "--quiet")
    mbuild("rm", "mario")
    page = report(mbuild)
    assert "gone since" in page.sections["models"]
    assert "gone" in page.sections["layers"] and "system" in page.sections["layers"]
    assert "Its weights are not in the store." in page.sections["tensors"]
    assert "[no longer in the store]" in page.sections["settings"]


def test_a_name_given_to_another_model_is_said_to_be(mbuild: Run, tmp_path: Path) -> None:
    """The page of an older build says what its name means now."""
    mbuild("-t", "mario", "--quiet")
    first = mbuild("history", "--last", "1").stdout.splitlines()[1].split()[0]
    (tmp_path / "Modelfile").write_text(MODELFILE.format(who="Luigi"))
    identity = mbuild("-t", "mario", "--quiet").stdout.removeprefix("sha256:")[:12]
    assert f"replaced since by {identity}" in report(mbuild, first).sections["models"]


def test_texts_cannot_leave_their_place(mbuild: Run, tmp_path: Path) -> None:
    """Markup, quotes and control characters in a Modelfile and a file's name stay text."""
    name = 'x"><script>alert(1)</script>&amp;.gguf'.replace("/", "_")
    tiny_gguf(tmp_path / name)
    text = "</pre></style><script>alert(2)</script>{{ 1234 * 4321 }}\x07"
    (tmp_path / "Modelfile").write_text(f"FROM {tmp_path / name}\nSYSTEM {text}\n")
    done = mbuild("-t", "mario", "--quiet")
    assert done.returncode == 0, done.stderr
    html = mbuild("report", "-o", "-").stdout
    page = _Page(html)
    assert "script" not in {tag for tag, _ in page.elements}
    assert "</pre></style><script>alert(2)" in page.sections["settings"]
    assert str(1234 * 4321) not in page.sections["settings"]
    assert "\x1b" not in html and "\x07" not in html


def test_an_empty_store_has_no_report(mbuild: Run) -> None:
    """With no build there is nothing to report, and the message says what to do."""
    done = mbuild("report")
    assert done.returncode == 1
    assert "nothing was built in this store yet" in done.stderr


def test_lanes_tell_what_ran_side_by_side() -> None:
    """Steps of one pass are one bar; a run takes the first lane that is free by then."""

    def ran(kind: str, started: float, seconds: float, status: str = "ran") -> StepRecord:
        return StepRecord(kind, kind, "", (), status, started=started, seconds=seconds)

    steps = [
        ran("quantize", 0.0, 2.0),
        ran("quantize", 0.0, 2.0),
        ran("system", 0.5, 0.5),
        ran("license", 1.0, 0.25),
        ran("config", 2.0, 1.0, "unfinished"),
        StepRecord("manifest", "manifest", "", (), "unfinished"),
        StepRecord("params", "params", "", (), "cached"),
    ]
    bars = timeline(steps, 4.0, {0: ("m:q8_0",)})
    assert [(bar.labels, bar.lane) for bar in bars] == [
        (("quantize m:q8_0", "quantize"), 1),
        (("system",), 2),
        (("license",), 2),
        (("config",), 1),
    ]
    assert [bar.look for bar in bars] == [NodeLook.RAN, NodeLook.RAN, NodeLook.RAN, NodeLook.FAILED]
    assert (bars[0].left, bars[0].width, bars[3].left) == (0.0, 0.5, 0.5)
