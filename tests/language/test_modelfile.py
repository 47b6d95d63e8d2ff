"""The Modelfile language: what is read from which bytes, and where it stood."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from pathlib import Path

import modelfile_model
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mbuild.core.errors import ModelfileError
from mbuild.language.formatter import format
from mbuild.language.instructions import (
    ROLES,
    TYPES,
    Adapter,
    Comment,
    Draft,
    From,
    Instruction,
    License,
    Message,
    Parameter,
    Parser,
    Renderer,
    Requires,
    System,
    Template,
)
from mbuild.language.parser import decode, parse
from mbuild.language.printable import is_print, ranges, shape, visible
from mbuild.language.span import Span

CORPUS = Path(__file__).parents[2] / "grammar" / "corpus"


def system(text: str) -> str:
    """The value that SYSTEM gets from some text behind it."""
    found = parse(f"FROM x\nSYSTEM {text}".encode()).last(System)
    assert found is not None
    return found.value


def items(text: str) -> tuple[Instruction, ...]:
    return parse(text.encode()).instructions


def test_every_instruction_is_read() -> None:
    """Each word makes its own type, with its value."""
    text = (
        "FROM a\nADAPTER b\nDRAFT c\nTEMPLATE d\nSYSTEM e\nLICENSE f\nPARAMETER g h\n"
        "MESSAGE user i\nRENDERER j\nPARSER k\nREQUIRES l\n"
    )
    kinds = (From("a"), Adapter("b"), Draft("c"), Template("d"), System("e"), License("f"))
    rest = (Parameter("g", "h"), Message("user", "i"), Renderer("j"), Parser("k"), Requires("l"))
    assert items(text) == (*kinds, *rest)
    assert {type(item) for item in items(text)} == set(TYPES.values())


@pytest.mark.parametrize("newline", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_encodings_and_newlines_read_alike(newline: str, encoding: str) -> None:
    """UTF-8 with or without a mark, UTF-16 with one, and all three newlines give one result."""
    text = f"FROM x{newline}# c{newline}{newline}SYSTEM héllo \U0001f44b{newline}LICENSE y"
    mark = "\ufeff" if encoding in {"utf-16-le", "utf-16-be"} else ""
    found = parse((mark + text).encode(encoding))
    assert found.instructions == (From("x"), System("héllo \U0001f44b"), License("y"))
    assert [item.span.line for item in found.instructions if item.span] == [1, 4, 5]


@pytest.mark.parametrize("word", ["from", "FROM", "From", "fRoM"])
def test_words_take_either_case(word: str) -> None:
    """Instructions are matched in any letter case."""
    assert items(f"{word} x") == (From("x"),)


@pytest.mark.parametrize("text", ["ſystem x", "LICENſE x", "lİcense x", "ＦＲＯＭ x"])
def test_words_are_ascii(text: str) -> None:
    """Letters that only fold to ASCII ones do not make an instruction."""
    with pytest.raises(ModelfileError, match="unknown instruction"):
        parse(f"FROM x\n{text}".encode())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain", "plain"),
        (" \t plain \t ", "plain"),
        ("", ""),
        ("\t ", ""),
        ('"q"', "q"),
        ('"q"  \t', "q"),
        ('""', ""),
        ('""""""', ""),
        ('"""t"""', "t"),
        ('" q "', " q "),
        ('"a\nb"', "a\nb"),
        ('"a"\r\nb"', None),
        ('"a"b\nc"', 'a"b\nc'),
        ('"\n"', "\n"),
        ('"\r\n"\r\n', "\r\n"),
        ('"""a"\n"" b\n"""', 'a"\n"" b\n'),
        ('""""a""""', '"a"'),
        ('"""""""', '"'),
        ('""a""', '"a"'),
        ('a "b"', 'a "b"'),
        ("'a'", "'a'"),
        ("a # b", "a # b"),
        ('\\"', '\\"'),
        ('"a\\"', "a\\"),
        ('"', None),
        ('"""', None),
        ('"""""', None),
        ('"a" b', None),
        ('"""a""" b', None),
        ('"""a"', None),
    ],
)
def test_value_forms(text: str, value: str | None) -> None:
    """Bare and quoted values; a quote closes only as the last thing on its line. None: refused."""
    if value is None:
        with pytest.raises(ModelfileError):
            system(text)
    else:
        assert system(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a\u200db", "a\u200db"),
        ("\xa0a\xa0", "a"),
        ("a\u200b", "a\u200b"),
        ("a \u200b", "a"),
        ("\u200b \u200da", "\u200da"),
        ("\u200b", ""),
        ("\u3000", ""),
        ('\u200b"a\u200d"\u200b \u200b', "a\u200d"),
        ('"\u200b""a"\u200b""', "a"),
        ('"\u200b"', "\u200b"),
        ('"\xa0"', "\xa0"),
        ("a\x07b", "a\x07b"),
        ("a\x00b", "a\x00b"),
        ("a\u2028b", "a\u2028b"),
        ("a\x0bb\x0c", "a\x0bb"),
    ],
)
def test_hidden_characters_stay_but_decide_nothing(text: str, value: str) -> None:
    """Joiners, no-break spaces and controls are kept in values; structure is as without them."""
    assert system(text) == value


