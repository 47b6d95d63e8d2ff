"""Whole sessions on terminals of three widths, as they look, against files in data/sessions.

``MBUILD_WRITE_SESSIONS=1 pytest tests/cli/test_sessions.py`` writes the files again; read the
difference before it is committed. What differs between machines and runs (times, room on
the disk, digests, builds' ids) is held still or masked with as many characters.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
from pathlib import Path

import pytest
from example_models import generator
from rich.cells import cell_len
from screens import finished, program

SESSIONS = Path(__file__).parents[1] / "data" / "sessions"
WIDTHS = (60, 80, 120)

# A clock that stands still, a disk with a known room, a folder with a known name.
_CHILD = """
import os, shutil, signal, sys, time
import mbuild.build.build
time.monotonic = lambda: 0.0
shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**11, 0, 10**11)
os.getcwd = lambda: "/home/mario/models"
if os.environ.get("STOP"):
    builder = sys.modules["mbuild.build.build"]
    builder._layers = lambda *arguments: signal.raise_signal(signal.SIGINT)
from mbuild.cli.main import run
sys.exit(run(sys.argv[1:]))
"""

_SYSTEM = "You are Mario from Super Mario Bros, and you answer every question in a rhyme."
_LUIGI = _SYSTEM.replace("Mario from", "Luigi from")

# What is done: a command line, or a change to the Modelfile and what it is called.
FIRST: tuple[str | tuple[str, str, str], ...] = (
    "mbuild -t mario",
    "mbuild -t mario",
    ("make another system prompt", _SYSTEM, _LUIGI),
    "mbuild explain -t mario",
    "mbuild -t mario",
    "mbuild history",
    "mbuild list",
    "mbuild show mario",
    "mbuild history mario",
)
VARIANTS: tuple[str | tuple[str, str, str], ...] = (
    "mbuild -t mario",
    "mbuild plan -t mario -q q4_K_M -q q8_0",
    "mbuild -t mario -q q4_K_M -q q8_0",
    ("make another system prompt", _SYSTEM, _LUIGI),
    "mbuild plan -t mario -q q4_K_M -q q8_0",
    "mbuild explain -t mario -q q4_K_M -q q8_0",
    "mbuild -t mario -q q4_K_M -q q8_0",
    "mbuild history",
    "mbuild history mario:q8_0",
    "mbuild --dry-run -t mario -q q4_K_M -q q8_0",
)
ERRORS: tuple[str | tuple[str, str, str], ...] = (
    "mbuild sho mario",
    "mbuild logs mario",
    "mbuild search llama3",
    "mbuild -t mario ../nowhere",
    "mbuild -t mario  # Ctrl-C while it runs",
    ("misspell a parameter", "PARAMETER temperature", "PARAMETER temprature"),
    "mbuild -t mario",
    ("spell it right again", "PARAMETER temprature", "PARAMETER temperature"),
    ("name a folder that is not there", "FROM ./tiny-chat", "FROM ./tiny-chta"),
    "mbuild -t mario",
)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["first", "variants", "errors"])
def test_a_session_looks_as_it_did(name: str, width: int, tmp_path: Path) -> None:
    """Line by line; no line is wider than the terminal, and no word is cut at its edge."""
    steps = {"first": FIRST, "variants": VARIANTS, "errors": ERRORS}[name]
    generator().write_chat(tmp_path / "tiny-chat")
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(f"FROM ./tiny-chat\nSYSTEM {_SYSTEM}\nPARAMETER temperature 0.7\n")
    lines: list[str] = []
    for step in steps:
        if isinstance(step, tuple):
            what, old, new = step
            assert old in modelfile.read_text()
            modelfile.write_text(modelfile.read_text().replace(old, new))
            lines += [f"# {what}", ""]
        else:
            lines += [f"$ {step}", *shown(step, tmp_path, width), ""]
    text = masked("\n".join(lines))
    file = SESSIONS / f"{name}_{width}.txt"
    if os.environ.get("MBUILD_WRITE_SESSIONS"):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def shown(line: str, folder: Path, width: int) -> list[str]:
    """What a terminal shows after a command; every line of it fits."""
    words = shlex.split(line, comments=True)
    environment = {
        "OLLAMA_MODELS": str(folder / "store"),
        "HOME": os.environ.get("HOME", "/"),
        "NO_COLOR": "1",
    }
    if "Ctrl-C" in line:
        environment["STOP"] = "1"
    with program(["-c", _CHILD, *words[1:]], folder, environment, width, 60) as (screen, process):
        finished(screen, process)
        rows = screen.rows
        raw = screen.raw.decode()
    printed = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", row).rstrip() for row in raw.split("\n")]
    assert max((cell_len(row) for row in printed), default=0) <= width, printed
    return in_order([row for row in rows if "compiling quantizers" not in row])


_STEP = re.compile(r"(done    |cached  )\S")


def in_order(rows: list[str]) -> list[str]:
    """Rows of steps that ran side by side in the order of their names."""
    found: list[str] = []
    for done, some in itertools.groupby(rows, lambda row: bool(_STEP.match(row))):
        block = list(some)
        found += sorted(block) if done else block
    return found


def masked(text: str) -> str:
    """The text without what differs between runs, each piece as long as it was."""
    for pattern in (
        r"\b[0-9a-f]{12}\b",
        r"\b\d{4}-\d\d-\d\d\b",
        r"\b\d\d:\d\d(:\d\d)?\b",
        r"(?<=mbuild )\d+\.\d+\.\d+\S*",
    ):
        text = re.sub(pattern, lambda found: re.sub(r"[0-9a-f]", "x", found[0]), text)
    return text
