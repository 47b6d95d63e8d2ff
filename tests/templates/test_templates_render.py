"""Templates execute as in Go, on the values that Ollama gives them."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from pace import at_most

from mbuild.templates.conversation import ChatMessage, ToolCall, Values, from_json
from mbuild.templates.execute import execute
from mbuild.templates.failure import RenderError
from mbuild.templates.functions import functions
from mbuild.templates.gotemplate import parse
from mbuild.templates.govalues import float_text, json_string, to_json
from mbuild.templates.render import render

DATA: dict[str, Any] = {
    "S": "text",
    "E": "",
    "N": 3,
    "F": 2.5,
    "T": True,
    "L": ["a", "b", "c"],
    "M": {"b": 2, "a": 1, "ä": 3},
    "U": "é<&",
    "Nil": None,
}


def run(text: str) -> str:
    """What the template writes on ``DATA``."""
    template = parse(text)
    return execute(template.body, DATA, functions(), template.definitions)


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("{{ .S }}|{{ .N }}|{{ .F }}|{{ .T }}", "text|3|2.5|true"),
        ("{{ .Missing }}{{ .Nil }}", "<no value><no value>"),
        ("{{ .L }} {{ .M }}", "[a b c] map[a:1 b:2 ä:3]"),
        ("{{ if .E }}x{{ else if .N }}y{{ else }}z{{ end }}", "y"),
        ("{{ if and .S .N }}a{{ end }}{{ and .E .Bad.Worse }}{{ or .E .S }}", "atext"),
        ("{{ with .E }}x{{ else with .S }}{{ . }}{{ else }}y{{ end }}", "text"),
        ("{{ range .L }}{{ . }}{{ $.N }}{{ end }}", "a3b3c3"),
        ("{{ range $i, $v := .L }}{{ $i }}{{ $v }}{{ end }}", "0a1b2c"),
        ("{{ range $k, $v := .M }}{{ $k }}{{ $v }}{{ end }}", "a1b2ä3"),
        ("{{ range $i := .N }}{{ $i }}{{ end }}{{ range 0 }}{{ else }}none{{ end }}", "012none"),
        ("{{ range .Missing }}x{{ else }}none{{ end }}", "none"),
        (
            "{{ range .L }}{{ if eq . `b` }}{{ continue }}{{ end }}{{ . }}"
            "{{ if eq . `c` }}{{ break }}{{ end }}-{{ end }}",
            "a-c",
        ),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $y := 3 }}{{ end }}{{ $x }}", "2"),
        ("{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}", "21"),
        ("{{ $x := 0 }}{{ range $x = .L }}{{ $x }}{{ end }}{{ $x }}", "abcc"),
        ('{{ define "t" }}<{{ . }}{{ $ }}>{{ end }}{{ template "t" .N }}', "<33>"),
        ('{{ block "b" .S }}[{{ . }}]{{ end }}', "[text]"),
        ("{{ len .L }}{{ len .S }}{{ len .U }}{{ len .M }}", "3443"),
        ("{{ index .L 1 }}{{ index .M `a` }}{{ index .S 0 }}{{ index .M `z` }}", "b1116<no value>"),
        ("{{ slice .S 1 3 }}{{ slice .L 1 }}{{ slice .S }}", "ex[b c]text"),
        (
            "{{ eq .N 3 4 }}{{ ne .S `x` }}{{ lt 1 2 }}{{ ge `b` `a` }}{{ le 2 2 }}{{ gt 1 2 }}",
            "true" * 5 + "false",
        ),
        ("{{ eq .Missing 1 }}{{ eq .Nil nil }}{{ not .S }}", "falsetruefalse"),
        ("{{ .S | printf `%s-%d-%v-%q` `a` 1 true }}", 'a-1-true-"text"'),
        (
            "{{ printf `%5d|%-5s|%05.1f|%x|%c|%U|%%|%t` 42 `ab` .F 255 65 65 true }}",
            "   42|ab   |002.5|ff|A|U+0041|%|true",
        ),
        ("{{ printf `%d %s` `a` }}", "%!d(string=a) %!s(MISSING)"),
        (
            "{{ printf `x` 1 `b` }}{{ printf `%z` 1 }}{{ printf `%` }}",
            "x%!(EXTRA int=1, string=b)%!z(int=1)%!(NOVERB)",
        ),
        (
            "{{ printf `%s %v %d` .L .M .L }}",
            "[a b c] map[a:1 b:2 ä:3] [%!d(string=a) %!d(string=b) %!d(string=c)]",
        ),
        ("{{ print 1 2 `a` `b` 3 }}|{{ println 1 `a` }}", "1 2ab3|1 a\n"),
        (
            "{{ html .U }}{{ urlquery `a b&ü/` }}{{ js `'<\n` }}",
            "é&lt;&amp;a+b%26%C3%BC%2F\\'\\u003C\\u000A",
        ),
        (
            "{{ json .M }}{{ json .U }}{{ json .F }}{{ json .Nil }}",
            '{"a":1,"b":2,"ä":3}"é\\u003c\\u0026"2.5null',
        ),
        ("{{ (index .L 0) }}{{ (print .S).Foo }}", None),
        ("{{ .S.Foo }}", None),
        ("{{ .Missing.Foo }}", None),
        ("{{ .S .N }}", None),
        ("{{ nil }}", None),
        ("{{ 1 2 }}", None),
        ("{{ lt .N .S }}", None),
        ("{{ lt 1 1.5 }}", None),
        ("{{ eq .L .L }}", None),
        ("{{ index .L 3 }}", None),
        ("{{ index .L 1.0 }}", None),
        ("{{ slice .S 3 1 }}", None),
        ("{{ range .S }}{{ end }}", None),
        ("{{ range $i, $j := .N }}{{ end }}", None),
        ("{{ $x = 1 }}", None),
        ('{{ template "t" . }}', None),
        ("{{ len 3 }}{{ len }}", None),
        ("{{ not }}", None),
        ("{{ printf 1 }}", None),
        ("{{ call .S }}", None),
        ("{{ 18446744073709551615 }}", None),
    ],
)
def test_execution(text: str, output: str | None) -> None:
    """What each construct writes; None where Go stops with an error."""
    if output is None:
        with pytest.raises(RenderError):
            run(text)
    else:
        assert run(text) == output


@pytest.mark.parametrize(
    "text",
    [
        "{{ range 1000000000 }}x{{ end }}",
        "{{ range 1000 }}{{ range 1000 }}{{ end }}{{ end }}",
        '{{ define "t" }}{{ template "t" . }}{{ end }}{{ template "t" . }}',
        '{{ $x := "aaaaaaaaaa" }}{{ range 100 }}{{ $x = print $x $x }}{{ end }}{{ $x }}',
        "{{ printf `%999999999d` 1 }}",
        "{{ " + "(" * 500 + "1" + ")" * 500 + " }}",
    ],
    ids=["items", "nested ranges", "recursion", "doubling", "width", "parentheses"],
)
def test_execution_is_bounded(text: str) -> None:
    """Whatever a template does, it ends, soon and with an error."""
    with at_most(5), pytest.raises(RenderError):
        run(text)


def test_a_long_chain_of_conditions_is_not_deep() -> None:
    """An else-if after another counts as no nesting."""
    chain = "".join(f"{{{{ else if eq .N {n} }}}}{n}" for n in range(500, 0, -1))
    assert run("{{ if false }}" + chain + "{{ end }}") == "3"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"), (0.1, "0.1"), (1e20, "100000000000000000000"), (1e21, "1e+21"),
        (1e-4, "0.0001"), (1e-5, "1e-05"), (-0.0, "-0"), (123456.789, "123456.789"),
        (float("inf"), "+Inf"), (1.5e300, "1.5e+300"),
    ],
)  # fmt: skip
def test_floats_print_as_in_go(value: float, text: str) -> None:
    """The shortest digits; an exponent of two digits from 21 up and below -4."""
    assert float_text(value) == text


def test_json_is_go_s() -> None:
    """HTML-safe strings, sorted keys, floats with short exponents."""
    assert (
        json_string('a"\\\n\t\b\x01</&\u2028é')
        == '"a\\"\\\\\\n\\t\\b\\u0001\\u003c/\\u0026\\u2028é"'
    )
    assert to_json(from_json({"b": [1, 2.5, 1e-7, 1e21], "a": None})) == (
        '{"a":null,"b":[1,2.5,1e-7,1e+21]}'
    )


TURNS = (
    ChatMessage("system", "sys"),
    ChatMessage("user", "one"),
    ChatMessage("assistant", "two"),
    ChatMessage("user", "three"),
)


def test_messages_are_handed_over_whole() -> None:
    """A template with .Messages sees every turn, and the system texts as one besides."""
    template = parse("{{ .System }}:{{ range .Messages }}<{{ .Role }} {{ .Content }}>{{ end }}")
    expected = "sys:<system sys><user one><assistant two><user three>"
    assert render(template, Values(TURNS)) == expected


def test_neighbours_of_one_role_are_joined() -> None:
    """Two messages of a role in a row become one, tool answers do not."""
    template = parse("{{ .System }}:{{ range .Messages }}<{{ .Role }} {{ .Content }}>{{ end }}")
    messages = (
        ChatMessage("system", "a"),
        ChatMessage("system", "b"),
        ChatMessage("user", "c"),
        ChatMessage("user", "d"),
        ChatMessage("tool", "e"), ChatMessage("tool", "f"), ChatMessage("system", "g"),
    )  # fmt: skip
    assert render(template, Values(messages)) == (
        "a\n\nb\n\ng:<system a\n\nb><user c\n\nd><tool e><tool f><system g>"
    )


def test_turns_without_messages() -> None:
    """Executed once a turn; the last one ends where the response would stand."""
    template = parse(
        "{{ if .System }}S {{ .System }} {{ end }}U {{ .Prompt }} A {{ .Response }} E "
    )
    assert render(template, Values(TURNS)) == "S sys U one A two E U three A "


def test_a_response_to_continue() -> None:
    """An assistant's message at the end is written, and what follows it is not."""
    template = parse("U {{ .Prompt }} A {{ .Response }} E{{ if true }} x {{ end }}")
    messages = (ChatMessage("user", "u"), ChatMessage("assistant", "so"))
    assert render(template, Values(messages)) == "U u A so"


