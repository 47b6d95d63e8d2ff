"""The report and the graph in real Chromium: they fit, ask for nothing, and are accessible.

The pictures in docs/images are made here: MBUILD_WRITE_IMAGES=1 writes them anew.
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
from drawn_builds import Drawn, three_variants
from installed import packed
from test_picture import HOSTILE, hostile

from mbuild.view.picture.mermaid import mermaid
from mbuild.view.picture.svg import svg
from mbuild.view.picture.text import one_line
from mbuild.view.report import picture_of_build, picture_of_plan
from mbuild.view.report.page import page

pytestmark = pytest.mark.browser

VIEWS = {
    "phone": {"width": 360, "height": 740},
    "phone, dark": {"width": 360, "height": 740, "dark": True},
    "desktop": {"width": 1280, "height": 900},
    "desktop, dark": {"width": 1280, "height": 900, "dark": True},
    "paper": {"width": 680, "height": 1000, "media": "print"},
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as window:
        yield window


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """Two builds of three variants, and what a third would do."""
    return three_variants(tmp_path_factory.mktemp("builds"))


@pytest.fixture(scope="module")
def report(drawn: Drawn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the last build's page, made in UTC."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "UTC"
    time.tzset()
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(drawn.record, drawn.store), encoding="utf-8")
    yield path.as_uri()
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.fixture(scope="module")
def axe() -> str:
    """The source of the accessibility checker axe-core."""
    return axe_source()


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_sticks_out(browser: Browser, report: str, view: str) -> None:
    """At every size the page is as wide as the window, and what is wider scrolls in its place."""
    browser.look(**VIEWS[view])
    browser.open(report)
    wide, room = browser.run(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert wide == room == VIEWS[view]["width"]
    sticking_out = browser.run("""
        [...document.querySelectorAll("body *")].filter(element => {
            const box = element.getBoundingClientRect();
            return box.right > innerWidth + 1 && !element.closest(".scroll, .skip");
        }).map(element => element.outerHTML.slice(0, 80))
    """)
    assert sticking_out == []


@pytest.mark.parametrize("view", ["phone, dark", "desktop", "desktop, dark"])
def test_axe_finds_nothing(browser: Browser, report: str, axe: str, view: str) -> None:
    """The page breaks none of axe-core's rules, all unfolded, light and dark."""
    browser.look(**VIEWS[view])
    browser.open(report)
    browser.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    browser.run(f"{axe};0")
    found = browser.run("""
        axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa", "best-practice"]})
            .then(results => ({
                passes: results.passes.length,
                violations: results.violations.map(v => [v.id, v.nodes.map(n => n.html)]),
            }))
    """)
    assert found["violations"] == []
    assert found["passes"] > 25


def test_axe_finds_nothing_on_the_page_of_a_failed_build(
    browser: Browser, drawn: Drawn, axe: str, tmp_path: Path
) -> None:
    """Errors, steps that did not finish or begin, and models that are gone are accessible too."""
    *steps, failed, waited = drawn.record.steps
    failed = failed._replace(status="unfinished", started=4.0, seconds=1.0)
    waited = waited._replace(status="unfinished", started=0.0, seconds=0.0)
    record = drawn.record._replace(
        result="failed",
        error="the disk is full\n  hint: mbuild prune",
        models={},
        steps=(*steps, failed, waited),
    )
    (tmp_path / "failed.html").write_text(page(record, drawn.store), encoding="utf-8")
    for view in "phone", "desktop, dark":
        browser.look(**VIEWS[view])
        browser.open((tmp_path / "failed.html").as_uri())
        browser.run(f"{axe};0")
        found = browser.run("axe.run(document).then(r => r.violations.map(v => [v.id, v.help]))")
        assert found == []


def test_no_request_leaves_the_page(browser: Browser, report: str) -> None:
    """Opening the page asks for the page and for nothing else."""
    browser.open("about:blank")
    browser.requests()
    browser.open(report)
    assert [url for url in browser.requests() if not url.startswith("data:")] == [report]


