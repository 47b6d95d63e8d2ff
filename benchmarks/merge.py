"""Checkpoints of 1.2 GB with adapters folded in to Q4_K_M, against the same without.

    python benchmarks/merge.py [--repeats 3] [--types BF16,F16,F32] [--work FOLDER]

The checkpoints are those of ``convert.py``, in each type (of F32 half as many weights); each
adapter has rank 16 and changes every linear layer. What is merged in F32 stays so until it is
quantized.
The builds of a type run in turn, each with an empty store; figures are medians.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
from common import (
    MBUILD,
    Program,
    arguments,
    generate,
    in_turn,
    machine,
    mib,
    remover,
    run_once,
    seconds,
    table,
    work_folder,
)

LAYERS = {"BF16": 16, "F16": 16, "F32": 6}
"""Layers of a checkpoint of 1.2 GB, by the type of its weights."""

RANK = 16
BOUND = 1.3


def adapter(folder: Path, source: Path, seed: int) -> Path:
    """An adapter for all linear layers."""
    from adapters import write_peft  # of tests/, which common put on the path

    random = np.random.default_rng(seed)
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


def build(work: Path, name: str, lines: str) -> Program:
    """A build with an empty store."""
    store, folder = work / "store-merged", work / name.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    (folder / "Modelfile").write_text(f"# syntax=mbuild/1\n{lines}", encoding="utf-8")
    command = (*MBUILD, "--store", str(store), "-t", "m", "--progress", "plain")
    return Program(name, [command], remover(store), folder=folder)


def measured(work: Path, dtype: str, repeats: int) -> list[list[str]]:
    """The rows of a type: none, one and two adapters."""
    source = work / f"checkpoint-{dtype}"
    if not source.exists():
        generate("checkpoint", source, LAYERS[dtype], dtype)
    lora = [adapter(work / f"adapter-{dtype}-{seed}", source, seed) for seed in (1, 2)]
    kept = "QUANTIZE q4_K_M" + (" OUTTYPE f32" if dtype == "F32" else "")
    programs = []
    for count, words in enumerate(("no adapter", "one adapter", "two adapters")):
        merges = "".join(f"MERGE {each}\n" for each in lora[:count])
        programs.append(build(work, f"{dtype} {words}", f"FROM {source}\n{merges}{kept}\n"))
    run_once(programs[-1])  # compiles the kernels
    runs = in_turn(programs, repeats, warm=False)
    plain = runs[programs[0].name]
    return [
        [
            name,
            *(seconds(x) for x in (found.wall, found.cpu)),
            found.spread,
            mib(found.peak),
            *(f"{x:.2f}" for x in (found.wall / plain.wall, found.cpu / plain.cpu)),
        ]
        for name, found in runs.items()
    ]


def main() -> None:
    """Build in turn, type after type: there is one checkpoint on the disk at a time."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--types", default=",".join(LAYERS), help="[default: all three]")
    parser.set_defaults(repeats=3)
    options = parser.parse_args()
    print(f"{machine()}; medians of {options.repeats}\n")
    rows = []
    with work_folder(options.work) as work:
        for dtype in options.types.split(","):
            rows += measured(work, dtype, options.repeats)
            if options.work is None:
                shutil.rmtree(work / f"checkpoint-{dtype}")
        remover(work / "store-merged")()
    print(table(["", "median", "CPU", "range", "peak", "times", "times the CPU"], rows))
    for words in ("one adapter", "two adapters"):
        worst = max(float(row[-2]) for row in rows if row[0].endswith(words))
        bound = f" (bound: {BOUND})" if words == "one adapter" else ""
        print(f"With {words} a build takes at most {worst:.2f} times the time{bound}.")


if __name__ == "__main__":
    main()
