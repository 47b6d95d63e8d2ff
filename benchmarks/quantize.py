"""A checkpoint of 1.2 GB to Q4_K_M, against llama.cpp's converter plus llama-quantize.

    python benchmarks/quantize.py [--repeats 5] [--work FOLDER]

The checkpoint is that of ``convert.py``. llama-quantize is ``llama_model_quantize`` of PyPI's
``llama-cpp-py-sync``, in a process of its own with as many threads as there are cores.
All programs run in turn; figures are medians. mbuild starts with an empty store each time; its
compiled kernels are in their cache, as after the first quantization on a machine. Before
anything is measured, both files are compared byte for byte.
"""

from __future__ import annotations

import filecmp
import os
import statistics
from pathlib import Path

from common import (
    MBUILD,
    QUANTIZER,
    Program,
    Runs,
    arguments,
    environment_with,
    generate,
    in_turn,
    llama_cpp,
    machine,
    mib,
    remover,
    run_once,
    seconds,
    table,
    work_folder,
)
from convert import PACKAGES, checkpoint, converter

Q4_K_M = 15
"""Its number among llama.cpp's file types."""

ONE, THREE, SMALL = "mbuild -q q4_K_M", "mbuild -q q4_K_M -q q5_K_M -q q8_0", "the same, 3 MB"
THEIRS = "convert_hf_to_gguf, llama-quantize"
LARGEST = 2048 * 32000 * 2
LIMIT = (500 << 20) + 2 * LARGEST
"""The bound on peak memory: 500 MB and two of the largest tensors."""


def ours(work: Path, name: str, source: Path, *types: str) -> Program:
    """A build with an empty store."""
    store, folder = work / "store-quantized", work / f"from-{source.name}"
    folder.mkdir(exist_ok=True)
    (folder / "Modelfile").write_text(f"FROM {source}\n", encoding="utf-8")
    options = [word for type_ in types for word in ("-q", type_)]
    command = (*MBUILD, "--store", str(store), "-t", "m", "--progress", "plain", *options)
    return Program(name, [command], remover(store), folder=folder)


def reference(work: Path, source: Path) -> Program | None:
    """llama.cpp's two programs; None where they cannot be installed."""
    python, folder = environment_with(work / "llama.cpp", *PACKAGES), llama_cpp(work)
    if python is None or folder is None:
        return None
    whole, small = work / "theirs-bf16.gguf", work / "theirs.gguf"
    threads = str(os.cpu_count() or 1)
    command = [*QUANTIZER, str(folder), str(whole), str(small), str(Q4_K_M), threads]
    both = [converter(python, source, whole), command]
    return Program(THEIRS, both, remover(whole, small))


def same_bytes(work: Path) -> None:
    """Exit unless mbuild's layer is llama-quantize's file."""
    blobs = (work / "store-quantized/blobs").iterdir()
    layer = max(blobs, key=lambda path: path.stat().st_size)
    if not filecmp.cmp(layer, work / "theirs.gguf", shallow=False):
        raise SystemExit("llama-quantize's file differs from mbuild's")
    print("llama-quantize's file and mbuild's layer are equal byte for byte.\n")


def row(name: str, runs: dict[str, Runs]) -> list[str]:
    """One line of the table."""
    found = runs[name]
    faster = f"{runs[THEIRS].wall / found.wall:.1f}" if THEIRS in runs else "not measured"
    memory = mib(found.peak) + (", over" if "mbuild" in name and found.peak > LIMIT else "")
    times = [seconds(found.wall), found.spread, seconds(found.cpu)]
    return [name, *times, "" if name == SMALL else faster, memory]


def main() -> None:
    """Quantize in turn."""
    options = arguments(__doc__ or "").parse_args()
    print(f"{machine()}; medians of {options.repeats}\n")
    with work_folder(options.work) as work:
        source, small = checkpoint(work), work / "small.gguf"
        if not small.exists():
            generate("gguf", small, 3)
        first = ours(work, ONE, source, "q4_K_M")
        run_once(first)  # compiles the kernels
        theirs = reference(work, source)
        if theirs is not None:
            run_once(theirs)
            same_bytes(work)
        three = ours(work, THREE, source, "q4_K_M", "q5_K_M", "q8_0")
        fixed = ours(work, SMALL, small, "q4_K_M")
        programs = [first, three, fixed, *([theirs] if theirs else [])]
        runs = in_turn(programs, options.repeats, warm=False)
        head = ["", "median", "range", "CPU", "both programs' time to it", "peak"]
        print(table(head, [row(name, runs) for name in runs]))
        print(f"Three types take {runs[THREE].wall / runs[ONE].wall:.2f} times as long as one")
        print(f"(bound: 2). Limit of peak memory: {mib(LIMIT)}.")
        if theirs is not None:
            alone = statistics.median(run.parts[1] for run in runs[THEIRS])
            print(f"llama-quantize alone took {seconds(alone)}, from the BF16 file.")
        remover(*work.glob("theirs*.gguf"), work / "store-quantized")()


if __name__ == "__main__":
    main()
