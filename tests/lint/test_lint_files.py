"""``check`` and ``fmt`` over several files, on GitHub, and as hooks of pre-commit."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Run
from inprocess import in_process
from installed import from_pypi

ROOT = Path(__file__).parents[2]
HOOKS = ROOT / ".pre-commit-hooks.yaml"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in a folder with a good, an odd and a bad Modelfile."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    (tmp_path / "good").write_text("FROM x\n")
    (tmp_path / "odd").write_text("FROM   x\nPARAMETER temperature 99\n")
    (tmp_path / "bad").write_text("FROM x\nPARAMETER zzz 1\nSYSTEM “a”\n")
    return in_process(tmp_path, monkeypatch)


def test_check_takes_several_files(run: Run) -> None:
    """Each file has its count, in the singular where it is one; one bad file decides."""
    done = run("check", "good", "odd", "bad")
    assert done.returncode == 1
    counts = re.findall(r"^(\w+: \d.*)$", done.stdout, re.M)
    assert counts == [
        "good: 0 errors, 0 warnings",
        "odd: 0 errors, 1 warning",
        "bad: 1 error, 1 warning",
    ]
    assert run("check", "good", "odd").returncode == 0
    assert run("check", "-f", "good", "odd").stdout == run("check", "good", "odd").stdout
    assert run("fmt", "-f", "good").stdout == run("fmt", "good").stdout


def test_check_goes_on_after_a_file_that_is_not_there(run: Run) -> None:
    """The others are checked too; the status is 1."""
    done = run("check", "nope", "odd")
    assert done.returncode == 1
    assert "nope: No such file" in done.stderr
    assert "odd: 0 errors, 1 warning" in done.stdout


def test_check_gives_one_json_array_of_all_files(run: Run) -> None:
    """Each problem names its file."""
    done = run("check", "--format", "json", "odd", "bad")
    files = [problem["file"] for problem in json.loads(done.stdout)]
    assert files == ["odd", "bad", "bad"]


def test_check_annotates_on_github(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an action each problem is a workflow command with file, line and column."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    done = run("check", "odd", "bad")
    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if line.startswith("::")]
    assert [line.rpartition("::")[0] for line in lines] == [
        "::warning file=odd,line=2,col=23,title=mbuild odd-value",
        "::error file=bad,line=2,col=11,title=mbuild unknown-parameter",
        "::warning file=bad,line=3,col=8,title=mbuild quotes-in-value",
    ]
    assert "::" not in run("check", "--format", "text", "odd").stdout


def test_annotations_escape_what_would_end_them(run: Run, tmp_path: Path) -> None:
    """Percent signs and line ends in a message, colons and commas in a file's name."""
    (tmp_path / "a,b:c").write_text("FROM x\n100%fun x\n")
    done = run("check", "--format", "github", "a,b:c")
    assert done.stdout.startswith("::error file=a%2Cb%3Ac,line=2,col=1,")
    assert '"100%25fun"' in done.stdout


