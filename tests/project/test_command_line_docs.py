"""Help, schema and pages agree with the program, and every example of ``--help`` runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
from conftest import Run
from documents import DOCS, documented, generate
from example_models import generator, settle
from gguf_files import tiny_gguf
from inprocess import in_process
from programs import missing
from stores import copy_tiny_store

from mbuild.cli.main import COMMANDS, EPILOG, cli


def test_generated_pages_are_up_to_date() -> None:
    """docs/cli.md is what --help prints, docs/progress.schema.json what the events are."""
    script = generate()
    for name, text in script.pages().items():
        old = (DOCS / name).read_text(encoding="utf-8")
        assert old == text, f"docs/{name} is out of date: {script.COMMAND}"


def test_every_event_is_explained() -> None:
    """docs/progress.md names each event with each of its fields."""
    page = (DOCS / "progress.md").read_text(encoding="utf-8")
    for kind in generate().schema()["oneOf"]:
        name = kind["properties"]["event"]["const"]
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        for field in set(kind["properties"]) - {"event"}:
            assert f"`{field}`" in row, (name, field)


@pytest.mark.parametrize("page", ["progress.md", "store.md", "models.md", "modelfile.md"])
def test_the_documented_session(page: str, tmp_path: Path) -> None:
    """Each command of the page prints what the page shows."""
    copy_tiny_store(tmp_path / "store")
    documented(page, tmp_path)


def test_every_line_of_real_builds_fits_the_schema(mbuild: Run, tmp_path: Path) -> None:
    """Fresh, cached, warned, variants, a part: every event as the schema says, no field more."""
    copy_tiny_store(tmp_path / "store")
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM x\nPARAMETER mirostat 1\n")
    (tmp_path / "Other").write_text("FROM tiny\n")
    schema: dict[str, Any] = json.loads((DOCS / "progress.schema.json").read_text())
    kinds = {kind["properties"]["event"]["const"]: kind for kind in schema["oneOf"]}
    seen = set()
    two = ["-f", "Other", "-q", "q8_0", "-q", "q4_0"]
    part = ["-f", "Other", "-q", "q5_0", "--part", "1/1", "--cache-to", str(tmp_path / "cache")]
    for arguments in (["-t", "a"], ["-t", "a"], two, ["-f", "Other"], part, ["-f", "missing"]):
        done = mbuild(*arguments, "--progress", "json", "-t", "m")
        assert done.returncode == (arguments == ["-f", "missing"]), done.stderr
        for line in done.stdout.splitlines():
            event = json.loads(line)
            jsonschema.validate(event, schema)
            assert list(event) == list(kinds[event["event"]]["properties"])
            seen.add(event["event"])
    assert seen == set(kinds)


# --- the examples of --help ------------------------------------------------------------


def examples(epilog: str) -> list[str]:
    """The command lines of an epilog, without what two blanks set apart as a remark."""
    lines = epilog.partition("Examples:\n")[2].splitlines()
    return [re.split(r"\s{2,}", line.strip())[0] for line in lines if line.strip()]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder and a store with everything that an example names."""
    folder = tmp_path_factory.mktemp("examples")
    work = folder / "work"
    copy_tiny_store(work / "store")
    make = generator()
    make.write_chat(work / "llama-3.2-1b")
    tiny_gguf(work / "model.gguf")
    for place in ("personas", "home/.zfunc", "home/.config/fish/completions", "../models"):
        (work / place).mkdir(parents=True)
    (work / "home/.local/share/bash-completion/completions").mkdir(parents=True)
    settle()
    text = "FROM tiny\nSYSTEM You are Mario.\n"
    for name in ("Modelfile", "Modelfile.dev", "personas/mario.Modelfile"):
        (work / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        run = in_process(work, patch)
        for arguments in (
            ("-t", "mario"),
            ("cp", "mario", "mario:v2"),
            ("-t", "luigi", "-q", "q8_0"),
            ("export", "mario", "-o", "other.gguf"),
            ("export", "luigi", "-o", "theirs-Q4_K_M.gguf", "--raw"),
            ("lock", "-t", "mario"),
            ("sign", "mario", "--new-key", "mbuild.key"),
        ):
            done = run(*arguments)
            assert done.returncode == 0, done.stderr
        run("export", "mario", "-o", "mario.tar")
    return folder


ELSEWHERE = (
    *("serve", "run", "measure", "imatrix", "ps", "stop", "pull", "push", "login", "watch"),
    "lsp",
)
"""Commands whose examples other tests run: they need a server, a training run, an editor or a
model that can run."""


@pytest.mark.parametrize("name", ["mbuild", *(name for name in COMMANDS if name not in ELSEWHERE)])
def test_the_examples_of_help_run(
    name: str, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In their order, in a folder that has what they name; each ends with status 0."""
    shutil.copytree(prepared, tmp_path / "x", symlinks=True)
    work = tmp_path / "x" / "work"
    if name == "export":
        (work / "mario.tar").unlink()
    command = cli.get_command(click.Context(cli), name)
    lines = examples(EPILOG if command is None else command.epilog or "")
    assert lines
    run = in_process(work, monkeypatch)
    last = json.loads(run("history", "--last", "1", "--format", "json").stdout)["id"]
    identity = json.loads(run("show", "mario", "--json").stdout)["id"][:12]
    left_out = []
    for line in lines:
        line = re.sub(r"\b[0-9a-f]{12}\b", identity, line)  # a model's id, which is another one
        line = re.sub(r"\b[0-9a-f]{8}\b", last, line)  # and a build's
        if program := missing(line):
            left_out.append(f"{program} is not installed: $ {line}")
            continue
        if re.search(r"[|>$~]|^\w+=", line):
            status, output = in_a_shell(line, work)
        else:
            done = run(*shlex.split(line)[1:])
            status, output = done.returncode, done.stdout + done.stderr
        assert status == 0, f"$ {line}\n{output}"
    if left_out:
        pytest.skip("; ".join(left_out))


def shell(work: Path) -> dict[str, str]:
    """Variables of a shell that finds ``mbuild``; its home is in the folder."""
    program = work / "bin" / "mbuild"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mbuild "$@"\n')
    program.chmod(0o755)
    paths = f"{program.parent}:{os.environ['PATH']}"
    variables = {"PATH": paths, "HOME": str(work / "home")}
    return {**os.environ, **variables, "OLLAMA_MODELS": str(work / "store")}


def in_a_shell(line: str, work: Path) -> tuple[int, str]:
    """Run a line with redirections, pipes or variables; its status and what it printed."""
    done = subprocess.run(
        ["sh", "-c", line], cwd=work, env=shell(work), capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def test_the_examples_of_serve_run(tmp_path: Path) -> None:
    """Each serves until it is stopped; ports are replaced by free ones."""
    copy_tiny_store(tmp_path / "store")
    command = cli.get_command(click.Context(cli), "serve")
    assert command is not None
    lines = examples(command.epilog or "")
    assert lines
    for line in lines:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        line = line.replace("--port 11500", f"--port {port}")
        process = subprocess.Popen(
            ["sh", "-c", re.sub(r"\bmbuild\b", "exec mbuild", line, count=1)],
            env={**shell(tmp_path), "OLLAMA_HOST": "127.0.0.1:0"},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stderr is not None
            first = process.stderr.readline()
            assert first.startswith("serving "), first + process.stderr.read()
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
