"""The canonical form: parsing it gives the same file again, whatever the file or the value."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from test_modelfile import FILES

from mbuild.core.errors import ModelfileError
from mbuild.language.formatter import format
from mbuild.language.instructions import (
    ROLES,
    Comment,
    From,
    Instruction,
    License,
    Message,
    Modelfile,
    Parameter,
    Requires,
    System,
)
from mbuild.language.parser import parse
from mbuild.language.quoting import quote

# Texts in which quotes, blanks, newlines and hidden characters meet often.
VALUES = st.text(
    st.sampled_from('"""\n\r\t ab#\\\'é\u200b\xa0\u2028\x07\x1c\x85\0\ufeff\U0001f44b'), max_size=12
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


# Files most of which are accepted: lines of instructions, comments and blanks.
BARE = st.text(st.sampled_from(" \tab#'\"é\u200b\xa0\x07\0"), max_size=6).map(
    lambda text: f"x{text}"
)
WRITTEN = st.one_of(
    BARE,
    BARE.map(lambda text: f" \t\u200b {text}"),
    VALUES.map(lambda text: f'"{text}"'),
    VALUES.map(lambda text: f'"""{text}""" \t'),
)
HEADS = ("FROM", "system", " SYSTEM", "\xa0LICENSE", "PARAMETER stop", "PARAMETER ", "MESSAGE user")
LINES = st.one_of(
    st.builds(lambda head, value: f"{head} {value}", st.sampled_from(HEADS), WRITTEN),
    BARE.map(lambda text: f" #{text}"),
    st.sampled_from(["", "  ", "\t"]),
)
NEWLINES = st.sampled_from(["\n", "\r", "\r\n"])
SOUND = st.builds(
    lambda lines: "FROM tiny\n" + "".join(line + end for line, end in lines),
    st.lists(st.tuples(LINES, NEWLINES), max_size=8),
)


@given(SOUND | FILES)
def test_formatting_keeps_what_a_file_says(text: str) -> None:
    """parse(format(x)) equals x, comments included, and formatting again changes nothing."""
    try:
        found = parse(text.encode())
    except ModelfileError:
        return
    canonical = format(found)
    again = parse(canonical.encode())
    assert again == found
    assert again.comments == found.comments
    assert format(again) == canonical


@given(VALUES)
@example('"')
@example('""')
@example('"\n')
@example('a"\nb')
@example('a"""\nb')
@example('"""\n"')
@example("\u200b")
@example("a\u200b ")
@example('\u200b"')
@example('"\u200b')
@example("\x1c")
def test_quote_reads_back(value: str) -> None:
    """A quoted value reads back as itself; only a line that ends in three quotes is refused."""
    try:
        text = quote(value)
    except ModelfileError as error:
        assert re.search(r'"[^\w]*"[^\w]*"[^\w]*[\r\n]', value)
        assert error.problems[0].code == "inexpressible"
        return
    assert parse(f"FROM x\nSYSTEM {text}\nLICENSE y".encode()).instructions[1:] == (
        System(value),
        License("y"),
    )
    assert parse(f"SYSTEM {text}\rFROM x".encode()).instructions[0] == System(value)


ITEMS = st.one_of(
    st.builds(System, VALUES),
    st.builds(License, VALUES),
    st.builds(Requires, VALUES),
    st.builds(Parameter, st.from_regex("[A-Za-z0-9_]*", fullmatch=True), VALUES),
    st.builds(Message, st.sampled_from(ROLES), VALUES),
)


@given(st.lists(ITEMS, max_size=4))
def test_instructions_without_spans_are_written(items: list[Instruction]) -> None:
    """Instructions that come from elsewhere than a file read back as themselves."""
    wanted = Modelfile((From("x"), *items))
    try:
        text = format(wanted)
    except ModelfileError:
        assume(False)
    assert parse(text.encode()) == wanted


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain text", "plain text"),
        ("", '""'),
        (" x", '" x"'),
        ("x\t", '"x\t"'),
        ('"x', '""x"'),
        ('x"', 'x"'),
        ('""x', '"""""x"""'),
        ('"', '"""""""'),
        ("a\nb", '"""a\nb"""'),
        ('a"""\nb', None),
        ("a\rb", '"""a\rb"""'),
        ("a\xa0", '"a\xa0"'),
        ("# x", "# x"),
        ("\ud800", None),
    ],
)
def test_forms(value: str, text: str | None) -> None:
    """Bare where that is enough, one quote for a line, three for several; None: not possible."""
    if text is None:
        with pytest.raises(ModelfileError, match="cannot express"):
            quote(value)
    else:
        assert quote(value) == text


def test_what_only_an_api_can_say_is_refused() -> None:
    """Names, roles and comments that the language has no form for raise an error."""
    for item in (Parameter("a b", "c"), Parameter("é", "c"), Message("tool", "x")):
        with pytest.raises(ModelfileError, match="cannot express"):
            format(Modelfile((From("x"), item)))
    with pytest.raises(ModelfileError, match="cannot express"):
        format(Modelfile((From("x"),), (Comment("a\nb"),)))


def test_comments_and_empty_lines_stay_where_they_were() -> None:
    """Comments keep their text and place; runs of empty lines shrink to one."""
    text = '#a \n\n\n  from  x\n#b\nsystem """y\nz"""\n\r\n# c\nlicense \'\'\n\n'
    assert format(parse(text.encode())) == (
        '#a\n\nFROM x\n#b\nSYSTEM """y\nz"""\n\n# c\nLICENSE \'\'\n'
    )
