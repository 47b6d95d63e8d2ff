"""Steps as values, their descriptions and keys, their order; and the graph on networkx."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, NamedTuple

import pytest
from fakes import FakeMember, FakeStep
from hypothesis import given
from hypothesis import strategies as st

from mbuild.build.graph import Made, Result, in_order, written
from mbuild.build.network import BuildGraph
from mbuild.build.results import cache_key, describe
from mbuild.core.digest import Digest
from mbuild.store import Layer
from mbuild.store.manifest import Blob

LAYER = Layer("application/fake", Digest.of(b"x"), 1)


def tower(height: int) -> FakeStep:
    """Steps one over the other."""
    step = FakeStep("0")
    for number in range(1, height):
        step = FakeStep(str(number), inputs=(step,))
    return step


def test_equal_steps_are_equal_values() -> None:
    """Kind, fields and inputs count, and the hashes of equal steps are the same."""
    one, two = FakeStep("a", "t", (FakeStep("b"),)), FakeStep("a", "t", (FakeStep("b"),))
    assert one == two
    assert hash(one) == hash(two)
    assert one is not two
    others: list[object] = [
        FakeStep("a", "other", (FakeStep("b"),)),
        FakeStep("a", "t", (FakeStep("c"),)),
        FakeStep("a", "t"),
        FakeMember("a", "t", (FakeStep("b"),)),
        "a",
    ]
    assert all(one != other for other in others)


def test_what_does_not_count_does_not_tell_steps_apart() -> None:
    """A field with ``compare=False``: what labels a step, or how its result is made."""
    assert FakeStep("a", then=print) == FakeStep("a", then=None)


def test_deep_graphs_are_compared_and_ordered_at_once() -> None:
    """No walk goes down: a tower higher than Python's stack is one dictionary key."""
    height = 5000
    one, two = tower(height), tower(height)
    assert one == two
    assert {one: "found"}[two] == "found"
    assert len(in_order([one, two])) == height


@pytest.mark.parametrize(
    ("a", "b"),
    [(1, True), (1, 1.0), (0.0, -0.0), ("1", 1), ([1], {"1": 1}), (None, "None"), ("a,b", ["a,b"])],
)
def test_values_that_python_takes_for_equal_are_not(a: Any, b: Any) -> None:
    """A parameter that is 1 is another one than one that is true: their bytes differ."""
    assert written(a) != written(b)
    assert written({"x": a}) != written({"x": b})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(json_values, json_values)
def test_the_text_of_a_value_tells_it_apart(a: Any, b: Any) -> None:
    """Equal texts exactly for values with equal JSON, whatever the order of the keys."""
    same = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (written(a) == written(b)) is same


def test_inputs_come_before_users() -> None:
    """Each step once, the first of equal ones for all."""
    common = FakeStep("common")
    left, right = FakeStep("left", inputs=(common,)), FakeStep("right", inputs=(common,))
    top = FakeStep("top", inputs=(left, right, FakeStep("common")))
    assert [step.label for step in in_order([top, right])] == ["common", "left", "right", "top"]


def test_a_key_is_the_digest_of_the_description() -> None:
    """Kind, version, fields and the inputs' results; no name, and nothing of the run."""
    step = FakeStep("a", "t", (FakeStep("b"),))
    description = describe(step, [Result((LAYER,), {"n": 1})])
    assert description == {
        "kind": "fake",
        "version": 1,
        "fields": {"text": "t"},
        "inputs": [{"kind": "fake", "result": {"layers": [LAYER.to_json()], "facts": {"n": 1}}}],
    }
    assert cache_key(description) == cache_key(json.loads(json.dumps(description)))
    assert describe(
        FakeStep("other name", "t", (FakeStep("c"),)), [Result((LAYER,), {"n": 1})]
    ) == (description)


def test_a_result_survives_the_cache() -> None:
    """Layers and facts, byte for byte the same text again."""
    result = Result((LAYER,), {"b": [1, "é"], "a": None})
    assert Result.from_json(result.to_json()) == result
    assert Result.from_json(result.to_json()).to_json() == result.to_json()


@pytest.mark.parametrize("existed", [True, False])
def test_a_blob_that_was_there_is_not_new(existed: bool) -> None:
    """What a run gave tells the layers that the store did not have before."""
    made = Made.of([Blob(LAYER.digest, 1, existed=existed)], LAYER.media_type)
    assert made.result == Result((LAYER,))
    assert made.new == (() if existed else (LAYER,))


# The graph on networkx.


class Row(NamedTuple):
    """A step of a list, by its inputs."""

    inputs: tuple[int, ...] = ()


DIAMOND = [Row(), Row((0,)), Row((0,)), Row((1, 2)), Row()]


def test_a_graph_of_steps() -> None:
    """Equal steps are one node; order, neighbours, and all that is before or after."""
    common = FakeStep("common")
    left, right = FakeStep("left", inputs=(common,)), FakeStep("right", inputs=(common,))
    top = FakeStep("top", inputs=(left, right))
    graph = BuildGraph.of_steps([top, FakeStep("right", inputs=(FakeStep("common"),))])
    assert graph.order() == [common, left, right, top]
    assert graph.before(top) == [left, right]
    assert graph.after(common) == [left, right]
    assert graph.ancestors(top) == {common, left, right}
    assert graph.descendants(left) == {top}


def test_a_graph_of_rows() -> None:
    """A forecast and a build of the log name inputs by their places."""
    graph = BuildGraph.of_rows(DIAMOND)
    assert graph.order() == [0, 1, 2, 3, 4]
    assert graph.ancestors(3) == {0, 1, 2}
    assert graph.descendants(4) == set()


def test_the_critical_path_takes_longest() -> None:
    """By time and not by the number of steps; an empty graph has none."""
    graph = BuildGraph.of_rows(DIAMOND)
    assert graph.critical_path(lambda node: [1.0, 1.0, 5.0, 1.0, 2.0][node]) == [0, 2, 3]
    assert graph.critical_path(lambda node: [1.0, 1.0, 1.0, 1.0, 9.0][node]) == [4]
    assert BuildGraph.of_rows([]).critical_path(lambda node: 1.0) == []


def test_edges_that_a_longer_way_implies_go() -> None:
    """The transitive reduction, in order."""
    graph = BuildGraph("abc", [("a", "b"), ("a", "c"), ("b", "c")])
    assert graph.reduced() == [("a", "b"), ("b", "c")]


def test_a_cycle_is_told() -> None:
    """Whoever merges nodes may make one."""
    graph = BuildGraph("ab", [("a", "b"), ("b", "a")])
    for walk in (graph.order, graph.reduced, lambda: graph.critical_path(lambda node: 1.0)):
        with pytest.raises(ValueError, match="cycle"):
            walk()


def test_the_engine_loads_no_networkx() -> None:
    """Neither planning nor running does: only who walks a graph pays for it."""
    code = (
        "import sys, mbuild.build.build, mbuild.build.plan, mbuild.build.lock,"
        " mbuild.build.recording, mbuild.build.forecast\n"
        "print([name for name in ('networkx', 'numpy', 'mbuild.build.network') if name in"
        " sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