def test_hidden_character_before_a_word() -> None:
    """One hidden character may stand before a word, two or one inside it may not."""
    assert items("\u200bFROM x\n \xa0SYSTEM y") == (From("x"), System("y"))
    for text in ("\u200b\u200bFROM x", "FR\u200bOM x", "\u200b FROM x", "FROM\u200b x"):
        with pytest.raises(ModelfileError):
            parse(text.encode())


def test_plain_drops_what_ollama_drops() -> None:
    """A name is meant without hidden characters; the value keeps them."""
    (item,) = items("FROM ti\u200bny\u00ad")
    assert isinstance(item, From)
    assert (item.value, item.plain) == ("ti\u200bny\u00ad", "tiny")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\xffb", "a\ufffdb"),
        (b"\xe2\x82", "\ufffd\ufffd"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),
        (b"\xf0\x9f\x91 x", "\ufffd\ufffd\ufffd x"),
        (b"\xef\xbb\xbfx", "x"),
        (b"\xff\xfea\0", "a"),
        (b"\xfe\xff\0a", "a"),
        (b"\xff\xfea\0b", "a\ufffd"),
        (b"\xff\xfe\x3d\xd8a\0", "\ufffda"),
        (b"\xff\xfe\x3d\xd8\x4b\xdc", "\U0001f44b"),
        (b"", ""),
    ],
)
def test_decoding(data: bytes, text: str) -> None:
    """Each invalid byte, half pair or half unit becomes one U+FFFD; marks go."""
    assert decode(data) == text


def test_spans_point_into_the_text() -> None:
    """Lines and columns count from 1 and characters, offsets from 0; comments have spans too."""
    text = '# é\r\n\r\n  FROM  tiny\nSYSTEM "é\nb"  \n'
    found = parse(text.encode())
    (comment,) = found.comments
    assert comment == Comment(" é") and comment.span == Span(1, 1, 0, 3, 1, 1)
    spans = [item.span for item in found.instructions]
    assert spans == [Span(3, 3, 9, 19, 15, 3), Span(4, 1, 20, 32, 27, 5)]
    assert text[9:19] == "FROM  tiny" and text[20:32] == 'SYSTEM "é\nb"'


def test_the_last_counts_and_others_add_up() -> None:
    """``last`` gives the instruction that wins, ``every`` all of a kind in order."""
    found = parse(b"FROM a\nSYSTEM x\nSYSTEM y\nLICENSE p\nLICENSE q\nMESSAGE user hi")
    assert found.last(System) == System("y")
    assert found.last(Template) is None
    assert found.every(License) == (License("p"), License("q"))
    assert found.messages == (Message("user", "hi"),)


# Pieces that meet each other in every way in the generated files below.
PIECES = (
    *("FROM ", "from ", "SYSTEM ", "LICENSE\t", "PARAMETER ", "stop ", "MESSAGE ", "user "),
    *("\n", "\n", "\n", "\r", "\r\n", '"', '"', '"', '""', '"""', '"""', " ", "\t", "#", "a", "é"),
    *("\u200b", "\u200d", "\xa0", "\u2028", "\x07", "\x0b", "\x85", "\x1c", "\0", "\ufeff"),
    *("\u212a", "\u017f", "\ufffd", "\U0001f44b", '"\n', '"""\n', 'FROM x\n"', "\nFROM y\n"),
)
FILES = st.builds(
    lambda start, pieces, end: start + "".join(pieces) + end,
    st.sampled_from(["", "FROM x\n", 'from "x"\r', " \u200bFROM tiny\n"]),
    st.lists(st.sampled_from(PIECES), max_size=14),
    st.sampled_from(["", "\nFROM x", '"\nFROM y', '"""\nFROM y\n']),
).filter(lambda text: not text.startswith("\ufeff"))


