"""docs/scripts.md: each of its Modelfiles is built by the commands below it, as they stand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from adapters import factors, write_peft
from documents import DOCS
from example_models import settle, write_chat
from quant_data import imatrix_bytes
from registries import docker_registry

from mbuild.convert.checkpoint import open_checkpoint
from mbuild.convert.convert import convert_body
from mbuild.convert.read.dtypes import OutType

PAGE = (DOCS / "scripts.md").read_text(encoding="utf-8")
_SECTION = re.compile(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
SECTIONS: dict[str, str] = dict(_SECTION.findall(PAGE))

Q = {f"model.layers.{n}.self_attn.q_proj": (256, 256) for n in range(2)}
DOWN = {"model.layers.1.mlp.down_proj": (256, 512)}
REGISTRY = "registry.example.com"


def adapter(folder: Path, seed: int) -> None:
    """An adapter for the checkpoint."""
    write_peft(folder, factors(Q if seed == 1 else DOWN, 4, seed), rank=4, alpha=8)


def importances(checkpoint: Path) -> bytes:
    """An importance matrix of ones for every matrix of a checkpoint."""
    files = {path.name: path for path in checkpoint.iterdir()}
    body = convert_body(open_checkpoint("m", files), OutType.AUTO)
    ones = {
        tensor.name: (np.ones((1, tensor.dims[0]), np.float32), np.ones(1, np.float32))
        for tensor in body.tensors
        if len(tensor.dims) > 1
    }
    return imatrix_bytes(ones)


def fine_tune(folder: Path) -> None:
    """A base, a checkpoint of a training, a text."""
    write_chat(folder / "llama-3.2-1b")
    adapter(folder / "output/checkpoint-900", 1)
    (folder / "system.txt").write_text("You help.\n")


def matrix(folder: Path) -> None:
    """A base, and an importance matrix for it."""
    (folder / "imatrix.gguf").write_bytes(importances(write_chat(folder / "llama-3.2-1b")))


def two_adapters(folder: Path) -> None:
    """A base and two adapters."""
    write_chat(folder / "base")
    adapter(folder / "lora-chat", 1)
    adapter(folder / "lora-code", 2)


def in_ci(folder: Path) -> None:
    """A checkpoint and a licence."""
    write_chat(folder / "checkpoint")
    (folder / "LICENSE").write_text("MIT\n")


def personas(folder: Path) -> None:
    """A model called llama3.2 in the store, and a licence."""
    write_chat(folder / "chat")
    run(folder, "echo 'FROM ./chat' | mbuild -f - -q q8_0 -t llama3.2 --quiet")
    (folder / "LICENSE").write_text("MIT\n")


NAMES = {
    "Fine-tune and publish": (fine_tune, "support:q4_K_M support:q8_0"),
    "A matrix of quantizations": (
        matrix,
        "mine:full-q4_K_M mine:full-q5_K_M mine:full-q6_K mine:full-q8_0 mine:full-iq2_xs"
        " mine:full-iq3_xxs mine:full-q4_K_S mine:short-q4_K_M mine:short-q8_0",
    ),
    "Two adapters in one model": (two_adapters, "blend:code-0.3 blend:code-0.5 blend:code-0.7"),
    "In CI": (in_ci, "app:1.2"),
    "A farm of personas": (personas, "personas:mario personas:ada llama3.2:latest"),
}
"""Of each section what lies in the folder before, and the models that there are in the end."""


def run(folder: Path, command: str) -> str:
    """What a command line prints; it has to succeed."""
    program = folder.parent / "bin/mbuild"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mbuild "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "OLLAMA_MODELS": str(folder.parent / "store"),
        "MBUILD_THREADS": "2",
    }
    done = subprocess.run(
        ["sh", "-ec", command], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def blocks(section: str, language: str) -> list[str]:
    """A section's blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[section], re.MULTILINE | re.DOTALL)


def written(section: str, folder: Path) -> None:
    """The section's files: its Modelfile, and those whose name stands before them."""
    first, *others = blocks(section, "dockerfile")
    (folder / "Modelfile").write_text(first)
    named = re.findall(r"^`(\S+)`:\n\n```dockerfile$", SECTIONS[section], re.MULTILINE)
    assert len(named) == len(others)
    for name, text in zip(named, others, strict=True):
        (folder / name).write_text(text)


@pytest.mark.parametrize("section", SECTIONS)
def test_each_workflow_does_what_it_says(section: str, tmp_path: Path) -> None:
    """The commands succeed one after another, and the models are there."""
    prepare, names = NAMES[section]
    folder = tmp_path / "work"
    folder.mkdir()
    prepare(folder)
    written(section, folder)
    settle()
    (commands,) = blocks(section, "sh")
    if REGISTRY in commands:
        with docker_registry(tmp_path / "registry") as host:
            found = models_after(folder, commands.replace(REGISTRY, host))
            found = [name.removeprefix(f"{host}/me/") for name in found]
    else:
        found = models_after(folder, commands)
    assert sorted(found) == sorted(names.split())


def models_after(folder: Path, commands: str) -> list[str]:
    """The names of the store's models once the commands ran."""
    run(folder, commands)
    return [each["name"] for each in json.loads(run(folder, "mbuild list --format json"))]
