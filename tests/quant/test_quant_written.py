"""Machine code of texts that mbuild writes: made once on a machine, under the text's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbuild.core.environment import HOME_VARIABLE
from mbuild.quant.compiled import written
from mbuild.quant.compiled.chunk_text import ChunksText

pytest.importorskip("llvmlite", reason="texts are compiled by llvmlite")


def test_a_text_is_written_only_where_no_code_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the code is found under the name that it was asked for by."""
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    asked = []

    def text() -> str:
        asked.append(1)
        return ChunksText("another").write()

    for _ in range(2):
        assert callable(written.load("another-text", "another", text))
    assert len(asked) == 1
    (kept,) = (tmp_path / "kernels").iterdir()
    assert kept.name.startswith("another-text")


def test_a_name_follows_the_module_that_writes() -> None:
    """Two modules have two names, and one has always the same."""
    one, two = (written.name_of("x", f"{kind}_text.py") for kind in ("chunk", "merge"))
    assert one != two and one == written.name_of("x", "chunk_text.py")
