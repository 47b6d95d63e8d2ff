"""Where mbuild runs: the Action's steps, GitLab's script and Jenkins' lines, run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import DOCS
from example_models import generator
from programs import need

ROOT = DOCS.parent
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
CI = (DOCS / "ci.md").read_text(encoding="utf-8")


class Runner:
    """A runner of composite actions: expressions, conditions, the files that steps write to."""

    def __init__(self, folder: Path, inputs: Mapping[str, str]) -> None:
        self.folder = folder
        self.cached = folder.parent / "cache"
        self.values = {
            **{f"inputs.{name}": str(row.get("default", "")) for name, row in _inputs().items()},
            **{f"inputs.{name}": value for name, value in inputs.items()},
            "runner.os": "Linux",
            "runner.arch": "X64",
            "github.run_id": "17",
            "github.run_attempt": "1",
        }
        self.ran: list[str] = []
        self.environment = machine(folder)
        for name in ("ENV", "OUTPUT", "STEP_SUMMARY"):
            (folder.parent / name).write_text("")
            self.environment[f"GITHUB_{name}"] = str(folder.parent / name)

    def expand(self, text: str) -> str:
        """A text with its expressions' values; raises KeyError for one that is not known."""
        return re.sub(r"\$\{\{\s*(.+?)\s*\}\}", lambda found: self.values[found[1]], text)

    def wanted(self, condition: str) -> bool:
        """The conditions that the action uses: one value compared with a text."""
        name, text = re.fullmatch(r"(\S+) == '(.*)'", condition).groups()  # type: ignore[union-attr]
        return self.values[name] == text

    def run(self, **further: str) -> None:
        """Every step, in order; the cache is saved in the end, as its own last step does."""
        saved: Path | None = None
        for step in ACTION["runs"]["steps"]:
            if "if" in step and not self.wanted(step["if"]):
                continue
            self.ran.append(step["name"])
            if "uses" in step:
                assert step["uses"].startswith("actions/cache@")
                fields = {key: self.expand(text) for key, text in step["with"].items()}
                assert fields["key"].startswith(fields["restore-keys"])
                saved = Path(fields["path"])
                if self.cached.exists():
                    shutil.copytree(self.cached, saved, symlinks=True)
                continue
            self.step(step, further)
        if saved is not None:
            shutil.rmtree(self.cached, ignore_errors=True)
            shutil.copytree(saved, self.cached, symlinks=True)

    def step(self, step: Mapping[str, Any], further: Mapping[str, str]) -> None:
        """One step in GitHub's bash, and what it wrote for the steps after it."""
        own = {name: self.expand(text) for name, text in step.get("env", {}).items()}
        assert step["shell"] == "bash"
        script = self.folder.parent / "step.sh"
        script.write_text(self.expand(step["run"]))
        assert "${{" not in step["run"], "an input in a script would be run"
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.folder,
            env={**self.environment, **own, **further},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{step['name']}: {done.stdout}{done.stderr}"
        for line in (self.folder.parent / "ENV").read_text().splitlines():
            name, _, value = line.partition("=")
            self.environment[name] = value
        if "id" in step:
            self._outputs(step["id"])

    def _outputs(self, step: str) -> None:
        """What a step put out: ``name=value``, and ``name<<END`` with several lines."""
        path = self.folder.parent / "OUTPUT"
        for several in re.finditer(r"^(\w+)<<(\S+)\n(.*?)\n\2$", path.read_text(), re.M | re.S):
            self.values[f"steps.{step}.outputs.{several[1]}"] = several[3]
        for line in re.finditer(r"^(\w+)=(.*)$", path.read_text(), re.M):
            self.values[f"steps.{step}.outputs.{line[1]}"] = line[2]
        path.write_text("")

    def output(self, name: str) -> str:
        """An output of the whole action."""
        return self.expand(ACTION["outputs"][name]["value"])


def _inputs() -> dict[str, Any]:
    found: dict[str, Any] = ACTION["inputs"]
    return found


def machine(folder: Path) -> dict[str, str]:
    """The environment of a fresh machine: ``python3``, ``pip`` and ``mbuild`` are on the path.

    pip installs beside the packages that are there, so that the step is run as it stands.
    """
    programs = folder.parent / "bin"
    programs.mkdir(exist_ok=True)
    for name, module in (("python3", ""), ("pip", "-m pip"), ("mbuild", "-m mbuild")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (programs / name).chmod(0o755)
    return {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder.parent / "home"),
        "RUNNER_TEMP": str(folder.parent / "temp"),
        "XDG_CACHE_HOME": os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache"),
        "PIP_TARGET": str(folder.parent / "site"),
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a Modelfile and a checkpoint, as a job checks it out."""
    need("bash")
    folder = tmp_path / "work"
    folder.mkdir()
    generator().write_chat(folder / "chat")
    (folder / "Modelfile").write_text("FROM ./chat\nSYSTEM You are Mario.\n")
    return folder


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Something that pip installs without any network: a wheel with one module."""
    import zipfile

    path = tmp_path_factory.mktemp("wheel") / "probe_of_action-1-py3-none-any.whl"
    info = "probe_of_action-1.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("probe_of_action.py", "")
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: probe-of-action\nVersion: 1\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def test_a_job_and_the_next_one(checkout: Path, tmp_path: Path, package: Path) -> None:
    """Installed, planned, built; on the next machine all of it comes from the cache."""
    options = {"name": "mario\norg/other", "options": "-q q8_0", "package": str(package)}
    first = Runner(checkout, options)
    first.run()
    assert (tmp_path / "site" / "probe_of_action.py").exists()
    summary = (tmp_path / "STEP_SUMMARY").read_text()
    assert summary.startswith("### mbuild plan\n\n```text\n")
    assert summary.endswith("```\n")
    assert "quantize" in summary
    ids = first.output("id").split()
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in ids)
    assert first.output("home") == str(tmp_path / "temp" / "mbuild-home")
    shutil.rmtree(tmp_path / "temp")
    for path in checkout.rglob("*"):
        path.touch()  # a checkout gives every file a new time
    second = Runner(checkout, options)
    second.run()
    assert second.output("id").split() == ids
    planned = (tmp_path / "STEP_SUMMARY").read_text()
    assert "0 steps to run" in planned, planned
    assert second.ran == [step["name"] for step in ACTION["runs"]["steps"]]


