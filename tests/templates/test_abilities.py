"""What a model can do by its templates, and which of two makes its prompts: as Ollama 0.33."""

from __future__ import annotations

import pytest

from mbuild.templates.abilities import (
    InnerTemplate,
    builtin_code,
    capabilities,
    go_abilities,
    inner_template,
    uses_inner,
)
from mbuild.templates.gotemplate import parse

PLAIN = "{{ range .Messages }}{{ .Content }}{{ end }}"
THINKS = "{{ range .Messages }}{{ if .Thinking }}<think>{{ .Thinking }}</think>{{ end }}{{ end }}"
TOOLS = "{{ range .Tools }}{{ .Function }}{{ end }}"
CALLS = (
    '{{ range .Messages }}{{ .ToolCalls }}{{ if eq .Role  "tool" }}{{ .Content }}{{ end }}{{ end }}'
)
GAP = "{{ .Prompt }}{{ .Suffix }}"

RETURNS = "{{ tools }}{{ m.tool_calls }}{% if m['role'] == 'tool' %}{% endif %}"
"""Words of a Jinja template that writes tools, calls and answers."""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", InnerTemplate()),
        ("{{ messages }}", InnerTemplate(exists=True)),
        ("{{ tools }}", InnerTemplate(True, tools=True)),
        ("{{ m.tool_call }}", InnerTemplate(True, tools=True)),
        ("tool_calls tools", InnerTemplate(True, tools=True)),
        (RETURNS, InnerTemplate(True, tools=True, returns=True)),
        ("tool_calls ipython", InnerTemplate(True, tools=True, returns=True)),
        ('tool_calls message.role == "tool"', InnerTemplate(True, tools=True, returns=True)),
        ("ipython message.role == 'tool'", InnerTemplate(True)),
        ("<think></think>", InnerTemplate(True, thinks=True, switches=True)),
        ("<think>", InnerTemplate(True, switches=True)),
        ("content.split('</think>')", InnerTemplate(True, thinks=True)),
        ('content.split("</think>")', InnerTemplate(True, thinks=True)),
        ("content.split('</think>') reasoning_content", InnerTemplate(True)),
        ("content.split('</think>') <SPECIAL_12>", InnerTemplate(True)),
        ("{% if enable_thinking %}", InnerTemplate(True, switches=True)),
        ("{{ reasoning_effort }}", InnerTemplate(True, switches=True)),
    ],
)
def test_what_a_template_in_weights_does(text: str, found: InnerTemplate) -> None:
    """By its words, which nothing runs."""
    assert inner_template(text) == found


@pytest.mark.parametrize(
    ("go", "found"),
    [
        (PLAIN, ()),
        (TOOLS + THINKS, ("tools", "thinking")),
        (GAP, ("insert",)),
        ("{{ .Thinking }}", ()),  # no tags, so thoughts could not be told from an answer
    ],
)
def test_what_a_go_template_does(go: str, found: tuple[str, ...]) -> None:
    """By the names and the texts in it."""
    assert go_abilities(parse(go)) == found
    assert go_abilities(None) == ()


@pytest.mark.parametrize(
    ("inner", "go", "chosen"),
    [
        ("", PLAIN, False),
        ("{{ messages }}", None, True),
        ("{{ messages }}", PLAIN, False),
        ("{{ tools }}", PLAIN, True),
        ("<think></think>", PLAIN, True),
        ("{{ tools }}<think></think>", TOOLS, True),
        ("{{ tools }}<think></think>", TOOLS + CALLS, False),  # it would lose what tools answer
        (RETURNS + "<think></think>", TOOLS + CALLS, True),
        ("{{ tools }}", TOOLS, False),
        (RETURNS, TOOLS, True),
        (RETURNS, TOOLS + CALLS, False),
        (RETURNS, TOOLS + "{{ .ToolCalls }}", True),
        (RETURNS, TOOLS + "{{ .ToolCalls }}<tool_response>", False),
        (RETURNS, THINKS, False),  # as many, but others
        ("{{ tools }}", GAP, False),
        (RETURNS + "<think></think>", GAP, True),
        ("{% if enable_thinking %}", PLAIN, False),
    ],
)
def test_which_template_makes_the_prompts(inner: str, go: str | None, chosen: bool) -> None:
    """The one in the weights where it does more, and answers of tools are not lost by it."""
    template = None if go is None else parse(go)
    assert uses_inner(inner_template(inner), template, "") is chosen


def test_code_inside_ollama(text: str = "<|start|>system<|end|>") -> None:
    """Named by the config; for gpt-oss also meant by the marks in its template."""
    assert builtin_code({"renderer": "a", "parser": "b"}, "") == "a"
    assert builtin_code({"parser": "b"}, "") == "b"
    assert builtin_code({"model_family": "gpt-oss"}, text) == "harmony"
    assert builtin_code({"model_family": "gptoss"}, text) == "harmony"
    assert builtin_code({"model_family": "llama"}, text) == ""
    assert builtin_code({"model_family": "gpt-oss"}, PLAIN) == ""
    assert builtin_code({"model_family": ["gpt-oss"], "parser": {}}, text) == ""  # no text at all
    assert uses_inner(inner_template("{{ messages }}"), parse(TOOLS), "harmony")
    assert not uses_inner(InnerTemplate(), parse(TOOLS), "harmony")


@pytest.mark.parametrize(
    ("inner", "go", "builtin", "found"),
    [
        ("", "", "", ("completion",)),
        ("{{ messages }}", "", "", ("completion",)),
        ("{{ tools }}<think></think>", "", "", ("tools", "thinking", "completion")),
        ("{% if enable_thinking %}", "", "", ("thinking", "completion")),
        ("{% if enable_thinking %}", PLAIN, "", ("completion",)),
        ("{{ tools }}", TOOLS + THINKS + GAP, "", ("completion", "tools", "insert", "thinking")),
        (RETURNS + "<think></think>", TOOLS + GAP, "", ("completion", "tools", "insert")),
        (RETURNS + "<think></think>", GAP, "", ("tools", "thinking", "completion", "insert")),
        ("{{ tools }}", PLAIN, "qwen3-coder", ("tools", "completion")),
        ("{{ tools }}", "{{", "", ("completion",)),
    ],
)
def test_what_a_model_can_do(inner: str, go: str, builtin: str, found: tuple[str, ...]) -> None:
    """What the chosen template does, in Ollama's order; the Go template completes gaps."""
    assert capabilities(("completion",), inner_template(inner), go, builtin) == found
