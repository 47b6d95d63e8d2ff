"""The examples build, as their README says, from models that their generator writes."""

from __future__ import annotations

import hashlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import Run
from example_models import EXAMPLES, generator
from inprocess import in_process

ROOT = EXAMPLES.parent

COMMANDS = re.findall(r"`mbuild ([^`]*)`", (EXAMPLES / "README.md").read_text())


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in a copy of the examples with their models."""
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("models"))
    shutil.copy(ROOT / "Modelfile.example", tmp_path)
    run = in_process(tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr("sys.argv", ["make_models.py", "examples/models"])
        generator().main()
    return run


def test_each_example_builds(mbuild: Run) -> None:
    """Every command of the README succeeds, and a second time finds everything cached."""
    assert len(COMMANDS) == 6
    for command in COMMANDS:
        done = mbuild(*shlex.split(command))
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert "warning" not in done.stderr, command
    for command in COMMANDS:
        assert ": 0 steps run," in mbuild(*shlex.split(command)).stderr, command
    listed = mbuild("list").stdout
    for name in ("mario", "luigi", "pirate", "haiku:q4_K_M", "haiku:q8_0", "reviewer", "embed"):
        assert name in listed


def test_the_generator_has_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--help`` is printed, a missing folder is named, and neither writes a model."""
    monkeypatch.chdir(tmp_path)
    for arguments, status in ((["--help"], 0), ([], 2), (["--folder", "x"], 2)):
        monkeypatch.setattr("sys.argv", ["make_models.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            generator().main()
        assert ended.value.code == status
        said = capsys.readouterr()
        assert "usage: make_models.py [-h] FOLDER" in said.out + said.err
    assert list(tmp_path.iterdir()) == []


def test_each_folder_is_in_the_readme() -> None:
    """No example without a command, and no Modelfile that the linter complains about."""
    folders = {path.parent.name for path in EXAMPLES.glob("*/Modelfile")}
    named = {part for command in COMMANDS for part in re.findall(r"examples/([\w-]+)", command)}
    assert named == folders


def test_modelfiles_are_canonical(mbuild: Run, tmp_path: Path) -> None:
    """``mbuild check`` finds nothing, and ``mbuild fmt`` would change nothing."""
    for path in [tmp_path / "Modelfile.example", *tmp_path.glob("examples/*/Modelfile")]:
        done = mbuild("check", str(path))
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        done = mbuild("fmt", "--check", str(path))
        assert done.returncode == 0, done.stdout


def test_the_generated_bytes_are_the_same_everywhere(tmp_path: Path) -> None:
    """Known digests of the weights; they depend on no random state, platform or version."""
    generator().write_chat(tmp_path / "chat")
    generator().write_embed(tmp_path / "embed")
    digests = {
        str(path.relative_to(tmp_path).as_posix()): hashlib.sha256(path.read_bytes()).hexdigest()[
            :16
        ]
        for path in sorted(tmp_path.rglob("*.safetensors"))
    }
    assert digests == {
        "chat/model.safetensors": "04683b31d9c845ed",
        "embed/model.safetensors": "0aa06e4f495412d9",
    }
