"""Pictures of graphs: the layout's properties, and the three formats."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.dom.minidom
from itertools import combinations, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbuild.build.history import BuildRecord
from mbuild.view.picture import Node, NodeLook, NodeRole, Picture
from mbuild.view.picture.dot import dot
from mbuild.view.picture.layout import lay_out, ranks
from mbuild.view.picture.mermaid import mermaid
from mbuild.view.picture.simplify import fold_chains, reduce_edges, simplify_picture
from mbuild.view.picture.svg import svg
from mbuild.view.picture.text import one_line, width, wrapped
from mbuild.view.report import picture_of_build

DATA = Path(__file__).parents[1] / "data" / "picture"

HOSTILE = (
    'a "quoted" name',
    "brackets [x] (y) {z} <b>bold</b> |p|",
    "1. first",
    "- dash",
    "# head",
    "`code` *em* _em_ **b** $$x^2$$",
    "new\nline\r\ntab\t",
    "end",
    "日本語 مرحبا 🦙",
    "back\\slash \\n \\l",
    "&amp; &lt; #quot; #35; ]]>",
    "fa:fa-car http://x.y/z",
    "%% comment --> x ==> y -.- ; :",
    "\x00\x1b[31m\udc80\u202e",
    "subgraph x",
    "",
    "<script>alert(1)</script>",
    "@{ shape: x } ~~~",
    "a" * 300,
)


def node(
    label: str, look: NodeLook = NodeLook.RAN, kind: str = "x", role: NodeRole = NodeRole.STEP
) -> Node:
    return Node(label, role, look, kind, (look.value,), label)


def hostile() -> Picture:
    """A chain of nodes with labels that mean something to each format, in all looks and roles."""
    looks, roles = list(NodeLook), list(NodeRole)
    nodes = tuple(
        Node(label, roles[n % 3], looks[n % len(looks)], "x", (label,), label)
        for n, label in enumerate(HOSTILE)
    )
    return Picture(
        't "x"; # {y} \n <z>', 's : %% ;; {} "', nodes, tuple(pairwise(range(len(nodes))))
    )


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[tuple[float, float]], list[tuple[int, int]]]:
    """Sizes, and edges from lower to higher numbers under a random renaming."""
    count = draw(st.integers(1, 24))
    sizes = [(draw(st.integers(20, 200)), draw(st.integers(20, 90))) for _ in range(count)]
    pairs = list(combinations(range(count), 2))
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=50)) if pairs else []
    names = draw(st.permutations(range(count)))
    return sizes, [(names[a], names[b]) for a, b in chosen]


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_boxes_lie_apart_and_edges_lead_down(graph: tuple[list[tuple[float, float]], list]) -> None:
    """No two boxes meet, every edge starts at its box, ends at its user below, and rises never."""
    sizes, edges = graph
    layout = lay_out(sizes, edges)
    for a, b in combinations(layout.boxes, 2):
        apart = a.x + a.width < b.x or b.x + b.width < a.x
        assert apart or a.y + a.height < b.y or b.y + b.height < a.y
    for (start, end), points in zip(edges, layout.routes, strict=True):
        upper, lower = layout.boxes[start], layout.boxes[end]
        assert points[0][1] == upper.y + upper.height and points[-1][1] == lower.y
        assert upper.x <= points[0][0] <= upper.x + upper.width
        assert lower.x <= points[-1][0] <= lower.x + lower.width
        assert all(a[1] < b[1] for a, b in pairwise(points))
    for box, (wide, tall) in zip(layout.boxes, sizes, strict=True):
        assert box.width == wide and box.height >= tall
        assert box.x >= 0 and box.x + box.width <= layout.width + 0.1
        assert box.y + box.height <= layout.height


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_edges_pass_beside_boxes(graph: tuple[list[tuple[float, float]], list]) -> None:
    """Where a long edge passes a rank it is upright and touches no box of that rank."""
    layout = lay_out(*graph)
    for points in layout.routes:
        for (x, top), (other, bottom) in zip(points[1:-1:2], points[2:-1:2], strict=True):
            assert x == other
            for box in layout.boxes:
                if box.y < bottom and top < box.y + box.height:
                    assert not box.x < x < box.x + box.width


def test_ranks_are_by_the_longest_way_and_sources_stay_near() -> None:
    """A user is below all its inputs; a source used only far below is drawn right above it."""
    #      0 -> 1 -> 2 -> 3,  0 -> 3,  4 -> 3
    assert ranks(5, [(0, 1), (1, 2), (2, 3), (0, 3), (4, 3)]) == [0, 1, 2, 3, 2]
    with pytest.raises(ValueError, match="cycle"):
        ranks(2, [(0, 1), (1, 0)])


def test_a_crossing_that_can_be_avoided_is_avoided() -> None:
    """Two inputs given in the wrong order for their users are put in the right one."""
    layout = lay_out([(50, 20)] * 4, [(0, 3), (1, 2)])
    boxes = layout.boxes
    assert (boxes[0].x < boxes[1].x) == (boxes[3].x < boxes[2].x)


def test_a_chain_is_straight() -> None:
    """One after the other, boxes of different widths stand in one line."""
    boxes = lay_out([(50, 20), (180, 20), (90, 30)], [(0, 1), (1, 2)]).boxes
    assert len({box.x + box.width / 2 for box in boxes}) == 1


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_reduced_graphs_lead_to_the_same_nodes(graph: tuple[list, list]) -> None:
    """The edges that go are implied: from each node the same nodes can be reached, by no less."""
    sizes, edges = graph
    picture = Picture("", "", tuple(node(str(n)) for n in range(len(sizes))), tuple(edges))
    kept = reduce_edges(picture).edges
    assert set(kept) <= set(edges)
    assert reach(len(sizes), kept) == reach(len(sizes), edges)
    for edge in kept:
        rest = [other for other in kept if other != edge]
        assert reach(len(sizes), rest) != reach(len(sizes), kept)


def reach(count: int, edges: object) -> set[tuple[int, int]]:
    pairs = set(edges)  # type: ignore[call-overload]
    while True:
        more = {(a, d) for a, b in pairs for c, d in pairs if b == c} - pairs
        if not more:
            return pairs
        pairs |= more


def adapters(count: int) -> Picture:
    """A base and many adapters with a source each, which one config and one model use."""
    nodes = [node("base", kind="quantize")]
    edges = []
    for number in range(count):
        source, step = len(nodes), len(nodes) + 1
        source_node = node(f"lora-{number}", NodeLook.GIVEN, "source", NodeRole.SOURCE)
        nodes.append(source_node._replace(facts=("59 KB",)))
        nodes.append(node(f"convert lora-{number}", NodeLook.CACHED, "convert-adapter"))
        edges += [(source, step), (0, step)]
    config, model = len(nodes), len(nodes) + 1
    nodes += [node("config", kind="config"), node("m", role=NodeRole.MODEL)]
    edges += [(step, last) for step in range(2, config, 2) for last in (config, model)]
    return Picture("t", "s", tuple(nodes), (*edges, (config, model)))


def test_two_hundred_adapters_are_one_box() -> None:
    """Many nodes alike between the same neighbours are one that lists them; others stay."""
    picture = simplify_picture(adapters(200))
    labels = [each.label for each in picture.nodes]
    assert labels == ["base", "lora-0 and 199 more", "convert lora-0 and 199 more", "config", "m"]
    assert [each.facts for each in picture.nodes[1:3]] == [("59 KB each",), ("cached",)]
    assert "convert lora-39\nand 160 more" in picture.nodes[2].title
    assert picture.edges == ((0, 2), (1, 2), (2, 3), (3, 4))
    few = fold_chains(reduce_edges(adapters(8)))
    assert len(few.nodes) == 19


def test_a_large_graph_is_laid_out() -> None:
    """Two hundred adapters side by side, unfolded, still come out without overlap."""
    picture = adapters(200)
    layout = lay_out([(100.0, 40.0)] * len(picture.nodes), picture.edges)
    row = sorted(box.x for box in layout.boxes if box.y == layout.boxes[2].y)
    assert len(row) == 200 and all(b - a >= 100 for a, b in pairwise(row))


def test_texts_are_broken_and_cut() -> None:
    """Words stay whole where they fit, long ones break at signs, the rest ends in an ellipsis."""
    label = "quantize tiny-chat to Q4_K_M"
    assert wrapped(label, 130, 13, 3) == ["quantize tiny-chat", "to Q4_K_M"]
    lines = wrapped("Llama-3.2-1B-Instruct-bf16-00001-of-00002.gguf" * 3, 160, 13, 3)
    assert len(lines) == 3 and lines[-1].endswith("…") and lines[0].endswith("-")
    assert all(width(line, 13) <= 160 for line in lines)
    assert wrapped("", 100, 13, 2) == [""]


def test_svg_is_xml_whatever_the_labels() -> None:
    """Every label stands in the SVG as it is, but for what XML cannot hold; its name is given."""
    document = xml.dom.minidom.parseString(svg(hostile()).encode())
    root = document.documentElement
    assert root is not None
    assert root.getAttribute("role") == "img"
    named = {element.getAttribute("id") for element in root.getElementsByTagName("*")}
    assert set(root.getAttribute("aria-labelledby").split()) <= named
    titles = [
        each.firstChild.data for each in root.getElementsByTagName("title") if each.firstChild
    ]
    for label in HOSTILE[:13]:
        assert any(one_line(label) == one_line(title) for title in titles), label
    assert "\x1b" not in "".join(titles)
    assert not root.getElementsByTagName("script")


def test_looks_differ_by_more_than_colour() -> None:
    """Each look has an icon of its own or, to run and ran, a word of its own, and a legend."""
    from mbuild.view.picture.svg import _ICONS

    assert len(set(_ICONS.values())) == len(NodeLook) - 1
    text = svg(hostile())
    for meaning in ("source", "cached", "will run", "ran", "did not finish"):
        assert f">{meaning}</text>" in text


def test_dot_is_read_by_graphviz() -> None:
    """Graphviz reads the labels back as they were, on one line each."""
    if not shutil.which("dot"):
        pytest.skip("graphviz is not installed")
    picture = hostile()
    done = subprocess.run(
        ["dot", "-Tjson"], input=dot(picture).encode(), capture_output=True, timeout=60, check=True
    )
    assert done.stderr == b""
    drawn = json.loads(done.stdout)
    shown = [
        "".join(op["text"] + "\n" for op in each.get("_ldraw_", ()) if op["op"] == "T")
        for each in drawn["objects"]
    ]
    expected = [f"{one_line(label)}\n{one_line(label)}\n" for label in HOSTILE]
    blank = HOSTILE.index("")
    assert [text for n, text in enumerate(shown) if n != blank] == [
        text for n, text in enumerate(expected) if n != blank
    ]
    assert len(drawn["edges"]) == len(picture.edges)


FORMATS = {"build.svg": svg, "build.mmd": mermaid, "build.dot": dot}


def fixed_build() -> BuildRecord:
    return BuildRecord.from_json(json.loads((DATA / "build.json").read_text()))


@pytest.mark.parametrize("name", FORMATS)
def test_a_build_is_drawn_as_ever(name: str) -> None:
    """The picture of a given build is the golden file; MBUILD_WRITE_GOLDEN=1 writes it anew."""
    text = FORMATS[name](picture_of_build(fixed_build()))
    if os.environ.get("MBUILD_WRITE_GOLDEN"):
        (DATA / name).write_text(text, encoding="utf-8")
    assert text == (DATA / name).read_text(encoding="utf-8")


def test_pictures_do_not_depend_on_the_hash_seed() -> None:
    """Processes with other hash seeds draw the same bytes."""
    program = (
        "import test_picture as t; from mbuild.view.picture.simplify import simplify_picture;"
        "p = simplify_picture(t.adapters(30));"
        "print(t.svg(p), t.mermaid(p), t.dot(p), t.svg(t.hostile()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            check=True,
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
