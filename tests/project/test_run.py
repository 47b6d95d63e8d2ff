"""``run.py``, which a newcomer starts with whatever Python there is."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "run.py"

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="run.py is not in this package")


def _run(
    tmp_path: Path, before: str, path: str = "", *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Start a copy of ``run.py`` alone in a folder, after ``before`` has changed the Python."""
    shutil.copy(SCRIPT, tmp_path)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\n{before}\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PATH": path}
    command = [sys.executable, "run.py", *(arguments or ("example",))]
    return subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_python_without_venv_is_told_the_package(tmp_path: Path, module: str) -> None:
    """Debian keeps ensurepip in a package of its own; it is named, and nothing is left behind."""
    done = _run(tmp_path, f"sys.modules['{module}'] = None")
    assert done.returncode == 1
    assert f"({sys.executable}) has no module {module}," in done.stderr
    assert "apt install python3-venv" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_old_python_is_told_so(tmp_path: Path) -> None:
    """The message says which version is needed and which one this is."""
    done = _run(tmp_path, "sys.version_info = (3, 10, 4, 'final', 0)")
    assert done.returncode == 1
    needed = "mbuild needs Python 3.11 or newer, and this is Python 3.10.4 "
    assert done.stderr == f"{needed}({sys.executable}); install a newer one\n"
    assert not (tmp_path / ".venv").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="a script as a program")
def test_an_old_python_names_a_newer_one(tmp_path: Path) -> None:
    """A newer Python on the path is named; one that is there and does not run is not."""
    for name, status in (("python3.12", 0), ("python3.13", 1)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    done = _run(tmp_path, "sys.version_info = (3, 8, 1, 'final', 0)", str(tmp_path))
    assert done.stderr.endswith("; this machine has one: python3.12 run.py\n")


def test_a_wheel_is_made_by_the_environment_that_has_the_compiler(tmp_path: Path) -> None:
    """The environment is set up first; further arguments go to the script that makes the wheel."""
    shown = "import subprocess; subprocess.call = lambda command, **_: print(*command)"
    done = _run(tmp_path, shown, "", "wheel", "--levels", "x86-64-v3")
    assert done.returncode == 0, done.stderr
    *_, install, make = done.stdout.splitlines()
    assert install.endswith("--editable .")
    python = f"{tmp_path}/.venv/bin/python"
    assert make == f"{python} release/wheel.py dist --levels x86-64-v3"


def test_an_old_python_can_read_it() -> None:
    """Its syntax is that of Python 3.4, so that old ones come to the message."""
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 4))
