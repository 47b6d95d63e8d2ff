"""Tests that need a program which is not here are skipped, and say which."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import missing, need


def test_an_absent_program_skips_the_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The reason names all that is absent, and only that."""
    (tmp_path / "dot").write_text("#!/bin/sh\n")
    (tmp_path / "dot").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    need("dot")
    with pytest.raises(pytest.skip.Exception, match=r"^not installed here: tmux, jq$"):
        need("tmux", "dot", "jq")


@pytest.mark.parametrize(
    ("line", "absent"),
    [
        ("mbuild graph --format dot | dot -Tpdf -o x.pdf", ""),
        ("mbuild graph | neato -Tpdf", "neato"),
        ("mbuild history $(mbuild history --format json | jq -r .id)", "jq"),
        ("MBUILD_TOKEN=secret mbuild serve", ""),
        ("jq . x.json | dot", "jq"),
    ],
)
def test_a_line_names_the_first_absent_program(
    line: str, absent: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each part of a pipe begins with its program; mbuild itself is always there."""
    (tmp_path / "dot").write_text("#!/bin/sh\n")
    (tmp_path / "dot").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing(line) == absent
