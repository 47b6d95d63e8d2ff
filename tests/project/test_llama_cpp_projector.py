"""Both halves of a multimodal checkpoint in llama.cpp."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Run
from inprocess import in_process
from llama_runs import loads_with
from multimodal import convert, opened, spec
from multimodal_models import layers, write_vlm

from mbuild.gguf.writer import write


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


def test_llama_cpp_loads_a_model_with_its_projector(mbuild: Run, tmp_path: Path) -> None:
    """The two layers of one build; the projector of another width is refused there."""
    write_vlm(tmp_path / "vlm")
    (tmp_path / "Modelfile").write_text("FROM ./vlm\n")
    assert mbuild("-t", "m").returncode == 0
    made = layers(tmp_path)
    assert loads_with(made["model"], made["projector"])
    other = tmp_path / "other.gguf"
    with other.open("wb") as file:
        write(convert(opened(tmp_path / "other", spec("smolvlm")), "f16"), file.write)
    assert not loads_with(made["model"], other)
