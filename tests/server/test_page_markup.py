"""No text of a store, a build or a Modelfile is anything but text on the page."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
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
from mbuild.server.page.places import cut
from mbuild.view.picture.text import printable

pytestmark = pytest.mark.browser

ELEMENTS = (
    "html head meta title link script body a header div img nav ul li p button main footer span h1"
    " section h2 strong progress table thead tbody tr th td caption time code dl dt dd pre ol form"
    " label input select option textarea mark noscript svg g rect path text desc dialog"
    " fieldset legend"
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
            shown(browser, tuple(map(cut, CORPUS[number - number % 40 : number + 1])))
    failed = hostile(record, CORPUS, "ran")._replace(id="00000000eeee", result="failed")
    History(server.store).append(failed)
    open_view(browser, server, "build/00000000eeee", "document.querySelector('.graph svg')")
    texts = tuple(map(cut, CORPUS))
    shown(browser, texts, ".steps")
    shown(browser, texts, ".failure")
    shown(browser, tuple(map(printable, texts)), ".graph")


def test_texts_of_running_builds_are_texts(browser: Browser, server: Server) -> None:
    """Those of another process, in the list and on its own page while it runs."""
    record = last(server)
    telling = told(server.store, hostile(record, CORPUS, "running"), "00000000ffff")
    open_view(browser, server, "builds", "document.querySelector('.cards .badge')")
    open_view(browser, server, "build/00000000ffff", "document.querySelector('.steps .running')")
    shown(browser, tuple(map(cut, CORPUS)), ".steps")
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
    groups = [CORPUS[start : start + 3] for start in range(0, len(CORPUS), 3)]
    keys = ("model_family", "parameter_size", "quantization_level")
    for number, group in enumerate(groups):
        given = [*group, *CORPUS][:3]
        fields: dict[str, Any] = {"from": "tiny", "info": dict(zip(keys, given, strict=True))}
        fields |= {"system": given[0], "license": given[1], "parameters": {"stop": given}}
        answer = server.create(model=f"m{number}", **fields, capabilities=given, stream=False)
        assert answer.status_code == 200, answer.text
    open_view(browser, server, "models", "document.querySelector('tbody tr')")
    shown(browser, CORPUS)
    for number, group in enumerate(groups):
        browser.run(
            f"document.querySelector('main').replaceChildren(); location.hash = '#/model/m{number}'"
        )
        browser.until("document.querySelector('main pre')")
        shown(browser, group, ".facts")
        assert browser.run(WRONG) == []


def each(browser: Browser, texts: Sequence[str], do: str, done: str) -> None:
    """In the page, for each text: ``do`` something with it, wait until ``done``, look."""
    found = browser.run(f"""
        (async () => {{
            const wrong = [];
            for (const text of {json.dumps(texts)}) {{
                {do};
                for (let n = 0; !({done}); n++) {{
                    if (n > 1000) return ["it waits for ever", text];
                    await new Promise(go => setTimeout(go, 5));
                }}
                wrong.push(...{WRONG});
            }}
            return wrong;
        }})()
    """)
    assert found == []


def test_a_modelfile_and_what_is_said_of_it_are_texts(browser: Browser, server: Server) -> None:
    """In the editor, its marks and its list of problems, and in the refusal of a build."""
    open_view(browser, server, "edit")
    forms = "PARAMETER {0} 1\n{0}\nTEMPLATE {0}\nMESSAGE {0} x\nFROM {0}\n"
    texts = [
        "".join(map(forms.format, CORPUS[start : start + 10]))
        for start in range(0, len(CORPUS), 10)
    ]
    browser.run("window.at = id => document.getElementById(id)")
    fill = """at("found").textContent = ""; at("modelfile").value = text;
        at("modelfile").dispatchEvent(new Event("input"))"""
    copied = """at("found").textContent
        && document.querySelector(".marks").textContent === text + "\\n\""""
    each(browser, texts, fill, copied)
    assert browser.run("document.querySelectorAll('mark').length") > 10
    name = """at("build-problem").textContent = ""; at("model").value = text;
        document.querySelector(".edit .primary").click()"""
    each(browser, CORPUS, name, "at('build-problem').textContent")


def test_an_address_is_no_markup(browser: Browser, server: Server) -> None:
    """Whatever somebody makes a reader open: the page says that there is no such thing."""
    open_view(browser, server, "builds")
    views = ("", "model/", "build/", "edit/")
    addresses = [f"#/{views[n % 4]}{text}" for n, text in enumerate(CORPUS)]
    go = "document.querySelector('main').replaceChildren(); location.hash = text"
    each(browser, addresses, go, "document.querySelector('main h1')")
