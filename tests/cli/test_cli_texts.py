"""What commands print: tables and lines that fit, counts, sizes and ages that options take."""

from __future__ import annotations

import click
import pytest
from rich.cells import cell_len

from mbuild.cli.meter import AgeType, SizeType, counted, table
from mbuild.cli.screen import Column, fitted, narrowed, wrapped

WORDS = "one two three four five six seven"


@pytest.mark.parametrize("width", [8, 12, 20, 40])
def test_a_wrapped_line_loses_nothing_and_fits(width: int) -> None:
    """Every word is there in its order, and no line has more cells than the terminal."""
    lines = wrapped(WORDS, width, "  ")
    assert " ".join(" ".join(lines).split()) == WORDS
    assert all(cell_len(line) <= width for line in lines)
    assert all(line.startswith("  ") for line in lines)


def test_without_a_width_a_line_stays_one() -> None:
    """Where there is no terminal nothing is cut, and the first line has its own beginning."""
    assert wrapped(WORDS, 0, "    ", "- ") == [f"- {WORDS}"]


def test_a_word_that_fits_on_no_line_is_cut() -> None:
    """Wide characters count as two cells, and a cut word can be put together again."""
    word = "\N{CJK UNIFIED IDEOGRAPH-6A21}" * 12
    lines = wrapped(word, 10)
    assert "".join(lines) == word
    assert max(cell_len(line) for line in lines) == 10


def test_a_table_gives_up_columns_before_names() -> None:
    """The column that may go first is left out; the name is cut in its middle only then."""
    columns = [Column("NAME", least=8), Column("ID", 2), Column("SIZE", 1, right=True)]
    rows = [("a-long-name-of-a-model", "abcdef", "1 MB"), ("b", "012345", "20 MB")]
    wide = fitted(columns, rows, 0)
    assert wide[0].split() == ["NAME", "ID", "SIZE"]
    assert wide[2].endswith("   20 MB")
    narrow = fitted(columns, rows, 20)
    assert narrow[0].split() == ["NAME", "SIZE"]
    assert all(cell_len(line) <= 20 for line in narrow)


@pytest.mark.parametrize(("number", "text"), [(0, "0 files"), (1, "1 file"), (2, "2 files")])
def test_things_are_counted_in_english(number: int, text: str) -> None:
    """One is singular, none and many are plural."""
    assert counted(number, "file") == text


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    """Numbers stand flush right, texts flush left, and no line ends with spaces."""
    lines = table([("a", "1", "x"), ("long", "1000", "")], frozenset({1}))
    assert lines[0].split() == ["a", "1", "x"]
    assert lines[0].index("1") == lines[1].index("1000") + 3
    assert [line for line in lines if line != line.rstrip()] == []


def test_options_take_sizes_and_ages_as_people_write_them() -> None:
    """``10GB`` is bytes and ``2d`` seconds; anything else is wrong usage."""
    assert SizeType().convert("10GB", None, None) == 10 * 10**9
    assert AgeType().convert("2d", None, None) == 2 * 86400
    for kind in (SizeType(), AgeType()):
        with pytest.raises(click.UsageError):
            kind.convert("soon", None, None)


def test_a_table_fits_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its columns move together, then the first one is cut; elsewhere it is as wide as it is."""
    rows = [("NAME", "OWN", "TOTAL"), ("localhost:5099/me/mario:latest", "0 B", "1.5 MB")]
    assert table(rows, frozenset({1, 2}))[1] == "localhost:5099/me/mario:latest    0 B    1.5 MB"
    for columns, longest in ((45, 45), (40, 40), (20, 29)):
        monkeypatch.setattr("mbuild.cli.meter.columns_of", lambda columns=columns: columns)
        lines = table(rows, frozenset({1, 2}))
        assert max(map(len, lines)) <= longest and lines[1].endswith("  1.5 MB")


def test_lines_that_are_too_long_go_on_under_their_beginning() -> None:
    """Lines of a Modelfile stay as they are, so that the mark below fits; 0 is no limit."""
    text = "  hint: name it now\n3 | SYSTEM a long text\n  | ^^^^^^\n"
    assert narrowed(text, 0) == narrowed(text, 80) == text
    assert narrowed(text, 12) == ("  hint: name\n    it now\n3 | SYSTEM a long text\n  | ^^^^^^\n")
