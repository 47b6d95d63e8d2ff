"""Templates parse and are refused as by Go's text/template and by Ollama after it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pace import at_most

from mbuild.templates import literals
from mbuild.templates.failure import TemplateError
from mbuild.templates.fields import identifiers, references
from mbuild.templates.gotemplate import MAX_SIZE, parse
from mbuild.templates.nodes import (
    Action,
    Branch,
    BranchKind,
    Call,
    Chain,
    Field,
    Function,
    Literal,
    Pipe,
    Text,
    Variable,
)

DATA = Path(__file__).parents[1] / "data" / "templates"
OLLAMA = json.loads((DATA / "ollama_verdicts.json").read_text(encoding="utf-8"))
GO = json.loads((DATA / "go_verdicts.json").read_text(encoding="utf-8"))


def refusal(text: str) -> tuple[int, str]:
    """Line and words of the refusal; 0 and nothing where the template is accepted."""
    try:
        parse(text)
    except TemplateError as error:
        return error.line, error.reason
    return 0, ""


@pytest.mark.parametrize(("text", "reason"), OLLAMA)
def test_ollama_says_the_same(text: str, reason: str) -> None:
    """What Ollama 0.32.15 said of these templates in Modelfiles."""
    assert refusal(text)[1] == reason


@pytest.mark.parametrize(("text", "line", "reason"), GO)
def test_go_says_the_same(text: str, line: int, reason: str) -> None:
    """What Go's scanner and parser say by their rules, with the line."""
    assert refusal(text) == (line, reason)


def test_the_tree_of_an_action() -> None:
    """Pipelines, commands, operands and chains of fields end up where Go puts them."""
    (action,) = parse('{{ $x := (index .A.B 1).C | printf "%s" $.D }}').body
    assert isinstance(action, Action) and action.line == 1
    pipe = action.pipe
    assert pipe.variables == ("$x",) and not pipe.assigns
    first, second = pipe.commands
    (chain,) = first.operands
    assert isinstance(chain, Chain) and chain.fields == ("C",)
    assert isinstance(chain.operand, Pipe)
    function, field, number = chain.operand.commands[0].operands
    assert isinstance(function, Function) and function.name == "index"
    assert isinstance(field, Field) and field.names == ("A", "B")
    assert isinstance(number, Literal) and number.value == 1
    _, string, variable = second.operands
    assert isinstance(string, Literal) and string.value == "%s"
    assert isinstance(variable, Variable) and (variable.name, variable.fields) == ("$", ("D",))


def test_else_if_is_an_if_within_else() -> None:
    """A chain of conditions nests, and each keeps its own body."""
    (node,) = parse("{{if .A}}a{{else if .B}}b{{else}}c{{end}}").body
    assert isinstance(node, Branch) and node.kind is BranchKind.IF
    (inner,) = node.otherwise
    assert isinstance(inner, Branch)
    assert [n.text for n in (*node.body, *inner.body, *inner.otherwise) if isinstance(n, Text)] == [
        "a",
        "b",
        "c",
    ]


def test_range_declares_index_and_element() -> None:
    """Both variables of a range are its pipeline's."""
    (node,) = parse("{{range $i, $m := .Messages}}{{$i}}{{end}}").body
    assert isinstance(node, Branch) and node.kind is BranchKind.RANGE
    assert node.pipe.variables == ("$i", "$m")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("a \n\t{{- .X }} b", ["a", " b"]),
        ("a {{ .X -}} \r\n b", ["a ", "b"]),
        ("a {{- /* c */ -}} b", ["a", "b"]),
        (" {{- .X -}} {{- .Y -}} ", []),
        ("a {{-3}} b", ["a ", " b"]),
        ("a\v {{- .X}}", ["a\v"]),
    ],
)
def test_trim_marks_take_the_space_beside_them(text: str, left: list[str]) -> None:
    """Blanks, tabs, newlines and returns go, nothing else; a mark needs a space by it."""
    assert [node.text for node in parse(text).body if isinstance(node, Text)] == left


def test_definitions_are_collected() -> None:
    """``define`` leaves nothing behind, ``block`` a call; an empty definition never replaces."""
    template = parse('{{define "a"}}x{{end}}{{block "b" .}}y{{end}}{{define "a"}} {{end}}')
    assert {name: len(nodes) for name, nodes in template.definitions.items()} == {"a": 1, "b": 1}
    assert [type(node) for node in template.body] == [Call]


