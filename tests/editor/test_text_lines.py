"""Columns of editors are units of an encoding, lines end in three ways."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbuild.editor.text_lines import UNITS, TextLines

TEXTS = st.text(st.sampled_from("aé😋\u2028\x0b\n\r")).map("".join)


@given(TEXTS, st.sampled_from(sorted(UNITS)))
def test_a_place_leads_back_to_its_character(text: str, encoding: str) -> None:
    """In every encoding, for every character but the LF of a CRLF, which no editor points at."""
    lines = TextLines(text, UNITS[encoding])
    for offset in range(len(text) + 1):
        line, column = lines.place(offset)
        if text[offset - 1 : offset + 1] != "\r\n":
            assert lines.offset(line, column) == offset


@pytest.mark.parametrize(
    ("encoding", "column"), [("utf-8", 5 + 4), ("utf-16", 5 + 2), ("utf-32", 5 + 1)]
)
def test_columns_are_units_of_the_encoding(encoding: str, column: int) -> None:
    """A character beyond the basic plane is four, two or one."""
    assert TextLines("FROM 😋x", UNITS[encoding]).place(6) == (0, column)


def test_a_place_beyond_the_text_is_its_end() -> None:
    """Of a line that is shorter, and of a text that has fewer lines."""
    lines = TextLines("ab\ncd")
    assert lines.offset(0, 99) == 2
    assert lines.offset(9, 0) == 5
    assert lines.offset(1, 1) == 4


def test_only_what_the_protocol_names_ends_a_line() -> None:
    """LF, CRLF and CR do; a vertical tab and U+2028 do not."""
    lines = TextLines("a\r\nb\rc\nd\x0be\u2028f")
    assert [lines.place(offset)[0] for offset in (0, 3, 5, 7, 9, 11)] == [0, 1, 2, 3, 3, 3]
    assert (lines.start(11), lines.end(7), lines.after(0)) == (7, 12, 3)
