"""The wheel holds what the checkout holds, and works from it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_builds_a_model(tmp_path: Path) -> None:
    """Grammars and templates are in the wheel, and a build runs from it alone."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", tmp_path, ROOT]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode and "Could not find a version" in made.stderr:
        pytest.skip("building a wheel needs hatchling from PyPI")
    assert made.returncode == 0, made.stderr
    (wheel,) = tmp_path.glob("mbuild_models-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    source = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "mbuild").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert source <= names, source - names
    assert {"mbuild/grammar/modelfile.lark", "mbuild/grammar/gotemplate.lark"} <= names
    (tmp_path / "Modelfile").write_text('FROM x\nTEMPLATE "{{ .Prompt }}"\nPARAMETER nope 1\n')
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    check = [sys.executable, "-P", "-m", "mbuild", "check", str(tmp_path / "Modelfile")]
    done = subprocess.run(check, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "unknown parameter 'nope'" in done.stdout
