"""What no program runs: a warning, or an error that says what the file is."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import Run
from example_models import write_imatrix
from gguf_files import gguf_bytes, tiny_gguf, tiny_model
from inprocess import in_process
from quant_data import imatrix_bytes

from mbuild.convert import families
from mbuild.gguf.architectures import ARCHITECTURES


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process, beside a model and importance matrices of both forms."""
    tiny_gguf(tmp_path / "m.gguf")
    ones = np.ones((1, 64), np.float32), np.ones(1, np.float32)
    (tmp_path / "new.gguf").write_bytes(imatrix_bytes({"blk.0.attn_q.weight": ones}))
    write_imatrix(tmp_path / "old.dat", 1.0)
    return in_process(tmp_path, monkeypatch)


@pytest.mark.parametrize("file", ["new.gguf", "old.dat"])
@pytest.mark.parametrize("line", ["FROM ./{}", "FROM ./m.gguf\nADAPTER ./{}"])
def test_an_importance_matrix_is_no_model(file: str, line: str, mbuild: Run) -> None:
    """Whichever instruction names it, the hint says how it is used."""
    done = mbuild("-f", "-", "-t", "x", input=line.format(file))
    assert done.returncode == 1
    assert f"{file}: an importance matrix of llama-imatrix, not a model" in done.stderr
    assert "--imatrix FILE" in done.stderr


def test_a_model_is_no_importance_matrix(mbuild: Run) -> None:
    """The other way round."""
    options = ("-q", "q4_0", "--imatrix", "m.gguf")
    done = mbuild("-f", "-", "-t", "x", *options, input="FROM ./m.gguf\n")
    assert done.returncode == 1
    assert "m.gguf: a GGUF file, but not an importance matrix" in done.stderr
    assert "the file that llama-imatrix wrote" in done.stderr


def test_an_importance_matrix_may_lie_beside_the_model(tmp_path: Path, mbuild: Run) -> None:
    """A folder with both, as repositories have them, is the model's."""
    (tmp_path / "both").mkdir()
    tiny_gguf(tmp_path / "both/m.gguf")
    (tmp_path / "new.gguf").rename(tmp_path / "both/m.imatrix.gguf")
    done = mbuild("-f", "-", "-t", "x", input="FROM ./both\n")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tensors": ()}, "odd.gguf has no weights: no program can run it"),
        (
            {"metadata": {"general.architecture": "wobble"}},
            "odd.gguf has the architecture 'wobble', which neither llama.cpp",
        ),
        ({}, ""),
        ({"kind": "projector", "tensors": ()}, ""),
    ],
)
def test_a_model_that_nobody_runs_is_a_warning(
    changes: dict[str, object], said: str, tmp_path: Path, mbuild: Run
) -> None:
    """It is built: a newer program may run it. What can be run, and a part of a model, is not."""
    (tmp_path / "odd.gguf").write_bytes(gguf_bytes(tiny_model(**changes)))  # type: ignore[arg-type]
    start = "FROM ./m.gguf\n" if "kind" in changes else ""
    done = mbuild("-f", "-", "-t", "x", input=f"{start}FROM ./odd.gguf\n")
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert [line.startswith(f"warning: {said}") for line in warnings] == [True] * bool(said)


def test_every_architecture_of_a_family_is_known() -> None:
    """What mbuild converts to, and what the gguf package names, needs no warning."""
    made = set()
    for module in pkgutil.iter_modules(families.__path__):
        rows = getattr(import_module(f"{families.__name__}.{module.name}"), "ROWS", ())
        made |= {row.gguf for row in rows}
    assert len(made) > 100 and made <= ARCHITECTURES
    names = pytest.importorskip("gguf.constants").MODEL_ARCH_NAMES
    assert set(names.values()) <= ARCHITECTURES