def test_response_is_added_where_none_is_mentioned() -> None:
    """A template of a prompt alone has the response at its end."""
    assert render(parse("{{ .Prompt }} "), Values(TURNS)) == "one twothree "


def test_fill_in_the_middle() -> None:
    """A prompt with a suffix goes to the template alone."""
    template = parse("{{ if .Suffix }}<P>{{ .Prompt }}<S>{{ .Suffix }}<M>{{ end }}{{ .Response }}")
    assert render(template, Values(prompt="a", suffix="b")) == "<P>a<S>b<M>"


def test_the_last_turn_knows_only_go_s_functions() -> None:
    """Ollama executes the cut template without its own functions and definitions."""
    with pytest.raises(RenderError, match="json"):
        render(parse("{{ json .Prompt }}{{ .Response }}"), Values(TURNS))
    assert '"three"' in render(
        parse("{{ range .Messages }}{{ json .Content }}{{ end }}"), Values(TURNS)
    )


TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "description": "does <it>",
        "parameters": {
            "type": "object",
            "required": ["a"],
            "properties": {
                "a": {"type": "string", "description": "d", "enum": ["x", "y"]},
                "b": {"type": ["integer", "null"]},
                "c": {"anyOf": [{"type": "array"}, {"type": "object"}]},
            },
        },
    },
}


