"""docs/python.md: its examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documents import DOCS
from example_models import generator, settle
from gguf_files import tiny_gguf

import mbuild


def test_the_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every block of Python, one after another, beside the files that the page names."""
    make = generator()
    make.write_chat(tmp_path / "tiny-chat")
    make.write_lora(tmp_path / "tiny-lora")
    tiny_gguf(tmp_path / "tiny.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./tiny.gguf\nSYSTEM You are Mario.\n")
    settle()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "store"))
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 7
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), names)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("mario:latest sha256:")
    assert any(line.startswith("quantize tiny-chat to Q6_K: ") for line in said)
    assert "FROM ./missing.gguf: no such file or directory" in said
    assert (tmp_path / "tiny-chat-q4.gguf").exists()


def test_the_page_names_every_function() -> None:
    """The table has a row for each function of the API, and no other."""
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `mbuild\.(\w+)\(", text, re.MULTILINE))
    functions = {name for name in mbuild.__all__ if not isinstance(getattr(mbuild, name), type)}
    assert rows == functions - {"__version__"}
