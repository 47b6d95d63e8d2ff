"""A checkpoint of 1.2 GB with an adapter in it to Q4_K_M, against the same without.

    python benchmarks/merge.py [--repeats 5] [--work FOLDER]

The checkpoint is that of ``convert.py``; the adapter has rank 16 and changes every linear layer.
Both builds run in turn, each with an empty store; figures are medians.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from common import (
    MBUILD,
    Program,
    arguments,
    in_turn,
    machine,
    mib,
    remover,
    run_once,
    seconds,
    table,
    work_folder,
)
from convert import checkpoint

PLAIN, MERGED = "to Q4_K_M", "with an adapter folded in"
RANK = 16
BOUND = 1.3


def adapter(work: Path, source: Path) -> Path:
    """An adapter for all linear layers."""
    folder = work / "adapter"
    if (folder / "adapter_config.json").exists():
        return folder
    from adapters import write_peft  # of tests/, which common put on the path

    random = np.random.default_rng(1)
    pairs = {}
    for path in sorted(source.glob("*.safetensors")):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        for name, entry in header.items():
            if re.search(r"(?:self_attn|mlp)\.\w+_proj\.weight$", name):
                rows, columns = entry["shape"]
                pairs[name.removesuffix(".weight")] = (
                    random.normal(0, 0.02, (RANK, columns)).astype(np.float32),
                    random.normal(0, 0.02, (rows, RANK)).astype(np.float32),
                )
    return write_peft(folder, pairs, rank=RANK, alpha=2 * RANK)


def build(work: Path, name: str, source: Path, lines: str) -> Program:
    """A build with an empty store."""
    store, folder = work / "store-merged", work / name.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    text = f"# syntax=mbuild/1\nFROM {source}\n{lines}QUANTIZE q4_K_M\n"
    (folder / "Modelfile").write_text(text, encoding="utf-8")
    command = (*MBUILD, "--store", str(store), "-t", "m", "--progress", "plain")
    return Program(name, [command], remover(store), folder=folder)


def main() -> None:
    """Build in turn."""
    options = arguments(__doc__ or "").parse_args()
    print(f"{machine()}; medians of {options.repeats}\n")
    with work_folder(options.work) as work:
        source = checkpoint(work)
        line = f"MERGE {adapter(work, source)}\n"
        programs = [build(work, PLAIN, source, ""), build(work, MERGED, source, line)]
        for program in programs:
            run_once(program)  # compiles the kernels
        runs = in_turn(programs, options.repeats, warm=False)
        rows = [
            [name, *(seconds(x) for x in (found.wall, found.cpu)), found.spread, mib(found.peak)]
            for name, found in runs.items()
        ]
        print(table(["", "median", "CPU", "range", "peak"], rows))
        wall, cpu = runs[MERGED].wall / runs[PLAIN].wall, runs[MERGED].cpu / runs[PLAIN].cpu
        print(f"The adapter takes {wall:.2f} times the time (bound: {BOUND}), {cpu:.2f} the CPU's.")
        remover(work / "store-merged")()


if __name__ == "__main__":
    main()
