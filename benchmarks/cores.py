"""One build on 1, 2, 4 ... threads up to the machine's cores, against llama-quantize on as many.

    python benchmarks/cores.py [--layers 16] [--repeats 3] [--work FOLDER]

The checkpoint is that of ``convert.py`` with so many layers (1.2 GB with 16, 6.2 GB with 101).
Each row builds it to Q4_K_M with an empty store and ``--threads N``, and has the seconds in which
the disk, the digest and the cores were what the file waited for; llama-quantize starts
from the finished BF16 GGUF file, is ``llama_model_quantize`` of PyPI's ``llama-cpp-py-sync``,
runs once on fewer threads than all, and is left out where that cannot be had. Then, on all
cores: three types in one build, the conversion alone against ``cp`` and ``sync`` and against a
SHA-256 of the same bytes in memory, and the kernels alone. All files made by one command have
one digest, or the program stops.

The last tables, on Linux, have the CPU seconds of each kind of thread in a build on 16 threads,
whatever the machine. Only what works on ranges of rows can be shared out; from that follows, by
computation, what more cores would allow.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from common import (
    MBUILD,
    QUANTIZER,
    Program,
    Runs,
    arguments,
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

from mbuild.work.limits import CORES, DISK, HASH

Q4_K_M = 15
"""Its number among llama.cpp's file types."""

THREE = ("q4_K_M", "q5_K_M", "q8_0")
KERNELS = ("Q4_K", "Q6_K", "Q8_0")
ROW, PIECE, WEIGHTS = 4096, 1 << 23, 1 << 27


def ladder() -> list[int]:
    """1, 2, 4 ... and the number of cores."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    powers = [1 << n for n in range(16) if 1 << n < (count or 1)]
    return [*powers, count or 1]


def build(work: Path, name: str, threads: int, *types: str) -> Program:
    """A build with an empty store."""
    store, folder = work / "store-cores", work / "from-checkpoint"
    folder.mkdir(exist_ok=True)
    (folder / "Modelfile").write_text("FROM ../checkpoint\n", encoding="utf-8")
    options = [word for type_ in types for word in ("-q", type_)]
    command = (*MBUILD, "--store", str(store), "-t", "m", "--progress", "plain", *options)
    return Program(name, [(*command, "--threads", str(threads))], remover(store), folder=folder)


def quantized_by_llama_cpp(work: Path, threads: int, folder: Path) -> Program:
    """llama-quantize, as a function of the wheel, in a process of its own."""
    files = [str(work / "whole.gguf"), str(work / "theirs.gguf")]
    command = [*QUANTIZER, str(folder), *files, str(Q4_K_M), str(threads)]
    return Program(f"llama-quantize, {threads}", [command], remover(work / "theirs.gguf"))


def weights_of(work: Path) -> Path:
    """The largest blob of the last build."""
    return max((work / "store-cores/blobs").iterdir(), key=lambda path: path.stat().st_size)


def waited(program: Program) -> str:
    """Seconds in which the disk, the digest and the cores held a build's weights up."""
    program.before()
    command = ["json" if word == "plain" else word for word in program.commands[0]]
    done = subprocess.run(
        command, cwd=program.folder, stdout=subprocess.PIPE, text=True, check=True
    )
    events = map(json.loads, done.stdout.splitlines())
    limits = [event["limits"] for event in events if event.get("limits")]
    return ", ".join(f"{sum(each[what] for each in limits):.2f}" for what in (DISK, HASH, CORES))


def rows(
    found: dict[str, Runs], counts: Sequence[int], waits: Mapping[int, str]
) -> list[list[str]]:
    """A line for each number of threads."""
    first = found["mbuild, 1"].wall
    lines = []
    for count in counts:
        ours, theirs = found[f"mbuild, {count}"], found.get(f"llama-quantize, {count}")
        ratio = [seconds(theirs.wall), f"{theirs.wall / ours.wall:.1f}"] if theirs else ["", ""]
        speed = f"{first / ours.wall:.1f}"
        cells = [str(count), seconds(ours.wall), speed, seconds(ours.cpu), mib(ours.peak)]
        cells += [waits[count], *ratio]
        lines.append(cells)
    return lines


