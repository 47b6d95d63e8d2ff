"""A matrix of three stages by three types, killed again and again, and gone on with.

``MBUILD_TEST_KILLS=10`` kills at ten moments, spread over the whole build.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from adapters import factors, write_peft
from example_models import write_chat

KILLS = int(os.environ.get("MBUILD_TEST_KILLS", "3"))

TEXT = """# syntax=mbuild/1
FROM ./chat AS base
QUANTIZE q4_0 q5_0 q8_0
FROM base AS tuned
MERGE ./lora
SYSTEM You are tuned.
QUANTIZE q4_0 q5_0 q8_0
FROM tuned AS small
PARAMETER num_ctx 2048
QUANTIZE q4_0 q5_0 q8_0
"""

CHILD = """
import os, signal, sys
from itertools import count

moment, arguments = int(sys.argv[1]), sys.argv[2:]
numbers = count(1)

def counted(real):
    def put(*given, **options):
        if next(numbers) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **options)
    return put

for name in ("replace", "rename", "link"):
    setattr(os, name, counted(getattr(os, name)))
from mbuild.cli.main import run
status = run(arguments)
print("moments", next(numbers) - 1)
sys.exit(status)
"""
"""A build that dies the moment before it puts its n-th file into its place."""

ARGUMENTS = ("--quiet", "-t", "m:{target}-{quant}", "--target", "all")


def build(folder: Path, store: str, moment: int = 0) -> subprocess.CompletedProcess[str]:
    """Build in a process of its own, which is killed at a moment unless that is 0."""
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(moment), *ARGUMENTS],
        cwd=folder,
        env={**os.environ, "OLLAMA_MODELS": str(folder / store), "MBUILD_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkpoint, an adapter for it, and the Modelfile."""
    shapes = {f"model.layers.{n}.self_attn.q_proj": (256, 256) for n in range(2)}
    write_peft(tmp_path / "lora", factors(shapes, 4, 1), rank=4, alpha=8)
    write_chat(tmp_path / "chat")
    (tmp_path / "Modelfile").write_text(TEXT)
    return tmp_path


def models(folder: Path, store: str) -> dict[str, str]:
    """The models that have a name, each with its weights' digest; their blobs have to be there."""
    found = {}
    for path in (folder / store / "manifests").rglob("m/*"):
        layers = json.loads(path.read_text())["layers"]
        digest = next(x["digest"] for x in layers if x["mediaType"].endswith(".model"))
        assert all(
            (folder / store / "blobs" / x["digest"].replace(":", "-")).stat().st_size == x["size"]
            for x in layers
        )
        found[path.name] = digest
    return found


def test_a_killed_matrix_comes_out_as_if_nothing_had_been(project: Path) -> None:
    """Whenever it is killed, no name is half made, and in the end nine models are the same."""
    whole = build(project, "whole")
    assert whole.returncode == 0, whole.stderr
    *ids, last = whole.stdout.splitlines()
    wanted, total = models(project, "whole"), int(last.removeprefix("moments "))
    assert len(wanted) == len(ids) == 9 and total > KILLS
    for number in range(KILLS):  # each goes on where the one before was killed
        done = build(project, "store", max(2, total // (KILLS + 1)))
        assert done.returncode == -9, f"{done.stderr} at kill {number}"
        assert models(project, "store").items() <= wanted.items()
    done = build(project, "store")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:-1] == ids
    assert models(project, "store") == wanted
    assert not list((project / "store/.mbuild/tmp").glob("*"))
