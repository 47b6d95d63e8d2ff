"""How commands end that do not go well: events, annotations, colors, signals, faults of mbuild."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from conftest import Run
from gguf_files import tiny_gguf
from inprocess import in_process
from screens import finished, program

from mbuild.cli import asking
from mbuild.cli import build as mbuild_build
from mbuild.cli.common import color_on
from mbuild.cli.endings import workflow_commands
from mbuild.cli.errors import show_error
from mbuild.core.errors import UsageError

SCHEMA = Path(__file__).parents[2] / "docs" / "progress.schema.json"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a Modelfile and the GGUF file that it names."""
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM You are Mario.\n")
    tiny_gguf(tmp_path / "model.gguf")
    return tmp_path


@pytest.fixture
def mbuild(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process, in the folder, on a store of its own."""
    for name in ("GITHUB_ACTIONS", "GITHUB_WORKSPACE", "FORCE_COLOR", "MBUILD_TRACEBACK"):
        monkeypatch.delenv(name, raising=False)
    return in_process(project, monkeypatch)


BROKEN = "FROM ./nothing.gguf\nPARAMTER temperature 1\nPARAMETER temperature hot\n"


def failure(mbuild: Run, *arguments: str) -> dict[str, object]:
    """The last event of a build that fails; every line fits the schema."""
    done = mbuild(*arguments, "--progress", "json")
    assert done.returncode != 0
    events = [json.loads(line) for line in done.stdout.splitlines()]
    for event in events:
        jsonschema.validate(event, json.loads(SCHEMA.read_text()))
    assert [event["event"] for event in events].count("BuildFailed") == 1
    last: dict[str, object] = events[-1]
    return last


def test_a_failed_build_ends_with_an_event(mbuild: Run, project: Path) -> None:
    """Each problem with its place and hint; of a file that is not there; of an unknown type."""
    (project / "Modelfile").write_text(BROKEN)
    event = failure(mbuild, "-t", "x")
    assert event["reason"] == "failed"
    problems = event["problems"]
    assert isinstance(problems, list)
    assert [(p["file"], p["line"], p["column"]) for p in problems] == [
        ("Modelfile", 2, 1),
        ("Modelfile", 3, 23),
    ]
    assert "PARAMETER" in problems[0]["hint"]
    (project / "Modelfile").write_text("FROM ./nothing.gguf\n")
    (missing,) = failure(mbuild, "-t", "x")["problems"]  # type: ignore[misc]
    assert (missing["file"], missing["line"]) == ("Modelfile", 1)
    (wrong,) = failure(mbuild, "-t", "x", "-q", "q99")["problems"]  # type: ignore[misc]
    assert (wrong["line"], wrong["message"]) == (0, "unknown quantization 'q99'")
    (nowhere,) = failure(mbuild, "lock", "-f", "nope")["problems"]  # type: ignore[misc]
    assert nowhere["message"] == "no such Modelfile: nope"


def test_a_good_build_has_no_such_event(mbuild: Run) -> None:
    """It ends with BuildFinished."""
    lines = mbuild("-t", "x", "--progress", "json").stdout.splitlines()
    assert json.loads(lines[-1])["event"] == "BuildFinished"


def test_github_gets_annotations(
    mbuild: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each problem, with the file from the repository's root; only in its actions."""
    (project / "sub").mkdir()
    (project / "sub" / "Modelfile").write_text(BROKEN)
    monkeypatch.chdir(project / "sub")
    assert "::error" not in mbuild("-t", "x").stderr
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project))
    marks = [line for line in mbuild("-t", "x").stderr.splitlines() if line.startswith("::")]
    assert len(marks) == 2
    assert marks[0].startswith("::error file=sub/Modelfile,line=2,col=1,title=mbuild::unknown")
    assert "%0Ahint: " in marks[0]


def test_annotations_keep_to_one_line() -> None:
    """A line feed, a percent sign and, in properties, colons and commas are escaped."""
    (line,) = workflow_commands(UsageError("50% of a\nb", hint="c, d: e"))
    assert line == "::error title=mbuild::50%25 of a%0Ab%0Ahint: c, d: e"


# Colors.