def sha256(path: Path) -> float:
    """Seconds for a SHA-256 of a file's bytes, once they are in memory."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass
    state, total = hashlib.sha256(), 0.0
    with path.open("rb") as file:
        while data := file.read(1 << 26):
            started = time.perf_counter()
            state.update(data)
            total += time.perf_counter() - started
    return total


def copied(source: Path, target: Path) -> float:
    """Seconds for ``cp`` and ``sync`` of a file that is in memory."""
    target.unlink(missing_ok=True)
    started = time.perf_counter()
    subprocess.run(["cp", str(source), str(target)], check=True)
    subprocess.run(["sync", str(target)], check=True)
    return time.perf_counter() - started


def kernels(counts: Sequence[int]) -> list[list[str]]:
    """Millions of weights a second from BF16, by ranges as a build takes them."""
    import numpy as np

    from mbuild.gguf.types import GGMLType
    from mbuild.quant.quantize import prepare, quantize

    values = np.random.default_rng(0).standard_normal(PIECE, dtype=np.float32) * np.float32(0.02)
    piece: Any = (values.view(np.uint32) >> 16).astype(np.uint16)
    lines = []
    for name in KERNELS:
        type_ = GGMLType[name]
        prepare([type_])
        work = partial(quantize, type_, GGMLType.BF16, piece, ROW)
        speeds = [_speed(work, count) for count in counts]
        scale = f"{speeds[-1] / speeds[0]:.1f}"
        lines.append([name, *(f"{speed:,.0f}" for speed in speeds), scale])
    return lines


def _speed(work: Callable[[], object], threads: int) -> float:
    """The best of three: millions of weights a second on so many threads."""
    jobs, best = max(threads * 4, WEIGHTS // PIECE), 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(3):
            started = time.perf_counter()
            for future in [pool.submit(work) for _ in range(jobs)]:
                future.result()
            best = max(best, jobs * PIECE / (time.perf_counter() - started) / 1e6)
    return best


PROFILE = """
import json, sys, threading, time
from mbuild.cli.main import run
seconds, names, over = {}, {}, False
def look():
    for thread in threading.enumerate():
        if thread is sampler:
            continue
        try:
            with open(f"/proc/self/task/{thread.native_id}/schedstat") as file:
                seconds[thread.native_id] = int(file.read().split()[0]) / 1e9
        except OSError:
            continue
        names[thread.native_id] = thread.name.removeprefix("mbuild-").rstrip("-_0123456789")
def watch():
    while not over:
        look()
        time.sleep(0.003)