def test_the_keyboard_reaches_everything(browser: Browser, report: str) -> None:
    """What can be scrolled or unfolded can be focused, and the first stop skips to the content."""
    browser.look(**VIEWS["phone"])
    browser.open(report)
    stops = browser.run("""
        [...document.querySelectorAll("a[href], summary, [tabindex='0']")].map(e => e.className)
    """)
    assert stops[0] == "skip"
    hidden = browser.run("""
        [...document.querySelectorAll("body *")].filter(element =>
            (element.scrollWidth > element.clientWidth + 1)
            && ["auto", "scroll"].includes(getComputedStyle(element).overflowX)
            && !element.matches("[tabindex='0']")).map(element => element.outerHTML.slice(0, 80))
    """)
    assert hidden == []


def test_colours_follow_the_reader(browser: Browser, report: str) -> None:
    """Dark where the reader prefers dark, and black on white on paper whatever they prefer."""
    seen = {}
    for name, view in {**VIEWS, "dark paper": {**VIEWS["paper"], "dark": True}}.items():
        browser.look(**view)
        browser.open(report)
        seen[name] = browser.run("getComputedStyle(document.body).backgroundColor")
    assert seen["desktop"] == seen["paper"] == seen["dark paper"] == "rgb(255, 255, 255)"
    assert seen["desktop, dark"] == seen["phone, dark"] == "rgb(13, 17, 23)"


def test_it_prints(browser: Browser, report: str) -> None:
    """Chromium makes a PDF of a few pages of it."""
    browser.open(report)
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF") and 2 <= pdf.count(b"/Type /Page\n") <= 12


def test_texts_fit_their_boxes(browser: Browser, drawn: Drawn, tmp_path: Path) -> None:
    """In a real font no label is wider than its box, hostile and bold ones included."""
    for name, picture in {
        "build": picture_of_build(drawn.record),
        "plan": picture_of_plan(drawn.ahead),
        "hostile": hostile(),
    }.items():
        path = tmp_path / f"{name}.svg"
        path.write_text(svg(picture), encoding="utf-8")
        browser.open(path.as_uri())
        room = browser.run("""
            [...document.querySelectorAll("g > rect.box")].flatMap(rect => {
                const box = rect.getBBox();
                return [...rect.parentNode.querySelectorAll("text")].map(text => {
                    const line = text.getBBox();
                    return [box.x + box.width - line.x - line.width, line.y - box.y,
                            box.y + box.height - line.y - line.height];
                });
            })
        """)
        assert len(room) > 30
        assert min(min(sides) for sides in room) > 1


def test_mermaid_draws_hostile_labels(browser: Browser) -> None:
    """Mermaid itself reads the flowchart, and shows every label as it is."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    source = packed("mermaid", "mermaid") / "dist" / "mermaid.min.js"
    browser.open("about:blank")
    browser.run(source.read_text(encoding="utf-8") + ";0")
    shown = browser.run(f"""
        (async () => {{
            mermaid.initialize({{startOnLoad: false, securityLevel: "strict"}});
            const page = document.createElement("div");
            page.innerHTML = (await mermaid.render("x", {json.dumps(mermaid(hostile()))})).svg;
            return [...page.querySelectorAll(".node")].map(node => node.textContent);
        }})()
    """)
    expected = [one_line(label) * 2 for label in HOSTILE]
    assert [text.replace("\N{WORD JOINER}", "") for text in shown] == expected


@pytest.mark.parametrize("name", ["graph.png", "report.png", "report-phone.png"])
def test_the_documented_pictures(
    browser: Browser, drawn: Drawn, report: str, tmp_path: Path, name: str
) -> None:
    """The pictures in docs/images are of this size, and show what is drawn today."""
    path = tmp_path / name
    if name == "graph.png":
        text = svg(picture_of_plan(drawn.ahead))
        (tmp_path / "graph.svg").write_text(text, encoding="utf-8")
        browser.look(1200, 680)
        browser.open((tmp_path / "graph.svg").as_uri())
    else:
        phone = name == "report-phone.png"
        browser.look(**VIEWS["phone, dark" if phone else "desktop"])
        browser.open(report)
    browser.screenshot(path, height={"graph.png": 680, "report.png": 1600}.get(name, 1400))
    documented = DOCS / "images" / name
    if os.environ.get("MBUILD_WRITE_IMAGES"):
        shutil.copyfile(path, documented)
    assert png_size(path) == png_size(documented)
    assert documented.stat().st_size < 300_000
    assert same_picture(browser, path, documented) < 6
