"""The parts of the template language by themselves: tokens, Go's Sprintf, the checks, Jinja."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from lark import Lark, Token

from mbuild.core.grammars import grammar_text
from mbuild.templates import gotemplate, jinja_worker
from mbuild.templates.check import MAX_PARENTHESES
from mbuild.templates.failure import TemplateError
from mbuild.templates.nodes import Action, Branch, Text
from mbuild.templates.printf import printf
from mbuild.templates.tokens import describe_token, line_of, trim_token, word_fault
from mbuild.templates.tree import RULES, Builder


@pytest.mark.parametrize(
    ("form", "values", "text"),
    [
        ("%s is %d", ("x", 3), "x is 3"),
        ("%5d|%-5d|%05d", (42, 42, 42), "   42|42   |00042"),
        ("%x %X %q", (255, 255, "a"), 'ff FF "a"'),
        ("%.2f", (1.5,), "1.50"),
        ("100%%", (), "100%"),
        ("%d", (), "%!d(MISSING)"),
        ("%d", ("x",), "%!d(string=x)"),
        ("", (1,), "%!(EXTRA int=1)"),
        ("%t %v", (True, False), "true false"),
    ],
)
def test_printf_is_that_of_go(form: str, values: tuple[object, ...], text: str) -> None:
    """What Go's fmt.Sprintf gives, its words about wrong verbs and values included."""
    assert printf(form, values) == text  # type: ignore[arg-type]


def test_a_token_is_described_as_go_does() -> None:
    """Keywords stand in angle brackets, others in quotes, long ones shortened."""
    assert describe_token(Token("IF", " if ")) == "<if>"
    assert describe_token(Token("IDENTIFIER", "name")) == '"name"'
    assert describe_token(Token("IDENTIFIER", "a_very_long_name")) == '"a_very_lon"...'


def test_trim_marks_take_the_space_beside_them() -> None:
    """``-}}`` before a text and ``{{- `` behind it, and nothing without them."""
    source = "{{1 -}} \n text \n {{- 2}}"
    start, end = source.index("}}") + 2, source.rindex("{{")
    text = Token("TEXT", source[start:end], start_pos=start, end_pos=end)
    assert trim_token(text, source) == "text"
    plain = source.replace("-", " ")
    assert trim_token(text, plain) == source[start:end]


def test_a_tokens_line_is_that_of_its_first_sign() -> None:
    """Empty lines before a word are not its place."""
    assert line_of(Token("IDENTIFIER", "\n\n name", line=3)) == 5


def test_numerals_are_no_letters_for_go() -> None:
    """Python takes superscript two for a letter."""
    assert word_fault(Token("IDENTIFIER", "x")) == ""
    assert "U+00B2" in word_fault(Token("IDENTIFIER", "x\u00b2"))


def test_a_template_becomes_nodes() -> None:
    """Text, actions and branches in their order; definitions are taken out."""
    template = gotemplate.parse('{{define "a"}}x{{end}}a{{.B}}{{if .C}}d{{else}}e{{end}}')
    assert [type(node) for node in template.body] == [Text, Action, Branch]
    branch = template.body[2]
    assert isinstance(branch, Branch)
    assert (branch.body, branch.otherwise) != ((), ())
    assert template.definitions.keys() == {"a"}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{{if .A}}x", "unexpected EOF"),
        ("{{.A", "unclosed action"),
        ("{{end}}", "unexpected {{end}}"),
        ("{{nothing .A}}", 'function "nothing" not defined'),
        ("{{$x}}", "undefined variable"),
        ("{{break}}", "{{break}} outside {{range}}"),
        ("{{" + "(" * (MAX_PARENTHESES + 2) + "1", "max expression depth exceeded"),
    ],
)
def test_what_go_refuses_is_refused_with_its_words(text: str, part: str) -> None:
    """The checks beyond the grammar: scopes, contexts, names, depth."""
    with pytest.raises(TemplateError) as error:
        gotemplate.parse(text)
    assert part in str(error.value)


def test_the_jinja_process_renders_and_refuses() -> None:
    """One request on standard input, one list of texts back; None is a template that refuses."""
    request = {
        "template": "{% for m in messages %}{{ m.role }}{% endfor %}{{ bos_token }}",
        "bos": "<s>",
        "eos": "</s>",
        "renderings": [
            {
                "messages": messages,
                "generate": False,
                "thinks": None,
                "date": "2026-01-01T00:00:00",
            }
            for messages in ([{"role": "user"}], 3)
        ],
    }
    done = subprocess.run(
        [sys.executable, jinja_worker.__file__],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout) == ["user<s>", None]


def test_the_jinja_sandbox_has_no_way_out() -> None:
    """Attributes of Python's own objects are refused inside a template."""
    from jinja2.exceptions import SecurityError

    template = jinja_worker.environment().from_string("{{ ''.__class__.__mro__ }}")
    with pytest.raises(SecurityError):
        template.render()


def test_every_rule_of_the_grammar_becomes_a_node() -> None:
    """The table has a row for each rule that Lark reduces, and none that no rule has."""
    lark = Lark(grammar_text("gotemplate.lark"), parser="lalr", lexer="basic")
    reduced = {str(rule.alias or rule.origin.name) for rule in lark.rules}
    assert {name for name in reduced if not name.startswith("_")} == RULES.keys()
    with pytest.raises(AttributeError):
        Builder().no_such_rule  # noqa: B018
