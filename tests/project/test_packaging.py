"""The wheel holds what the checkout holds, and README's ways to install mbuild work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from example_models import write_chat
from installed import from_pypi

from mbuild import __version__

ROOT = Path(__file__).parents[2]

INSTALL = (ROOT / "README.md").read_text().partition("\n## Install it\n")[2].partition("\n## ")[0]
BLOCKS = "".join(re.findall(r"```sh\n(.*?)```", INSTALL, re.DOTALL))
LINES = [line.partition("#")[0].strip() for line in BLOCKS.splitlines()]

MOLECULES = "mbuild==0.10.9"
"""The molecule builder: its last version on PyPI."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made once by the command that README.md gives."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", folder, ROOT]
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode and "Could not find a version" in made.stderr:
        pytest.skip("building a wheel needs hatchling from PyPI")
    assert made.returncode == 0, made.stderr
    (found,) = folder.glob("mbuild_models-*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_builds_a_model(wheel: Path, tmp_path: Path) -> None:
    """Grammars and templates are in the wheel, and a build runs from it alone."""
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


# --- the commands of README.md --------------------------------------------------------------


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that a clone would have."""
    place = tmp_path_factory.mktemp("clone") / "mbuild"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "dist")

    def left_out(folder: str, names: list[str]) -> set[str]:
        made = {"models"} if Path(folder) == ROOT / "examples" else set()
        return ignored(folder, names) | made

    shutil.copytree(ROOT, place, ignore=left_out)
    return place


def environment(*paths: Path, home: Path) -> dict[str, str]:
    """Variables of a shell that finds programs in ``paths``, with a home of its own."""
    inherited = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {
        **inherited,
        "PATH": os.pathsep.join([*map(str, paths), inherited["PATH"]]),
        "OLLAMA_MODELS": str(home / "store"),
        "PIPX_HOME": str(home / "pipx"),
        "PIPX_BIN_DIR": str(home / "bin"),
        "PIPX_MAN_DIR": str(home / "man"),
        "PIPX_DEFAULT_PYTHON": sys.executable,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "UV_PYTHON": sys.executable,
    }


def shell(line: str, folder: Path, variables: dict[str, str]) -> str:
    """What a command prints; skips where the package index cannot be reached."""
    done = subprocess.run(
        ["sh", "-c", line], cwd=folder, env=variables, capture_output=True, text=True, timeout=900
    )
    said = done.stdout + done.stderr
    if done.returncode and re.search("No matching distribution|Failed to fetch|dns error", said):
        pytest.skip(f"no package index: {line}")
    assert done.returncode == 0, f"$ {line}\n{said}"
    return said


def builds(folder: Path, variables: dict[str, str], command: str = "mbuild") -> None:
    """Assert that a command builds a quantized model from a checkpoint, outside the checkout."""
    write_chat(folder / "tiny-chat")
    (folder / "Modelfile").write_text("FROM ./tiny-chat\n")
    assert "built tiny:latest in" in shell(f"{command} -t tiny -q q8_0", folder, variables)


def line_of(program: str) -> str:
    """The line of README.md that begins so."""
    (line,) = (line for line in LINES if line.startswith(program))
    return line


def tools() -> Path:
    """The folder that has the programs ``uvx`` and ``pipx``."""
    try:
        return from_pypi("installers", ["uv", "pipx"])
    except subprocess.CalledProcessError:
        pytest.skip("uv and pipx cannot be had from PyPI")


def test_every_line_is_tested() -> None:
    """The lines that the tests below run are all that README.md has."""
    assert [line.split()[:2] for line in LINES] == [
        ["pip", "install"],
        ["pipx", "install"],
        ["uvx", "--from"],
        ["pip", "wheel"],
        ["pip", "install"],
    ]


@pytest.mark.slow
@pytest.mark.clients
def test_after_try_it_there_is_a_command(checkout: Path, tmp_path: Path) -> None:
    """The lines of "Try it", in one shell: the second build is cached, and ``mbuild`` is found."""
    text = (ROOT / "README.md").read_text().partition("\n## Try it\n")[2]
    (block,) = re.findall(r"```sh\n(.*?)```", text.partition("\n## ")[0], re.DOTALL)
    variables = environment(home=tmp_path)
    said = shell(f"set -e\n{block}command -v mbuild\nmbuild --version", checkout, variables)
    assert "built mario:latest in" in said
    assert ": 0 steps run, " in said
    assert f"\nmbuild {__version__}\n" in said
    assert str(checkout / ".venv" / "bin" / "mbuild") in said


@pytest.mark.slow
@pytest.mark.clients
def test_pip_installs_the_checkout_and_the_wheel(
    checkout: Path, wheel: Path, tmp_path: Path
) -> None:
    """In a new environment; the molecule builder in the same one breaks the command."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    variables = environment(tmp_path / "venv" / "bin", home=tmp_path)
    shell(LINES[0], checkout, variables)
    builds(tmp_path, variables)
    shell("pip uninstall -q -y mbuild-models", tmp_path, variables)
    (checkout / "dist").mkdir(exist_ok=True)
    shutil.copy(wheel, checkout / "dist")
    shell(LINES[-1], checkout, variables)
    builds(tmp_path, variables)
    shell(f"pip install -q --no-deps {MOLECULES}", tmp_path, variables)
    broken = subprocess.run(
        ["mbuild", "--version"], cwd=tmp_path, env=variables, capture_output=True, text=True
    )
    assert broken.returncode == 1
    assert "from mbuild.box import Box" in broken.stderr


@pytest.mark.slow
@pytest.mark.clients
def test_uvx_runs_the_checkout(checkout: Path, tmp_path: Path) -> None:
    """Without installing anything, and from another folder too."""
    variables = environment(tools(), home=tmp_path)
    assert f"mbuild {__version__}\n" in shell(line_of("uvx"), checkout, variables)
    builds(tmp_path, variables, f"uvx --from {checkout} mbuild")


@pytest.mark.slow
@pytest.mark.clients
def test_pipx_installs_the_checkout(checkout: Path, tmp_path: Path) -> None:
    """Into an environment of its own, with the command in the user's folder of programs."""
    variables = environment(tmp_path / "bin", tools(), home=tmp_path)
    shell(line_of("pipx"), checkout, variables)
    assert (tmp_path / "bin" / "mbuild").exists()
    builds(tmp_path, variables)