def test_a_folder_stands_for_its_modelfile(run: Run, tmp_path: Path) -> None:
    """Also where problems are placed for GitHub."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "Modelfile").write_text("FROM x\nzzz\n")
    done = run("check", "--format", "github", "sub")
    assert "file=sub/Modelfile,line=2" in done.stdout


def test_fmt_takes_several_files(run: Run, tmp_path: Path) -> None:
    """``--check`` fails for one that is not canonical, ``--write`` rewrites that one."""
    assert run("fmt", "--check", "good").returncode == 0
    done = run("fmt", "--check", "good", "odd")
    assert done.returncode == 1
    assert "-FROM   x" in done.stdout
    assert "good" not in done.stdout
    assert run("fmt", "--write", "good", "odd").returncode == 0
    assert (tmp_path / "odd").read_text() == "FROM x\nPARAMETER temperature 99\n"
    assert run("fmt", "--check", "good", "odd").returncode == 0


def test_fmt_goes_on_after_a_file_that_is_none(run: Run, tmp_path: Path) -> None:
    """A file that cannot be read as a Modelfile stays, the others are formatted."""
    (tmp_path / "broken").write_text("FORM x\n")
    done = run("fmt", "--write", "broken", "odd")
    assert done.returncode == 1
    assert "did you mean FROM?" in done.stderr
    assert (tmp_path / "broken").read_text() == "FORM x\n"
    assert (tmp_path / "odd").read_text().startswith("FROM x\n")


def hooks() -> dict[str, dict[str, str]]:
    """The hooks by their ids."""
    rows: list[dict[str, str]] = []
    for line in HOOKS.read_text(encoding="utf-8").splitlines():
        if found := re.fullmatch(r"(- |  )(\w+): (.*)", line):
            if found[1] == "- ":
                rows.append({})
            rows[-1][found[2]] = found[3]
    return {row["id"]: row for row in rows}


def test_the_hooks_entries_run(run: Run, tmp_path: Path) -> None:
    """Each hook's command fails on a bad file, and mbuild-fmt rewrites what is not canonical."""
    found = hooks()
    assert set(found) == {"mbuild-check", "mbuild-fmt"}
    for row in found.values():
        program, *arguments = row["entry"].split()
        assert program == "mbuild"
        assert row["language"] == "python"
        assert run(*arguments, "good", "odd").returncode == 0
    assert (tmp_path / "odd").read_text().startswith("FROM x\n")
    assert run(*found["mbuild-check"]["entry"].split()[1:], "bad").returncode == 1


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("Modelfile", True),
        ("a/b/Modelfile", True),
        ("Modelfile.dev", True),
        ("mario.Modelfile", True),
        ("mario.modelfile", True),
        ("Modelfile.lock", False),
        ("a/Modelfile.dev.lock", False),
        ("Dockerfile", False),
        ("docs/modelfile.md", False),
    ],
)
def test_the_hooks_take_modelfiles(path: str, meant: bool) -> None:
    """By their names; the lock beside one is none."""
    for row in hooks().values():
        assert bool(re.search(row["files"], path)) is meant


def test_the_hooks_in_pre_commit_itself(tmp_path: Path) -> None:
    """``pre-commit try-repo`` on a repository with an odd file: fmt rewrites it, check passes."""
    try:
        program = from_pypi("pre-commit", ("pre-commit>=4",)) / "pre-commit"
    except subprocess.CalledProcessError:
        pytest.skip("pre-commit cannot be installed from PyPI here")
    environment = {**os.environ, "PRE_COMMIT_HOME": str(tmp_path / "cache")}
    work = tmp_path / "work"
    work.mkdir()
    hook = tmp_path / "hook"
    hook.mkdir()
    text = HOOKS.read_text(encoding="utf-8").replace("language: python", "language: system")
    here = f"{sys.executable} -m mbuild"
    (hook / HOOKS.name).write_text(text.replace("entry: mbuild", f"entry: {here}"))

    def command(*words: str | Path, folder: Path = work) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in words],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    for folder in (hook, work):
        (folder / "Modelfile").write_text("FROM   x\n")
        for words in (
            ("init", "-q"),
            ("add", "-A"),
            ("-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-qm", "first"),
        ):
            assert command("git", *words, folder=folder).returncode == 0
    first = command(program, "try-repo", hook, "mbuild-fmt", "--all-files")
    assert first.returncode == 1, first.stdout + first.stderr
    assert "files were modified by this hook" in first.stdout
    assert (work / "Modelfile").read_text() == "FROM x\n"
    checked = command(program, "try-repo", hook, "mbuild-check", "--all-files")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    (work / "Modelfile").write_text("FORM x\n")
    checked = command(program, "try-repo", hook, "mbuild-check", "--all-files")
    assert checked.returncode == 1
    assert "did you mean FROM?" in checked.stdout
