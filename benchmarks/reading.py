"""What a build reads, and what it holds in memory: each byte of the source once, few at a time.

    python benchmarks/reading.py [--layers 16] [--experts 64] [--work FOLDER]

The checkpoint of ``convert.py`` is converted and quantized with its files in memory and, after
they were dropped from it, from the disk; then quantized is a mixture of experts whose largest
tensor has so many matrices of 64 MiB (64: 4.3 GB; its file has holes, and takes no room
on the disk). Bytes are the kernel's counts for the whole process (``/proc/PID/io``): modules,
the vocabulary and the result's header are among them. Memory is on all cores; the bound is
1 GiB and 64 MiB a thread.
"""

from __future__ import annotations

import os
from pathlib import Path

from common import (
    MBUILD,
    MIB,
    Program,
    arguments,
    generate,
    machine,
    mib,
    remover,
    run_once,
    seconds,
    table,
    work_folder,
)

THREE = ("q4_K_M", "q5_K_M", "q8_0")
BUILDS = {"conversion": (), "to Q4_K_M": ("q4_K_M",), "to three types": THREE}


def build(work: Path, source: str, types: tuple[str, ...]) -> Program:
    """A build with an empty store."""
    store, folder = work / "store-reading", work / f"from-{source}"
    folder.mkdir(exist_ok=True)
    (folder / "Modelfile").write_text(f"FROM ../{source}\n", encoding="utf-8")
    options = [word for type_ in types for word in ("-q", type_)]
    command = (*MBUILD, "--store", str(store), "-t", "m", "--progress", "plain", *options)
    return Program(source, [command], remover(store), folder=folder)


def drop(folder: Path) -> None:
    """Let the system forget the pages of a folder's files."""
    for path in folder.iterdir():
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def size_of(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir())


def row(name: str, work: Path, source: str, types: tuple[str, ...], *, cold: bool) -> list[str]:
    """A line of the table; before it the files are read once, or forgotten."""
    folder, program = work / source, build(work, source, types)
    if cold:
        drop(folder)
    else:
        for path in folder.iterdir():
            with path.open("rb") as file:
                while file.read(16 * MIB):
                    pass
    run, size = run_once(program), size_of(folder)
    bound = 1024 + 64 * len(os.sched_getaffinity(0))
    counts = [f"{run.read / size:.3f}", f"{run.fetched / size:.3f}"]
    peak = f"{run.peak / MIB:.0f} of {bound} MiB"
    state = "cold" if cold else "warm"
    return [name, state, f"{size / 1e9:.2f} GB", *counts, seconds(run.wall), peak]


def main() -> None:
    """The table."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--layers", type=int, default=16, help="of the checkpoint  [default: 16]")
    parser.add_argument("--experts", type=int, default=64, help="of the largest  [default: 64]")
    options = parser.parse_args()
    print(f"{machine()}\n")
    head = ["build", "files", "source", "read", "from the disk", "time", "peak memory"]
    lines = []
    with work_folder(options.work) as work:
        if not (work / "checkpoint").exists():
            generate("checkpoint", work / "checkpoint", options.layers)
        run_once(build(work, "checkpoint", THREE))  # compiles the kernels
        for name, types in BUILDS.items():
            lines += [row(name, work, "checkpoint", types, cold=cold) for cold in (False, True)]
        moe, largest = work / f"moe-{options.experts}", mib(options.experts * 64 * MIB)
        generate("moe", moe, options.experts)
        name = f"experts to Q4_K_M, largest tensor {largest}"
        lines.append(row(name, work, moe.name, ("q4_K_M",), cold=False))
        print(table(head, lines))
        remover(work / "store-reading", moe)()


if __name__ == "__main__":
    main()