def test_references_are_the_template_s_own_fields() -> None:
    """Fields of a message are not the template's, those after ``$`` are, wherever they stand."""
    template = parse(
        "{{if .System}}{{.System}}{{end}}{{range .Messages}}{{.Content}}{{$.Tools}}{{else}}"
        "{{.Prompt}}{{end}}{{with .Suffix}}{{.Nothing}}{{end}}"
    )
    assert references(template) == {"System", "Messages", "Tools", "Prompt", "Suffix"}


def test_identifiers_are_all_names() -> None:
    """Ollama's own list: lower case, variables and inner fields too, none before a chain."""
    template = parse("{{range $m := .Messages}}{{$m.Role}}{{(.Hidden).Content}}{{end}}")
    assert identifiers(template) == {"messages", "$m", "role"}


def test_other_functions_can_be_given() -> None:
    """The set of known functions is the caller's."""
    with pytest.raises(TemplateError, match='function "json" not defined'):
        parse("{{json .}}", functions={"print"})


def test_the_nearest_function_is_suggested() -> None:
    """A mistyped name brings the right one as a hint, in Go's own spelling."""
    with pytest.raises(TemplateError) as caught:
        parse("{{ jsson .X }}")
    assert caught.value.hint == "did you mean json?"


@pytest.mark.parametrize(
    "text",
    [
        "{{if .}}" * 10_000 + "{{end}}" * 10_000,
        "{{" + "(" * 10_000 + "1" + ")" * 10_000 + "}}",
        "{{if .}}" + "{{else if .}}" * 5_000 + "{{end}}",
        "{{." + ".X" * 20_000 + "}}",
    ],
    ids=["ifs", "parentheses", "else ifs", "fields"],
)
def test_depth_is_no_danger(text: str) -> None:
    """Deep nesting neither overflows the stack nor takes more than linear time."""
    with at_most(8):
        refusal(text)


def test_go_s_limit_of_parentheses() -> None:
    """Go nests ten thousand parentheses, not one more."""
    text = "{{" + "(" * 10_001 + "1" + ")" * 10_001 + "}}"
    assert refusal(text) == (1, "max expression depth exceeded")


@pytest.mark.parametrize(
    "text", ["x" * (MAX_SIZE + 1), "{{.}}" * 100_000], ids=["characters", "tokens"]
)
def test_size_is_bounded(text: str) -> None:
    """What no template is as large as is refused, not parsed for minutes."""
    assert refusal(text)[0] == 1


def test_a_refusal_is_short() -> None:
    """A faulty number of a million digits is not quoted whole."""
    assert len(refusal("{{" + "9" * 1_000_000 + "}}")[1]) < 500


@given(st.text(alphabet="{}- \n.\"$a0x1+i`\\'/*|:=(),end", max_size=30))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    """Nothing but a TemplateError comes out of an action with any content."""
    refusal("{{" + text)
    refusal("{{" + text + "}}")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_quoting_and_unquoting_are_inverse(text: str) -> None:
    """A quoted string stands for the text it was made of."""
    assert literals.unquote(literals.quote(text)) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"\xe4\xb8\xad\101\u00e9"', "中Aé"),
        (r'"\xff"', "\udcff"),
        ("`a\r\nb\\n`", "a\nb\\n"),
    ],
)
def test_strings_stand_for_bytes(text: str, value: str) -> None:
    """Escapes name bytes; a raw string loses its carriage returns and knows no escapes."""
    assert literals.unquote(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0x_1F", 31),
        ("017", 15),
        ("0b101", 5),
        ("1_000", 1000),
        ("18446744073709551615", 2**64 - 1),
        ("-9223372036854775808", -(2**63)),
        ("1e3", 1000.0),
        ("0x1p-2", 0.25),
        (".5", 0.5),
        ("2i", 2j),
    ],
)
def test_numbers(text: str, value: complex) -> None:
    """Every base, separators, floats in decimal and hexadecimal, imaginary numbers."""
    assert literals.number(text) == value


@pytest.mark.parametrize("text", ["'\\''", "'a'", "'é'", "'\\x41'", "'\\U0001F600'"])
def test_characters_are_their_code_points(text: str) -> None:
    """A character constant is an integer."""
    expected = {"'\\''": 39, "'a'": 97, "'é'": 0xE9, "'\\x41'": 65, "'\\U0001F600'": 0x1F600}
    assert literals.character(text) == expected[text]
