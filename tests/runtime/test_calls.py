"""Calls of tools in a model's text, wherever it is cut."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from smollm import CHATML, TOOLS

from mbuild.runtime.calls import CallSplitter, names_of, new_id, tag_of
from mbuild.templates.gotemplate import parse

NAMES = ("get_weather", "get", "add")
Calls = list[tuple[str, dict[str, Any]]]

TEXTS: list[tuple[str, str, str, Calls]] = [
    (
        "<tool_call>",
        'Sure. <tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>',
        "Sure.",
        [("add", {"a": 1})],
    ),
    (
        "<tool_call>",
        '<tool_call>{"name":"get","parameters":{}}</tool_call>'
        '<tool_call>{"name":"get_weather","arguments":{"city":"Rome {}"}}</tool_call> bye',
        "",
        [("get", {}), ("get_weather", {"city": "Rome {}"})],
    ),
    ("<tool_call>", "no call at all ", "no call at all ", []),
    ("<tool_call>", '<tool_call>{"name": "add", "argu', "", []),
    ("<tool_call>", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>', "", []),
    ("[CALLS]", '[CALLS]get_weather{"city": "Rome"}', "", [("get_weather", {"city": "Rome"})]),
    ("{", ' {"name": "add", "arguments": {"a": [1, 2]}}', "", [("add", {"a": [1, 2]})]),
    ("{", '[{"name": "add", "arguments": {}}, {"name": "get", "arguments": {}}]', "",
     [("add", {}), ("get", {})]),
    ("{", 'A set is {"a": 1}.', 'A set is {"a": 1}.', []),
    ("{", '{"answer": 42}', '{"answer": 42}', []),
    ("{", '{"function": {"name": "add", "arguments": "{\\"a\\": 1}"}}', "", [("add", {"a": 1})]),
]  # fmt: skip


def _split(tag: str, text: str, cuts: list[int]) -> tuple[str, Calls]:
    splitter = CallSplitter(tag, NAMES)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    answer, calls = "", []
    for start, end in itertools.pairwise(edges):
        more, found = splitter.feed(text[start:end])
        answer += more
        calls += found
    answer += splitter.end()
    assert [call.index for call in calls] == list(range(len(calls)))
    return answer, [(call.name, dict(call.arguments)) for call in calls]


@pytest.mark.parametrize(("tag", "text", "answer", "calls"), TEXTS)
def test_calls_are_found(tag: str, text: str, answer: str, calls: Calls) -> None:
    """By name and arguments, in the forms that models write; other text is the answer."""
    assert _split(tag, text, []) == (answer, calls)


@given(st.sampled_from(TEXTS), st.lists(st.integers(0, 90), max_size=8))
def test_it_does_not_matter_where_a_text_is_cut(
    row: tuple[str, str, str, Calls], cuts: list[int]
) -> None:
    """Tokens end anywhere, in a name or a number too."""
    tag, text, answer, calls = row
    assert _split(tag, text, cuts) == (answer, calls)


def test_the_tag_is_that_of_the_template() -> None:
    """The text that begins a call in the template; a brace where there is none."""
    assert tag_of(parse(TOOLS)) == "<tool_call>"
    assert tag_of(parse(CHATML)) == "{"


def test_names_are_those_of_functions() -> None:
    """What is no function has no name."""
    tools = [{"type": "function", "function": {"name": "f"}}, {"type": "x"}, {"function": {}}]
    assert names_of(tools) == ("f",)


def test_ids_differ() -> None:
    """Each call has an id of its own, of Ollama's form."""
    ids = {new_id() for _ in range(100)}
    assert len(ids) == 100 and all(len(i) == 13 and i.startswith("call_") for i in ids)
