"""No text of a store, a build or a Modelfile is anything but text on the page."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, chromium
from live_server import Server, serving_here
from markup_corpus import CORPUS
from running_builds import told
from stores import copy_tiny_store

from mbuild.build.build import build
from mbuild.build.history import BuildRecord, History
from mbuild.build.sources.values import Material
from mbuild.core.events import BuildEvent, StepStarted, Warned
from mbuild.server import building
from mbuild.view.picture.text import printable

pytestmark = pytest.mark.browser

ELEMENTS = (
    "html head meta title link script body a header div img nav ul li p button main footer span h1"
    " section h2 strong progress table thead tbody tr th td caption time code dl dt dd pre ol form"
    " label input select option textarea mark noscript svg g rect path text desc"
)
"""What the page is made of."""

WRONG = f"""
    (() => {{
        const known = new Set({json.dumps(ELEMENTS.split())});
        const found = window.ran ? ["a script ran"] : [];
        if (document.querySelectorAll("script").length !== 1) found.push("another script");
        for (const element of document.querySelectorAll("*")) {{
            if (!known.has(element.localName)) found.push(element.localName);
            for (const {{ name, value }} of element.attributes) {{
                const own = /^(#|\\/page\\/|\\/docs$|\\/api\\/mbuild\\/builds\\/)/.test(value);
                const leads = ["href", "src", "action", "formaction"].includes(name) && !own;
                if (leads || name.startsWith("on") || name === "srcdoc") found.push(name, value);
            }}
        }}
        return [...new Set(found)];
    }})()
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as window:
        window.look(1280, 900)
        yield window


@pytest.fixture
def server(tmp_path: Path, browser: Browser) -> Iterator[Server]:
    """A server whose store has the model ``tiny`` and one build."""
    with serving_here(copy_tiny_store(tmp_path / "store")) as server:
        answer = server.create(model="first", **{"from": "tiny"}, system="x", stream=False)
        assert answer.status_code == 200
        yield server
        browser.open("about:blank")  # a page that is open holds the server for a moment


def last(server: Server) -> BuildRecord:
    return next(History(server.store).newest_first())


def open_view(browser: Browser, server: Server, view: str, ready: str = "") -> None:
    browser.open("about:blank")
    browser.open(f"{server.url}/#/{view}")
    browser.until(ready or "document.querySelector('main h1')")
    browser.until("document.getElementById('link').textContent === 'Live'")
    assert browser.run(WRONG) == []


def shown(browser: Browser, texts: tuple[str, ...], where: str = "main") -> None:
    """Each of the texts can be read there, letter by letter."""
    page = browser.run(f"document.querySelector({json.dumps(where)}).textContent")
    flat = " ".join(page.split())
    missing = [text for text in texts if " ".join(text.split()) not in flat]
    assert missing == []


def hostile(record: BuildRecord, texts: tuple[str, ...], status: str) -> BuildRecord:
    """A build whose every text is one of these: labels, reasons, sources, the error."""
    steps = tuple(
        record.steps[0]._replace(
            kind=text,
            label=text,
            key=f"{number:064x}",
            inputs=(),
            status=status,
            reasons=(text,) if status == "ran" else (),
            seconds=1.0,
            materials=(Material(text, text, 1),),
            layers=(),
        )
        for number, text in enumerate(texts)
    )
    return record._replace(steps=steps, manifests=(), error=" ".join(texts))


def test_the_corpus_is_large() -> None:
    """At least sixty different texts."""
    assert len(set(CORPUS)) >= 60


def test_texts_of_past_builds_are_texts(browser: Browser, server: Server) -> None:
    """Errors in the list; labels, reasons and sources in the steps and in the graph."""
    record = last(server)
    for number, text in enumerate(CORPUS):
        pair = record._replace(id=f"{number:012x}", result="failed", error=text, models={})
        History(server.store).append(pair)
        if number % 40 == 39 or text is CORPUS[-1]:  # a list has the last fifty
            open_view(browser, server, "builds", "document.querySelector('.builds .badge')")
            shown(browser, CORPUS[number - number % 40 : number + 1])
    failed = hostile(record, CORPUS, "ran")._replace(id="00000000eeee", result="failed")
    History(server.store).append(failed)
    open_view(browser, server, "build/00000000eeee", "document.querySelector('.graph svg')")
    shown(browser, CORPUS, ".steps")
    shown(browser, CORPUS, ".failure")
    shown(browser, tuple(map(printable, CORPUS)), ".graph")


def test_texts_of_running_builds_are_texts(browser: Browser, server: Server) -> None:
    """Those of another process, in the list and on its own page while it runs."""
    record = last(server)
    telling = told(server.store, hostile(record, CORPUS, "running"), "00000000ffff")
    open_view(browser, server, "builds", "document.querySelector('.cards .badge')")
    open_view(browser, server, "build/00000000ffff", "document.querySelector('.steps .running')")
    shown(browser, CORPUS, ".steps")
    telling.end()


def test_lines_of_a_log_are_texts(
    browser: Browser, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a build warns of may quote a file of somebody else."""

    def warning(*arguments: Any) -> Generator[BuildEvent, None, None]:
        for event in build(*arguments):
            yield event
            if isinstance(event, StepStarted):
                yield from map(Warned, CORPUS)

    monkeypatch.setattr(building, "build", warning)
    body = {"model": "mario", "from": "tiny", "system": "new"}
    identity = server.http.post("/api/mbuild/builds", json=body).json()["id"]
    built = "document.querySelector('.result .badge.built')"
    open_view(browser, server, f"build/{identity}", built)
    shown(browser, CORPUS, ".log")


def test_texts_of_models_are_texts(browser: Browser, server: Server) -> None:
    """What a model says of itself: family, types, capabilities, messages and parameters."""
    count = len(CORPUS)
    for number in range(count):
        given = [CORPUS[(number + shift) % count] for shift in range(3)]
        info = dict(
            zip(("model_family", "parameter_size", "quantization_level"), given, strict=True)
        )
        fields: dict[str, Any] = {"from": "tiny", "info": info, "capabilities": given}
        fields |= {"system": given[0], "license": given[1], "parameters": {"stop": given}}
        answer = server.create(model=f"m{number}", **fields, stream=False)
        assert answer.status_code == 200, answer.text
    open_view(browser, server, "models", "document.querySelector('tbody tr')")
    shown(browser, CORPUS)
    for number in range(0, count, 3):  # each has three of the texts
        open_view(browser, server, f"model/m{number}", "document.querySelector('pre')")
        wanted = tuple(CORPUS[(number + shift) % count] for shift in range(3))
        shown(browser, wanted, ".facts")


def test_a_modelfile_and_what_is_said_of_it_are_texts(browser: Browser, server: Server) -> None:
    """In the editor, its marks and its list of problems, and in the refusal of a build."""
    open_view(browser, server, "edit")
    for text in CORPUS:
        lines = f"FROM {text}\nPARAMETER {text} 1\n{text}\nTEMPLATE {text}\nMESSAGE {text} x\n"
        browser.run(f"""
            window.area = document.getElementById("modelfile");
            area.value = {json.dumps(lines)};
            document.getElementById("found").textContent = "";
            area.dispatchEvent(new Event("input"));
        """)
        browser.until("document.getElementById('found').textContent")
        assert browser.run("document.querySelector('.marks').textContent") == lines + "\n"
        assert browser.run(WRONG) == []
    for text in CORPUS:
        browser.run(f"""
            document.getElementById("build-problem").textContent = "";
            document.getElementById("model").value = {json.dumps(text)};
            document.querySelector(".edit .primary").click();
        """)
        browser.until("document.getElementById('build-problem').textContent")
        assert browser.run(WRONG) == []


def test_an_address_is_no_markup(browser: Browser, server: Server) -> None:
    """Whatever somebody makes a reader open: the page says that there is no such thing."""
    open_view(browser, server, "builds")
    for number, text in enumerate(CORPUS):
        view = ("", "model/", "build/", "edit/")[number % 4]
        browser.run("document.querySelector('main').replaceChildren()")
        browser.run(f"location.hash = {json.dumps(f'#/{view}{text}')}")
        browser.until("document.querySelector('main h1')")
        assert browser.run(WRONG) == []