def test_tools_print_as_json() -> None:
    """Keys in the order of Ollama's types, properties sorted, one type as a string."""
    text = (
        '[{"type":"function","function":{"name":"f","description":"does \\u003cit\\u003e",'
        '"parameters":{"type":"object","required":["a"],"properties":{'
        '"a":{"type":"string","description":"d","enum":["x","y"]},'
        '"b":{"type":["integer","null"]},'
        '"c":{"anyOf":[{"type":"array"},{"type":"object"}]}}}}}]'
    )
    template = parse("{{ .Messages }}|{{ .Tools }}|{{ json .Tools }}")
    assert render(template, Values(tools=(TOOL,))) == f"[]|{text}|{text}"
    assert render(parse("{{ len .Messages }}{{ .Tools }}"), Values()) == "0null"


def test_tools_can_be_ranged_over() -> None:
    """Functions, parameters and their types are fields."""
    template = parse(
        "{{ range .Tools }}{{ .Function.Name }}("
        "{{ range $n, $p := .Function.Parameters.Properties }}{{ $n }}:{{ $p.Type }}"
        ":{{ toTypeScriptType $p }};{{ end }}){{ end }}{{ len .Messages }}"
    )
    assert render(template, Values(tools=(TOOL,))) == (
        "f(a:string:string;b:[integer null]:number | null;c::any[] | Record<string, any>;)0"
    )


def test_tool_calls() -> None:
    """Arguments print as JSON, and are a map to range over."""
    call = ToolCall("f", {"b": 1, "a": "x"})
    template = parse(
        "{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Name }} {{ .Function.Arguments }}"
        " {{ range $k, $v := .Function.Arguments }}{{ $k }}={{ $v }} {{ end }}{{ end }}{{ end }}"
    )
    values = Values((ChatMessage("assistant", tool_calls=(call,)),))
    assert render(template, values) == 'f {"a":"x","b":1} a=x b=1 '


def test_a_whole_message_prints() -> None:
    """A whole message, and its images, which are none here, print without an end to it."""
    template = parse("{{ range .Messages }}{{ .Images }}{{ end }}|{{ .Messages }}")
    shown = "[]|[{user one  [] []  }]"
    assert render(template, Values((ChatMessage("user", "one"),))) == shown


def test_dates_are_given() -> None:
    """The present day is the caller's to choose."""
    template = parse("{{ currentDate }} {{ yesterdayDate `x` }}{{ range .Messages }}{{ end }}")
    day = datetime.date(2024, 3, 1)
    assert render(template, Values(), today=day) == "2024-03-01 2024-02-29"


def test_unknown_fields_of_a_message_are_errors() -> None:
    """A message is a struct: what it does not have cannot be asked for."""
    with pytest.raises(RenderError, match="can't evaluate field Nothing in type"):
        render(parse("{{ range .Messages }}{{ .Nothing }}{{ end }}"), Values(TURNS))