@pytest.mark.parametrize(
    ("environment", "terminal", "wanted"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, True, False),
        ({"CLICOLOR": "0"}, True, False),
        ({"CLICOLOR": "1"}, False, False),
        ({"CLICOLOR_FORCE": "1"}, False, True),
        ({"TERM": "dumb"}, True, False),
    ],
)
def test_who_decides_about_colors(
    environment: dict[str, str], terminal: bool, wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The terminal, unless the environment says otherwise; NO_COLOR has the last word."""
    for name in ("NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    class Stream:
        def isatty(self) -> bool:
            return terminal

    assert color_on(Stream()) is wanted  # type: ignore[arg-type]


def test_errors_have_weight(mbuild: Run, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The word error, the caret and the word hint are painted; without color not a byte is."""
    (project / "Modelfile").write_text("FROM ./model.gguf\nPARAMTER temperature 1\n")
    plain = mbuild("-t", "x").stderr
    assert "\x1b" not in plain
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    painted = mbuild("-t", "x").stderr
    assert painted.startswith("\x1b[1;31merror:\x1b[0m unknown instruction")
    assert "\x1b[1;31m^^^^^^^^\x1b[0m" in painted
    assert "  \x1b[36mhint:\x1b[0m " in painted


# Signals and faults.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_an_event_and_a_status(
    mbuild: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """130 for Ctrl-C, 143 for SIGTERM, as shells count; no model, and no traceback."""

    def stopped(*arguments: object, **options: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr(asking, "read_recipe", stopped)
    done = mbuild("-t", "x", "--progress", "json")
    assert done.returncode == 128 + number
    assert json.loads(done.stdout) == {"event": "BuildFailed", "reason": "stopped", "problems": []}
    assert done.stderr.strip() == "interrupted"


def test_what_is_kept_of_an_interrupted_build_is_said(
    mbuild: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of unfinished files; and the models that have their names already."""

    def stopped(*arguments: object) -> None:
        partial = project / "store" / ".mbuild" / "partial"
        partial.mkdir(parents=True, exist_ok=True)
        (partial / "half").write_bytes(bytes(225_000))
        raise KeyboardInterrupt

    monkeypatch.setattr(mbuild_build, "follow", stopped)
    done = mbuild("-t", "x")
    assert done.returncode == 130
    assert done.stderr == "interrupted: no model was changed; 225 KB of finished work kept\n"


def test_a_fault_of_mbuild_says_so(
    mbuild: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No bare traceback: that it is a bug, and a file with all that a report needs."""

    def wrong(*arguments: object, **options: object) -> None:
        raise KeyError("nobody\nknows")

    monkeypatch.setattr(asking, "read_recipe", wrong)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    done = mbuild("-t", "x")
    assert done.returncode == 1
    assert done.stderr.startswith("error: internal error: KeyError: ")
    assert "This is a bug in mbuild" in done.stderr
    assert "Traceback" not in done.stderr
    (report,) = tmp_path.glob("mbuild-*.txt")
    assert str(report) in done.stderr
    text = report.read_text()
    assert "Traceback" in text
    assert "command line: mbuild -t x" in text
    assert "Python 3." in text
    monkeypatch.setenv("MBUILD_TRACEBACK", "1")
    assert mbuild("-t", "x").stderr.startswith("Traceback")
    assert len(list(tmp_path.glob("mbuild-*.txt"))) == 1


def test_long_messages_are_wrapped_on_a_terminal(project: Path) -> None:
    """Between words, with the indent of their line; nothing exceeds the terminal."""
    arguments = ["-m", "mbuild", "search", "llama3"]
    environment = {"OLLAMA_MODELS": str(project / "store"), "NO_COLOR": "1"}
    with program(arguments, project, environment, 60) as (screen, process):
        assert finished(screen, process) == 2
        rows = screen.rows
    text = " ".join(row.strip() for row in rows)
    assert "hint: search on ollama.com/search or huggingface.co/models" in text
    assert max(map(len, rows)) <= 60


def test_an_error_is_what_is_wrong_and_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line each on standard error; what a terminal would obey is written out."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    show_error(UsageError("no \x1b[2J model", hint="name one"))
    captured = capsys.readouterr()
    assert captured.out == ""
    first, second = captured.err.splitlines()
    assert first.startswith("error: no ") and "\x1b" not in first
    assert second == "  hint: name one"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_the_middle_of_an_import_keeps_its_status(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    """It stops the command right after the import, and is still that signal."""
    (tmp_path / "slow.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(0.01)\ndone = True\n"
    )
    code = (
        "import sys, time\nfrom mbuild.cli import signals\nsignals.stop_on_signals()\n"
        "try:\n    import slow\n    time.sleep(30)\n"
        "except KeyboardInterrupt:\n    sys.exit(signals.stopped() if slow.done else 1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=60)
    assert done.returncode == status