sampler = threading.Thread(target=watch, daemon=True)
start = time.process_time()
sampler.start()
status = run(sys.argv[1:])
over = True
look()
seconds[threading.main_thread().native_id] -= start
found = [(names[number], spent) for number, spent in seconds.items()]
print("threads", json.dumps([("start", start), *found]))
"""
"""A build that tells the CPU seconds of its threads by their names."""

MANY = 16
"""Threads of a build whose threads are looked at: with so many each digest has one of its own."""

SHARED = "work"
"""The threads that read ranges, digest them, look them up and quantize them."""


def profile(work: Path, threads: int, *types: str) -> list[tuple[str, float]]:
    """What each thread of a build does, and its CPU seconds; the least of three builds."""
    program = build(work, "profile", threads, *types)
    runs: list[list[tuple[str, float]]] = []
    for _ in range(3):
        program.before()
        words = program.commands[0][len(MBUILD) :]
        done = subprocess.run(
            [sys.executable, "-c", PROFILE, *words],
            cwd=program.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            check=True,
        )
        runs.append(json.loads(done.stdout.rpartition("threads ")[2]))
    return min(runs, key=lambda run: sum(spent for _, spent in run))


def serial(
    spent: list[tuple[str, float]], counts: Sequence[int]
) -> tuple[list[list[str]], list[str]]:
    """A line for each kind of thread, and what the build takes at least on so many cores."""
    kinds: dict[str, float] = {}
    for name, cpu in spent:
        kinds[name] = kinds.get(name, 0) + cpu
    total = sum(kinds.values())
    lines = [
        [name, f"{cpu:.2f} s", f"{100 * cpu / total:.0f} %"]
        for name, cpu in sorted(kinds.items(), key=lambda item: -item[1])
    ]
    alone = max(cpu for name, cpu in spent if name not in (SHARED, "start"))
    least = [
        max(total / count, kinds["start"] + max(alone, kinds[SHARED] / count)) for count in counts
    ]
    return lines, [f"{count}: {bound:.2f} s" for count, bound in zip(counts, least, strict=True)]


def main() -> None:
    """Everything in turn; one table each."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--layers", type=int, default=16, help="of the checkpoint  [default: 16]")
    options = parser.parse_args()
    counts = ladder()
    print(f"{machine()}; medians of {options.repeats}\n")
    with work_folder(options.work) as work:
        if not (work / "checkpoint").exists():
            generate("checkpoint", work / "checkpoint", options.layers)
        convert = build(work, "convert", counts[-1])
        run_once(convert)
        weights_of(work).rename(work / "whole.gguf")
        run_once(build(work, "warm", counts[-1], *THREE))  # compiles the kernels
        programs = [build(work, f"mbuild, {n}", n, "q4_K_M") for n in counts]
        folder = llama_cpp(work)
        if folder is not None:
            programs += [quantized_by_llama_cpp(work, n, folder) for n in counts[-1:]]
        found = in_turn(programs, options.repeats, warm=False)
        if folder is not None:
            fewer = [quantized_by_llama_cpp(work, n, folder) for n in counts[:-1]]
            found |= in_turn(fewer, 1, warm=False)
        waits = {n: waited(build(work, "waited", n, "q4_K_M")) for n in counts}
        head = ["threads", "Q4_K_M", "times 1 thread", "CPU", "peak", "disk, digest, cores, s"]
        print(table([*head, "llama-quantize", "ratio"], rows(found, counts, waits)))
        one, three = (
            build(work, "one", counts[-1], "q4_K_M"),
            build(work, "three", counts[-1], *THREE),
        )
        pair = in_turn([one, three, convert], options.repeats, warm=False)
        ratio = pair["three"].wall / pair["one"].wall
        print(f"Three types: {seconds(pair['three'].wall)}, {ratio:.2f} times one (bound: 1.7).")
        limits = [copied(work / "whole.gguf", work / "copy.gguf") for _ in range(options.repeats)]
        digest, copy = sha256(work / "whole.gguf"), sorted(limits)[len(limits) // 2]
        slower = pair["convert"].wall / max(digest, copy)
        print(
            f"Conversion: {seconds(pair['convert'].wall)}; cp and sync {seconds(copy)}, SHA-256"
            f" {seconds(digest)}: {slower:.2f} times the slower (bound: 1.15).\n"
        )
        head = ["M weights/s", *map(str, counts), f"{counts[-1]} to 1"]
        print(table(head, kernels(counts)))
        kinds = (("Q4_K_M", ["q4_K_M"]), ("three types", THREE), ("conversion", []))
        for what, types in kinds if Path("/proc/self/task").exists() else ():
            lines, least = serial(profile(work, MANY, *types), [1, 2, 4, 8, MANY])
            print(table([f"threads of {what}", "CPU", "of all"], lines))
            print(f"Computed, at least, on so many cores: {', '.join(least)}.\n")
        remover(work / "store-cores", *work.glob("*.gguf"))()


if __name__ == "__main__":
    main()