def test_inputs_are_never_run(checkout: Path, tmp_path: Path, package: Path) -> None:
    """What a name or an option says is an argument, whatever a shell would make of it."""
    odd = Runner(
        checkout,
        {
            "name": "mario",
            "options": f"$(touch {tmp_path}/never) `touch {tmp_path}/never` ; touch never",
            "package": str(package),
            "cache": "false",
            "plan": "false",
        },
    )
    with pytest.raises(AssertionError, match="Build"):
        odd.run()
    assert not list(tmp_path.rglob("never"))
    assert odd.ran == ["Choose the folder that is kept", "Install mbuild", "Build"]


def test_the_page_lists_the_inputs() -> None:
    """docs/ci.md has a row for each, and every input has a description."""
    rows = re.findall(r"^\| `(\w+)` \| .+ \|$", CI.split("## On GitHub")[1].split("\n## ")[0], re.M)
    assert rows == list(_inputs())
    assert all(row["description"] for row in _inputs().values())
    assert {name for name, row in _inputs().items() if row.get("required")} == {"name"}


def block(language: str, start: str) -> str:
    """The block of code of the page that begins with a line."""
    found = re.findall(rf"^```{language}\n(.*?)^```$", CI, re.M | re.S)
    return next(text for text in found if text.startswith(start))


def run_lines(lines: list[str], folder: Path, **variables: str) -> None:
    for line in lines:
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", line],
            cwd=folder,
            env={**machine(folder), **variables},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"


def without_pip(lines: list[str], package: Path) -> list[str]:
    """The lines with a package that is here in place of mbuild's name in the index."""
    assert any("pip install --quiet mbuild-models" in line for line in lines)
    return [line.replace("mbuild-models", str(package)) for line in lines]


def test_gitlabs_script(checkout: Path, package: Path) -> None:
    """The YAML is read, its lines are run, and its artifacts and its cache are there."""
    job = yaml.safe_load(block("yaml", "# .gitlab-ci.yml"))["model"]
    home = job["variables"]["MBUILD_HOME"].replace("$CI_PROJECT_DIR", str(checkout))
    variables = {"MBUILD_HOME": home, "MBUILD_KEEP": job["variables"]["MBUILD_KEEP"]}
    run_lines(without_pip(job["script"], package), checkout, **variables)
    for path in (*job["artifacts"]["paths"], *job["cache"]["paths"]):
        assert (checkout / path).exists()


def test_jenkins_lines(checkout: Path, package: Path) -> None:
    """Every ``sh`` of the pipeline runs, and what it archives is there."""
    text = block("groovy", "// Jenkinsfile")
    lines = re.findall(r"^ +sh '(.*)'$", text, re.M)
    assert len(lines) == 3
    run_lines(without_pip(lines, package), checkout, MBUILD_HOME=str(checkout / "home"))
    (kept,) = re.findall(r"artifacts: '(.*)'", text)
    assert (checkout / kept).exists()
    assert text.count("{") == text.count("}")


def test_the_example_of_a_workflow_uses_inputs_that_there_are() -> None:
    """The YAML of the page is read, and names no input that the action does not have."""
    job = yaml.safe_load(block("yaml", "jobs:"))["jobs"]["model"]
    (step,) = [step for step in job["steps"] if step.get("id") == "mbuild"]
    assert set(step["with"]) <= set(_inputs())
    assert "steps.mbuild.outputs.id" in job["steps"][-1]["run"]


# --- the container -------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """The Containerfile's instructions, each with its text."""
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in lines)]


def test_the_container_runs_as_nobody_in_particular() -> None:
    """The last stage has a user by number who is not root, and mbuild for its program."""
    rows = instructions()
    last = max(number for number, row in enumerate(rows) if row[0] == "FROM")
    stage = dict(rows[last:])
    user, group = stage["USER"].split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert stage["ENTRYPOINT"] == '["mbuild"]'
    assert rows.count(("FROM", "${BASE}")) == 1


def test_what_the_container_copies_is_there_and_enough() -> None:
    """Every path that it takes of the checkout exists, and the build of a wheel needs no other."""
    taken: list[str] = []
    for word, rest in instructions():
        if word == "COPY" and not rest.startswith("--from"):
            taken += rest.split()[:-1]
    assert all((ROOT / name).exists() for name in taken)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in re.findall(r'^(?:readme|license-files) = \[?"([^"]+)"', project, re.M):
        assert name in taken
    assert {"mbuild", "grammar", "pyproject.toml"} <= set(taken)
