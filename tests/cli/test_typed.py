"""What people type: texts of several lines, and lines that come back in the next talk."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mbuild.cli.typed import NO_HISTORY_VARIABLE, kept_lines, typed_text

readline = pytest.importorskip("readline")


@pytest.fixture(autouse=True)
def _no_lines() -> Iterator[None]:
    readline.clear_history()
    yield
    readline.clear_history()


def _lines() -> list[str]:
    return [readline.get_history_item(n + 1) for n in range(readline.get_current_history_length())]


def test_lines_come_back_in_the_next_talk(tmp_path: Path) -> None:
    """In their order, from a file that nobody else can read."""
    path = tmp_path / "typed"
    for text in ("one", "two"):
        with kept_lines(path):
            readline.add_history(text)
        readline.clear_history()
    with kept_lines(path):
        assert _lines() == ["one", "two"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_kept_for_who_wants_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OLLAMA_NOHISTORY, as in ollama run; a folder that is gone is no error."""
    monkeypatch.setenv(NO_HISTORY_VARIABLE, "1")
    with kept_lines(tmp_path / "typed"):
        readline.add_history("secret")
    assert not (tmp_path / "typed").exists()
    monkeypatch.delenv(NO_HISTORY_VARIABLE)
    with kept_lines(tmp_path / "gone" / "typed"):
        readline.add_history("x")


def test_a_text_has_one_line_or_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three quotes begin and end one of several; the end of the input is None."""
    typed = iter(["a", '"""b', 'c"""', '"""d"""'])

    def answer(prompt: str) -> str:
        try:
            return next(typed)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("builtins.input", answer)
    assert [typed_text() for _ in range(4)] == ["a", "b\nc", "d", None]
