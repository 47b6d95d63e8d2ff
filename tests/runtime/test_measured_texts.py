"""Which files are texts, and what is said of those that are not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbuild.core.errors import SourceError
from mbuild.runtime.statistics import texts
from mbuild.runtime.statistics.texts import check_text


@given(st.binary(max_size=40) | st.text(max_size=20).map(str.encode), st.integers(1, 7))
def test_a_text_is_utf8_without_zeros(data: bytes, piece: int) -> None:
    """The place of what is wrong is that in the whole file, however it is cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "_PIECE", piece)
        found = None
        try:
            check_text("a.txt", data)
        except SourceError as error:
            found = str(error)
    if data.startswith(b"GGUF"):
        assert found == "a.txt is a GGUF file, not a text"
    elif 0 in data:
        assert found == f"a.txt is not a text: its byte {data.index(0)} is zero"
    else:
        try:
            data.decode()
        except UnicodeDecodeError as error:
            assert found == f"a.txt is not UTF-8 at byte {error.start}"
        else:
            assert found is None


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GGUF\x03\0\0\0", "is a GGUF file, not a text"),
        ("Wörter".encode("utf-16"), "its byte 3 is zero"),
        ("Wörter".encode("latin1"), "is not UTF-8 at byte 1"),
        (b"\xed\xa0\x80", "is not UTF-8 at byte 0"),
        (b"cut \xe2\x82", "is not UTF-8 at byte 4"),
    ],
)
def test_what_is_no_text_is_refused_with_a_way_out(data: bytes, said: str) -> None:
    """The engine computed something of such bytes, or ended with "invalid codepoint"."""
    with pytest.raises(SourceError, match=re.escape(said)) as caught:
        check_text("a.txt", data)
    assert "--imatrix FILE" in caught.value.hint or "iconv" in caught.value.hint
