"""The page in real Chromium: seen, used with keys alone, behind a token, and with hostile texts.

The picture in docs/images is made here: MBUILD_WRITE_IMAGES=1 writes it anew.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser, axe_source, chromium, png_size, same_picture
from documents import DOCS
from drawn_builds import three_variants
from example_models import write_chat
from live_server import Server, serving_here
from running_builds import Gate, gated, told
from stores import copy_tiny_store

from mbuild.build.history import History
from mbuild.server.security import AccessPolicy

pytestmark = pytest.mark.browser

SIZES = {"phone": (320, 640), "desktop": (1280, 900)}
VIEWS = ("builds", "models", "edit", "disk")
HEADING = "document.querySelector('main h1')?.textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as window:
        yield window


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Iterator[Server]:
    """A server whose store has models that share layers, and builds that ended in every way."""
    drawn = three_variants(tmp_path_factory.mktemp("busy"))
    *steps, last = drawn.record.steps
    cut = last._replace(status="unfinished", started=4.0, seconds=1.0)
    for result, error in (("stopped", ""), ("failed", "the disk is full\n  hint: mbuild prune")):
        record = drawn.record._replace(
            id="6b06f195ffff" if error else "6b06f1950000",
            result=result,
            error=error,
            models={},
            steps=(*steps, cut),
        )
        History(drawn.store).append(record)
    with serving_here(drawn.store.root) as server:
        yield server
        browser.open("about:blank")


@pytest.fixture
def server(tmp_path: Path, browser: Browser) -> Iterator[Server]:
    """A server whose store has the model ``tiny``."""
    with serving_here(copy_tiny_store(tmp_path / "store")) as server:
        yield server
        browser.open("about:blank")  # a page that is open holds the server for a moment


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Builds wait at their first running step until the test lets them go on."""
    with gated(monkeypatch) as gate:
        yield gate


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of the accessibility checker axe-core."""
    return axe_source()


def visit(browser: Browser, server: Server, view: str, *, fresh: bool = True) -> None:
    """Open a view and wait until it is there."""
    if fresh:
        browser.open("about:blank")
        browser.open(f"{server.url}/#/{view}")
    else:
        browser.run(f"location.hash = {json.dumps('#/' + view)}")
    browser.until(HEADING)


def problems(browser: Browser, axe: str) -> list[object]:
    """What axe-core finds wrong with the page as it is now."""
    browser.run(f"{axe};0")
    found = browser.run("""
        axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]})
            .then(results => [results.passes.length,
                results.violations.map(v => [v.id, v.impact, v.nodes.map(n => n.html)])])
    """)
    passes, violations = found
    assert passes > 15
    return list(violations)


def sticking_out(browser: Browser) -> list[str]:
    """What is wider than the window and does not scroll in a place of its own."""
    return list(
        browser.run("""
        (document.documentElement.scrollWidth > innerWidth ? ["the page"] : []).concat(
        [...document.querySelectorAll("body *")].filter(element => {
            const box = element.getBoundingClientRect();
            return box.width && box.right > innerWidth + 1
                && !element.closest(".scroll, .skip, .editor, .unseen, thead");
        }).map(element => element.outerHTML.slice(0, 90)))
    """)
    )


@pytest.mark.parametrize(("size", "dark"), [("desktop", False), ("phone", True)])
def test_every_view_fits_and_is_accessible(
    browser: Browser, busy: Server, axe: str, size: str, dark: bool
) -> None:
    """On a desktop in light and at 320 pixels in dark: nothing sticks out, axe finds nothing."""
    browser.look(*SIZES[size], dark=dark)
    past = busy.http.get("/api/mbuild/builds").json()["past"]
    views = [*VIEWS, *(f"build/{row['id']}" for row in past[:3]), "model/mario:Q8_0"]
    for view in views:
        visit(browser, busy, view, fresh=view == "builds")
        browser.until("document.activeElement === document.body || document.title !== 'mbuild'")
        browser.until("document.getElementById('link').textContent === 'Live'")
        assert sticking_out(browser) == [], view
        assert problems(browser, axe) == [], view
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")


def test_it_asks_this_server_alone_and_breaks_no_rule_of_its_policy(
    browser: Browser, busy: Server
) -> None:
    """Every request goes where the page came from, and nothing that it does is blocked."""
    browser.open("about:blank")
    browser.requests()
    browser.open(f"{busy.url}/")
    browser.run("""
        window.broken = [];
        document.addEventListener("securitypolicyviolation",
            event => broken.push([event.effectiveDirective, event.blockedURI]));
    """)
    (first, *_) = busy.http.get("/api/mbuild/builds").json()["past"]
    for view in (*VIEWS, f"build/{first['id']}", "model/mario:Q8_0"):
        visit(browser, busy, view, fresh=False)
        browser.until("document.getElementById('link').textContent === 'Live'")
    assert browser.run("broken") == []
    asked = {url for url in browser.requests() if not url.startswith("about:")}
    assert asked and all(url.startswith(busy.url + "/") for url in asked), asked


def test_its_policy_runs_no_other_script(browser: Browser, busy: Server) -> None:
    """Markup is refused where a page would make it, and an inline script does not run."""
    visit(browser, busy, "builds")
    outcome = browser.run("""
        (() => {
            const told = [];
            try { document.body.innerHTML = "<p>x</p>"; told.push("markup"); } catch { }
            try { eval("1"); told.push("eval"); } catch { }
            const script = document.createElement("script");
            try { script.text = "window.inline = 1"; document.body.append(script); } catch { }
            return told.concat(window.inline ? ["inline"] : []);
        })()
    """)
    # An expression of the DevTools may use eval itself; what the page would run it may not.
    assert "markup" not in outcome and "inline" not in outcome


def test_a_build_is_started_watched_and_ends(browser: Browser, server: Server, gate: Gate) -> None:
    """From the form to a running step in the graph, then the end, without a new load."""
    browser.look(*SIZES["desktop"])
    visit(browser, server, "edit")
    browser.run("document.getElementById('model').value = 'mario'; window.loaded = 1")
    browser.run("document.querySelector('.edit .primary').click()")
    browser.until("location.hash.startsWith('#/build/')")
    browser.until("document.querySelector('.graph svg .running')")
    assert browser.until("document.querySelector('.steps .look.running')?.textContent") == "running"
    visit(browser, server, "builds", fresh=False)
    browser.until("document.querySelector('.cards .badge.running')")
    assert "mario:latest" in browser.text()
    browser.run("document.querySelector('.cards .name').click()")
    browser.until("document.querySelector('.graph svg')")
    gate.open()
    browser.until("document.querySelector('.result .badge.built')")
    assert browser.run("document.querySelectorAll('.steps .look.running').length") == 0
    assert "built mario:latest" in browser.text() and browser.run("window.loaded") == 1
    browser.until("document.getElementById('said').textContent.includes('mario:latest: built')")
    report = browser.run("document.querySelector('.actions a').href")
    browser.open(report)
    assert "mario:latest" in browser.text() and "Steps and reasons" in browser.text()


def test_closing_the_page_stops_nothing_and_stop_does(
    browser: Browser, server: Server, gate: Gate
) -> None:
    """A build goes on without the page; its button stops it, and no model gets its name."""
    visit(browser, server, "builds")
    body = {"model": "mario", "from": "tiny", "system": "x"}
    identity = server.http.post("/api/mbuild/builds", json=body).json()["id"]
    browser.until("document.querySelector('.cards .badge.running')")
    browser.open("about:blank")
    assert gate.reached.wait(10)
    running = server.http.get("/api/mbuild/builds").json()["running"]
    assert [row["id"] for row in running] == [identity]
    visit(browser, server, "builds")
    browser.until("document.querySelector('.cards .danger')")
    browser.run("document.querySelector('.cards .danger').click()")
    browser.until("document.querySelector('.cards .badge.stopping')")
    gate.open()
    browser.until("document.querySelector('.builds .badge.stopped')")
    assert browser.run("document.querySelectorAll('.cards li').length") == 0
    assert [m["name"] for m in server.http.get("/api/tags").json()["models"]] == ["tiny:latest"]


def test_marks_stand_under_what_check_finds(browser: Browser, server: Server) -> None:
    """While it is written: the line, the words, the remedy; gone when the mistake is."""
    visit(browser, server, "edit")
    browser.run("""
        const area = document.getElementById("modelfile");
        area.value = "FROM tiny\\nSYSTEM 😀\\nPARAMETER temprature 0.5\\nFROM nobody\\n";
        area.dispatchEvent(new Event("input"));
    """)
    browser.until("document.querySelectorAll('mark').length")
    browser.until("document.querySelector('.numbers .error')?.textContent.trim() === '3'")
    assert "did you mean" in browser.text() and "temperature" in browser.text()
    marked = browser.run("document.querySelector('mark.error').textContent")
    assert "temprature" in marked
    browser.run("document.querySelector('.problems .error button').click()")
    chosen = browser.run("area.value.slice(area.selectionStart, area.selectionEnd)")
    assert chosen == marked and browser.run("document.activeElement.id") == "modelfile"
    assert browser.run("area.getAttribute('aria-invalid')") == "true"
    browser.run(
        "area.value = area.value.replace('temprature', 'temperature').replace(/FROM nobody.*/s, '')"
    )
    browser.run("area.dispatchEvent(new Event('input'))")
    browser.until("document.getElementById('found').textContent === 'Nothing is wrong with it.'")
    assert browser.run("document.querySelectorAll('mark').length") == 0


def test_marks_lie_exactly_behind_their_words(browser: Browser, server: Server) -> None:
    """The copy of the text has the letters of the area at the same place, scrolled or not."""
    browser.look(*SIZES["desktop"])
    visit(browser, server, "edit")
    browser.run("""
        const area = document.getElementById("modelfile");
        area.value = "FROM tiny\\n" + "# a comment\\n".repeat(60) + "PARAMETER nothing 1\\n";
        area.dispatchEvent(new Event("input"));
    """)
    browser.until("document.querySelector('mark')")
    styles = browser.run("""
        [area, document.querySelector(".marks")].map(element => {
            const style = getComputedStyle(element);
            return [style.font, style.lineHeight, style.paddingLeft, style.paddingTop,
                    style.tabSize, style.whiteSpace, style.letterSpacing].join("|");
        })
    """)
    assert styles[0] == styles[1]
    browser.run("area.scrollTop = area.scrollHeight")
    browser.until("document.querySelector('.marks').scrollTop === area.scrollTop && area.scrollTop")
    assert browser.run("document.querySelector('.numbers').scrollTop === area.scrollTop")


def test_keys_alone_are_enough(browser: Browser, server: Server) -> None:
    """Skip to the content, go to the form, fill it in, build, and read how it ended."""
    browser.look(*SIZES["desktop"])
    visit(browser, server, "builds")
    browser.press("Tab")
    assert browser.run("document.activeElement.id") == "skip"
    browser.press("Enter")
    assert browser.run("document.activeElement.id") == "main"
    tab_to(browser, "document.activeElement.textContent === 'New build'")
    browser.press("Enter")
    browser.until(f"{HEADING} === 'New build'")
    assert browser.until("document.activeElement.tagName === 'H1'")
    tab_to(browser, "document.activeElement.id === 'model'")
    browser.write("luigi")
    tab_to(browser, "document.activeElement.id === 'modelfile'")
    tab_to(browser, "document.activeElement.textContent === 'Build'")
    browser.press("Space")
    browser.until("document.querySelector('.result .badge.built')")
    tab_to(browser, "document.activeElement.matches('.graph')")
    outlined = browser.run("getComputedStyle(document.activeElement).outlineStyle")
    assert outlined == "solid"


def tab_to(browser: Browser, condition: str, most: int = 40) -> None:
    """Press Tab until the focus is where it should be; it must be visible on the way."""
    for _ in range(most):
        browser.press("Tab")
        if browser.run(condition):
            return
    raise AssertionError(f"{condition} is out of reach")


def test_behind_a_token_it_asks_for_it_and_keeps_it_in_the_tab(
    browser: Browser, tmp_path: Path, axe: str
) -> None:
    """A wrong one is refused with words, the right one opens, signing out forgets it."""
    policy = AccessPolicy(token="let me in")
    with serving_here(copy_tiny_store(tmp_path / "store"), policy=policy) as server:
        browser.look(*SIZES["phone"], dark=True)
        visit(browser, server, "models")
        assert browser.until(f"{HEADING} === 'Sign in'")
        assert problems(browser, axe) == []
        for given in ("wrong", "let me in"):
            browser.run("document.getElementById('token').focus()")
            browser.run("document.getElementById('token').select()")
            browser.write(given)
            browser.press("Enter")
            if given == "wrong":
                browser.until("document.getElementById('token-problem').textContent")
        browser.until(f"{HEADING} === 'Models'")
        assert "tiny:latest" in browser.text()
        assert browser.run("document.cookie") == "" and browser.run("localStorage.length") == 0
        requests = browser.requests()
        assert requests and not [url for url in requests if "let" in url]
        browser.run("document.getElementById('leave').click()")
        browser.until(f"{HEADING} === 'Sign in'")
        assert browser.run("sessionStorage.length") == 0 and "tiny" not in browser.text()


def test_a_server_that_ends_is_said_and_found_again(browser: Browser, tmp_path: Path) -> None:
    """The page says that it is not connected, and is live again when a server answers."""
    from mbuild.server import run

    root = copy_tiny_store(tmp_path / "store")
    with serving_here(root) as server:
        visit(browser, server, "builds")
        browser.until("document.getElementById('link').textContent === 'Live'")
        port = server.port
    browser.until("document.getElementById('link').textContent === 'Not connected'")
    with pytest.MonkeyPatch.context() as patch:
        listen = run.listen
        patch.setattr(run, "listen", lambda host, _: listen(host, port))
        with serving_here(root):
            browser.until("document.getElementById('link').textContent === 'Live'", 20)


def test_the_documented_picture(browser: Browser, busy: Server, tmp_path: Path) -> None:
    """The picture in docs/images is of this size, and shows the page as it is today."""
    record = next(r for r in History(busy.store).newest_first() if r.id == "6b06f1950000")
    looks = ["ran"] * 3 + ["running"] * 2 + ["waiting"] * len(record.steps)
    steps = tuple(
        step._replace(status=look, reasons=(), layers=step.layers if look == "ran" else ())
        for step, look in zip(record.steps, looks, strict=False)
    )
    now = time.time_ns() - 3_000_000_000
    telling = told(busy.store, record._replace(steps=steps, time=now), "6b06f1950001")
    browser.look(1280, 1000)
    visit(browser, busy, "build/6b06f1950001")
    browser.until("document.querySelector('.graph svg')")
    browser.until("document.getElementById('link').textContent === 'Live'")
    browser.screenshot(tmp_path / "page.png", height=1000)
    telling.end()
    documented = DOCS / "images" / "page.png"
    if os.environ.get("MBUILD_WRITE_IMAGES"):
        shutil.copyfile(tmp_path / "page.png", documented)
    assert png_size(tmp_path / "page.png") == png_size(documented)
    assert documented.stat().st_size < 200_000
    assert same_picture(browser, tmp_path / "page.png", documented) < 6


def test_a_file_and_a_folder_are_sent_and_built(
    browser: Browser, server: Server, tmp_path: Path, axe: str
) -> None:
    """The Modelfile gets the word for it; what was sent outlives a reload of the page."""
    write_chat(tmp_path / "my chat")
    (tmp_path / "my chat" / ".hidden").write_text("x")
    browser.look(*SIZES["desktop"])
    visit(browser, server, "edit")
    browser.run("sessionStorage.clear()")
    visit(browser, server, "builds")
    visit(browser, server, "edit")
    browser.choose("document.getElementById('send-folder')", tmp_path / "my chat")
    browser.until("document.querySelector('.files .note')?.textContent.startsWith('4 files')", 30)
    browser.until("document.getElementById('modelfile').value.startsWith('FROM ./my chat\\n')")
    browser.until("document.getElementById('found').textContent === 'Nothing is wrong with it.'")
    assert not problems(browser, axe)
    browser.run("location.reload()")
    browser.until("document.querySelector('.files strong')?.textContent === 'my chat'")
    browser.run("document.getElementById('model').focus()")
    browser.write("sent")
    browser.run("document.querySelector('.edit .primary').click()")
    browser.until("document.querySelector('.result .badge.built')", 60)
    assert any(m["name"] == "sent:latest" for m in server.http.get("/api/tags").json()["models"])
    visit(browser, server, "edit")
    browser.until("document.querySelector('.files button:last-of-type')")
    browser.run("document.querySelector('.files button:last-of-type').click()")
    browser.until("document.querySelector('.files').hidden")
    browser.until("document.querySelector('.problems .error')"), "nothing was sent: it is marked"


def test_a_model_is_copied_renamed_and_deleted_with_keys(
    browser: Browser, server: Server, axe: str
) -> None:
    """Each asks first; a name that is taken is refused; Escape leaves everything as it is."""
    browser.look(*SIZES["desktop"])
    visit(browser, server, "model/tiny:latest")

    def names() -> list[str]:
        return sorted(m["name"] for m in server.http.get("/api/tags").json()["models"])

    def answer(word: str, name: str = "") -> None:
        tab_to(browser, f"document.activeElement.textContent === '{word}'")
        browser.press("Enter")
        browser.until("document.querySelector('dialog[open]')")
        assert not problems(browser, axe)
        if name:
            assert browser.run("document.activeElement.tagName") == "INPUT"
            browser.write(name)
            browser.press("Enter")

    answer("Copy", "tiny")
    browser.until("document.querySelector('dialog[open] .problem').textContent.includes('already')")
    browser.run("document.querySelector('dialog[open]').close()")
    assert names() == ["tiny:latest"]
    answer("Copy", "second")
    browser.until(f"{HEADING} === 'second:latest'")
    assert names() == ["second:latest", "tiny:latest"]
    answer("Rename", "third:v1")
    browser.until(f"{HEADING} === 'third:v1'")
    assert names() == ["third:v1", "tiny:latest"]
    answer("Delete")
    assert browser.run("document.activeElement.textContent") == "Cancel"
    browser.press("Enter")
    browser.until("!document.querySelector('dialog[open]')")
    assert names() == ["third:v1", "tiny:latest"]
    answer("Delete")
    browser.press("Tab", shift=True)
    browser.press("Enter")
    browser.until(f"{HEADING} === 'Models'")
    assert names() == ["tiny:latest"]
