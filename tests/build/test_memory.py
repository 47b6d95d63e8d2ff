"""Memory of builds: pieces of tensors, however large the tensors are."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from adapters import factors, write_peft

INPUTS = Path(__file__).parents[2] / "benchmarks" / "inputs.py"
EXPERTS, HIDDEN, FFN = 56, 1024, 4096
LARGEST = 2 * EXPERTS * HIDDEN * FFN
"""Bytes of each of the three tensors of experts: 448 MiB, which is more than two threads take."""


@pytest.fixture
def experts(tmp_path: Path) -> Path:
    """A folder with a mixture of experts of 1.5 GB, in a file with holes, and a Modelfile."""
    spec = importlib.util.spec_from_file_location("inputs", INPUTS)
    assert spec is not None and spec.loader is not None
    inputs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inputs)
    inputs.MOE_HIDDEN, inputs.MOE_FFN = HIDDEN, FFN
    inputs.write_moe(tmp_path / "experts", EXPERTS)
    (tmp_path / "Modelfile").write_text("FROM ./experts\n")
    return tmp_path


def adapter_of_all_experts(folder: Path) -> None:
    """A LoRA adapter as PEFT saves it, of 52 MiB."""
    at = "model.layers.0.block_sparse_moe.experts"
    sizes = {"w1": (FFN, HIDDEN), "w3": (FFN, HIDDEN), "w2": (HIDDEN, FFN)}
    shapes = {f"{at}.{n}.{name}": size for n in range(EXPERTS) for name, size in sizes.items()}
    write_peft(folder, factors(shapes, 16, 1), rank=16, alpha=32)


PEAK = """
import re, sys
from mbuild.cli.main import run
status = run(sys.argv[1:])
# Not ru_maxrss: a child inherits its parent's.
print("peak", re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
sys.exit(status)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
@pytest.mark.parametrize(
    "options", [[], ["-q", "q4_K_M"], ["-q", "q4_0", "-q", "q8_0"], ["-f", "Merged"]]
)
def test_a_tensor_need_not_fit_into_memory(options: list[str], experts: Path) -> None:
    """A build takes less than the model's largest tensor, and less than ``plan`` says before.

    So does one that folds an adapter of rank 16 into each expert.
    """
    command = [*options, "--store", "store", "-t", "m", "--threads", "2"]
    if "Merged" in options:
        adapter_of_all_experts(experts / "lora")
        lines = "# syntax=mbuild/1\nFROM ./experts\nMERGE ./lora\n"
        (experts / "Merged").write_text(lines)

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=experts,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    planned = json.loads(run("-m", "mbuild", "plan", *command, "--format", "json"))["memory"]
    assert planned <= (1 << 30) + 2 * (64 << 20)
    assert planned <= LARGEST
    peak = 1024 * int(run("-c", PEAK, *command, "--progress", "quiet").split()[-1])
    assert peak < LARGEST
    assert peak < planned
