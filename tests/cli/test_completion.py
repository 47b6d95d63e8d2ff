"""Completion, in the shells themselves: what stands on the line after TAB."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from conftest import Run
from gguf_files import tiny_gguf
from screens import Screen, program

from mbuild.cli.completion import VALUES
from mbuild.cli.main import COMMANDS, cli

LINES = {
    "a command": ("mbuild li", "mbuild list"),
    "a command's option": ("mbuild show --temp", "mbuild show --template"),
    "an option of a build": ("mbuild --qui", "mbuild --quiet"),
    "a model": ("mbuild rm lui", "mbuild rm luigi:latest"),
    "a model's tag": ("mbuild show mario:q8", "mbuild show mario:q8_0"),
    "a model's tag after another": ("mbuild diff luigi:latest mario:q8", "mario:q8_0"),
    "a word of another tool": ("mbuild rmi lui", "mbuild rmi luigi:latest"),
    "a model to draw": ("mbuild graph --build lui", "--build luigi:latest"),
    "the model of a report": ("mbuild report mario:q8", "mbuild report mario:q8_0"),
    "a type": ("mbuild -t x -q iq4_n", "-q iq4_nl"),
    "a style": ("mbuild --progress pl", "--progress plain"),
    "a Modelfile": ("mbuild -f Modelf", "mbuild -f Modelfile"),
    "a file to check": ("mbuild check Modelf", "mbuild check Modelfile"),
    "a folder of a store": ("mbuild --store sto", "mbuild --store store/"),
    "where to export": ("mbuild export luigi -o Modelf", "-o Modelfile"),
}


@pytest.fixture
def project(tmp_path: Path, mbuild: Run) -> Path:
    """A folder with a Modelfile, and a store with models, two of them tags of one name."""
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\n")
    tiny_gguf(tmp_path / "model.gguf")
    done = mbuild("-t", "luigi", "-t", "mario:q8_0", "-t", "mario:f16")
    assert done.returncode == 0, done.stderr
    for shell in ("bash", "zsh", "fish"):
        (tmp_path / f"script.{shell}").write_text(mbuild("completion", shell).stdout)
    return tmp_path


def environment(folder: Path) -> dict[str, str]:
    """The variables of a shell that finds this environment's mbuild first."""
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "OLLAMA_MODELS": str(folder / "store"),
        "LC_ALL": "C.UTF-8",
        "PS1": "> ",
    }


START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
}
SETUP = {
    "bash": "PS1='> '; bind 'set enable-bracketed-paste off'; . ./script.bash; clear\n",
    "zsh": "PS1='> '; autoload -U compinit; compinit -u -D; . ./script.zsh; clear\n",
}


@contextlib.contextmanager
def prompt(shell: str, folder: Path) -> Iterator[Screen]:
    """A shell in a terminal that has read the completion script."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    start = f"import os; os.execvp({shell!r}, {START[shell]!r})"
    with program(["-c", start], folder, environment(folder), 100) as (screen, _):
        os.write(screen.master, SETUP[shell].encode())
        screen.until(lambda rows: rows == [">"])
        yield screen


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_tab_completes_everything(shell: str, project: Path) -> None:
    """Commands, options, models with a colon in their names, types, builds, files, folders."""
    with prompt(shell, project) as screen:
        for typed, expected in LINES.values():
            os.write(screen.master, f"{typed}\t".encode())
            screen.until(lambda rows, end=expected: rows and rows[-1].endswith(end))  # type: ignore[misc]
            os.write(screen.master, b"\x15\x0c")  # an empty line, an empty screen
            screen.until(lambda rows: rows == [">"])


def test_bash_lists_what_is_possible(project: Path) -> None:
    """Two TABs after a colon show the tags of that model alone, and the line stays."""
    with prompt("bash", project) as screen:
        os.write(screen.master, b"mbuild show mario:\t\t")
        rows = screen.until(lambda rows: len(rows) >= 3)
        assert sorted(rows[1].split()) == ["f16", "q8_0"]
        assert rows[2] == "> mbuild show mario:"


@pytest.mark.parametrize("case", LINES)
def test_fish_completes_everything(case: str, project: Path) -> None:
    """The same, as fish's own ``complete -C`` tells it."""
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    typed, expected = LINES[case]
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source script.fish; complete -C {typed!r}"],
        cwd=project,
        env=environment(project),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    words = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert expected.rpartition(" ")[2] in words, done


def test_every_row_belongs_to_a_parameter() -> None:
    """A parameter that was renamed leaves no row behind."""
    group = click.Context(cli, info_name="mbuild")
    params = {
        (name, param.name)
        for name in COMMANDS
        for param in (cli.get_command(group, name) or cli).params
    }
    names = {name for _, name in params} | {param.name for param in cli.params}
    for command, name in VALUES:
        assert (command, name) in params or (not command and name in names), (command, name)