@given(FILES)
@example('FROM x\nSYSTEM "\u200b"\u200b"a"""')
@example('FROM x\nSYSTEM """a""""\n')
def test_the_grammar_agrees_with_the_rule(text: str) -> None:
    """Grammar and character-by-character rule accept the same files and read the same values."""
    try:
        expected = modelfile_model.read(text)
    except modelfile_model.Refused:
        with pytest.raises(ModelfileError):
            parse(text.encode())
        return
    assert [_told(item) for item in items(text)] == expected


def _told(item: Instruction) -> tuple[str, str, str]:
    match item:
        case Parameter(name=name, value=value) | Message(role=name, content=value):
            return item.word.lower(), name, visible(value)
        case _:
            return item.word.lower(), "", visible(item.value)


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """No input makes the parser fail in any other way than with a ModelfileError."""
    try:
        assert parse(data).last(From) is not None
    except ModelfileError as error:
        assert error.problems and str(error)
        assert all(problem.render() for problem in error.problems)


@pytest.mark.skipif(sys.platform == "emscripten", reason="Pyodide starts no processes")
def test_reading_a_cached_form_imports_nothing_heavy() -> None:
    """A recipe and the parameters load neither lark nor numpy nor difflib."""
    code = (
        "import sys; from mbuild.language import parameters, recipe;"
        "recipe.Recipe.from_json(recipe.Recipe(()).to_json());"
        "print([m for m in ('lark', 'numpy', 'difflib', 'decimal') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_non_printable_characters_are_those_of_unicode_15() -> None:
    """The table follows the general categories, as far as this Python's Unicode knows them."""
    hidden = {code for start, end in ranges() for code in range(start, end + 1)}
    newer = tuple(map(int, unicodedata.unidata_version.split("."))) > (15, 0, 0)
    older = tuple(map(int, unicodedata.unidata_version.split("."))) < (15, 0, 0)
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        drops = category[0] in "CZ" and code != 0x20
        if drops != (code in hidden):
            # Only what one of the two versions does not assign may differ.
            assert (newer and not drops) or (older and category == "Cn"), hex(code)


def test_shape_keeps_length_and_structure() -> None:
    """Only hidden characters are replaced; tabs and newlines stay."""
    text = "a\t\r\n\u200b\xa0\x00é\U000e0001\U0001f44b"
    assert shape(text) == "a\t\r\n\0\0\0é\0\U0001f44b"
    assert visible(text) == "a\t\r\né\U0001f44b"
    assert is_print(" ") and not is_print("\u3000") and not is_print("\U0010ffff")


@pytest.mark.parametrize(
    "path", sorted((CORPUS / "valid").glob("*.Modelfile")), ids=lambda p: p.stem
)
def test_valid_corpus(path: Path) -> None:
    """Each valid file of the corpus parses and has the canonical form that lies beside it."""
    found = parse(path.read_bytes())
    assert format(found) == path.with_suffix(".fmt").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", sorted((CORPUS / "invalid").glob("*.Modelfile")), ids=lambda p: p.stem
)
def test_invalid_corpus(path: Path) -> None:
    """Each invalid file has exactly the problems that its first comments list.

    A comment reads ``line:column code word``; the word is in message or suggestion.
    """
    text = path.read_text(encoding="utf-8")
    expected = [line[2:].split() for line in text.splitlines() if line.startswith("# ")]
    with pytest.raises(ModelfileError) as caught:
        parse(path.read_bytes(), path.name)
    problems = caught.value.problems
    told = [
        [f"{p.span.line}:{p.span.column}" if p.span else "-", p.code, p.message + p.suggestion]
        for p in problems
    ]
    assert [row[:2] for row in told] == [row[:2] for row in expected]
    assert all(row[2] in full[2] for row, full in zip(expected, told, strict=True)), told


def test_roles_of_the_grammar_are_those_of_the_table() -> None:
    """Every role parses, and the table names no other."""
    for role in ROLES:
        assert Message(role, "x") in items(f"FROM x\nMESSAGE {role} x")
