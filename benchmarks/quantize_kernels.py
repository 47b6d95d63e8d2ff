"""Quantization kernels against ggml's, interleaved in one run; prints a Markdown table.

    python benchmarks/quantize_kernels.py [--weights 16] [--repeats 5] [--types Q4_K,Q8_0]
    python benchmarks/quantize_kernels.py --cpu --threads 1 --sources F32 --weights 1

The reference is ``ggml_quantize_chunk`` of PyPI's ``llama-cpp-py-sync``, which is installed
into ``--work`` where it is not there, driven by as many threads over pieces of the same rows;
from F16 and BF16 it is given, as llama-quantize gives it, float32 that ggml's own conversion
made within the measured time. Types that need an importance matrix get one. Each figure is
the median of the repeats, in millions of weights a second; with ``--cpu`` it is the best of
them by the CPU time of this process, for a machine that has other work too.
"""

from __future__ import annotations

import argparse
import ctypes
import platform
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import llama_cpp, work_folder
from llama_library import load

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.choose.rules import NEEDS_IMPORTANCES
from mbuild.quant.quantize import engine, prepare, quantize
from mbuild.quant.table import TYPES as ROWS

G = GGMLType
TYPES = ",".join(type_.name for type_ in ROWS if type_ is not G.F32)
ROW = 4096
PIECE = 1 << 18
WIDEN = {G.F16: "ggml_fp16_to_fp32_row", G.BF16: "ggml_bf16_to_fp32_row"}


def declared(lib: Any) -> Any:
    """The library with the arguments of its functions."""
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, *[number] * 3, pointer]
    for name in WIDEN.values():
        getattr(lib, name).argtypes = [pointer, pointer, number]
    return lib


def importances(type_: G) -> Any:
    """Importances for a row, of the types that users only get with an importance matrix."""
    if type_ not in NEEDS_IMPORTANCES:
        return None
    return (np.random.default_rng(1).random(ROW) ** 2).astype(np.float32)


def reference(lib: Any, type_: G, source: G, data: Any, out: Any, threads: int) -> None:
    """ggml's functions over pieces of the rows, on ``threads`` threads."""
    block, q = BLOCKS[type_], importances(type_)
    given = None if q is None else q.ctypes.data

    def piece(first: int) -> None:
        count = min(PIECE, data.size - first)
        place = data.ctypes.data + first * data.itemsize
        if source in WIDEN:
            wide = np.empty(count, np.float32)
            getattr(lib, WIDEN[source])(place, wide.ctypes.data, count)
            place = wide.ctypes.data
        to = out.ctypes.data + first // block.weights * block.size
        lib.ggml_quantize_chunk(int(type_), place, to, 0, count // ROW, ROW, given)

    starts = range(0, data.size, PIECE)
    if threads == 1:
        for first in starts:
            piece(first)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(piece, starts))


def timed(function: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    function()
    return clock() - start


def compare(
    lib: Any, type_: G, source: G, data: Any, threads: int, repeats: int, cpu: bool
) -> tuple[float, float]:
    """Seconds of the reference and of this project's kernels, taken in turn."""
    out = np.zeros(data.size // BLOCKS[type_].weights * BLOCKS[type_].size, np.uint8)
    q = importances(type_)
    ours = quantize(type_, source, data, ROW, imatrix=q, threads=threads)

    def run() -> None:
        quantize(type_, source, data, ROW, imatrix=q, threads=threads, out=ours)

    reference(lib, type_, source, data, out, threads)
    if not np.array_equal(ours, out):
        raise SystemExit(f"{type_.name} from {source.name}: bytes differ")
    theirs, mine = [], []
    clock = time.process_time if cpu else time.perf_counter
    for _ in range(repeats):
        theirs.append(timed(lambda: reference(lib, type_, source, data, out, threads), clock))
        mine.append(timed(run, clock))
    best = min if cpu else statistics.median
    return best(theirs), best(mine)


def machine() -> str:
    """CPU name, its vector instructions, and what compiled the kernels."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    vectors = next((v for v in ("avx512f", "avx2", "sse2", "neon") if features.get(v)), "none")
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name} ({binding.get_host_cpu_name()}, {vectors}), {len(names)} cores, {engine().name}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=int, default=16, help="millions of weights")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--sources", default="F32,F16,BF16")
    parser.add_argument("--work", type=Path, help="folder for the reference, kept")
    parser.add_argument("--cpu", action="store_true", help="the least CPU time, not the median")
    args = parser.parse_args()
    with work_folder(args.work) as work:
        folder = llama_cpp(work)
        if folder is None:
            raise SystemExit(1)
        lib = declared(load(folder, "ggml-base"))
    rows = args.weights * 1_000_000 // ROW
    weights = (np.random.default_rng(0).standard_normal(rows * ROW) * 0.05).astype(np.float32)
    inputs = {
        G.F32: weights,
        G.F16: weights.astype(np.float16),
        G.BF16: (weights.view(np.uint32) >> 16).astype(np.uint16),
    }
    how = "least CPU time" if args.cpu else "median"
    print(f"{machine()}; {rows * ROW / 1e6:.1f} M normal weights, {how} of {args.repeats}\n")
    print("| type | source | threads | ggml | mbuild | ratio |")
    print("|---|---|---|---|---|---|")
    for name in args.types.split(","):
        type_ = G[name]
        lib.ggml_quantize_init(int(type_))
        prepare([type_], weighted=type_ in NEEDS_IMPORTANCES)
        for threads in map(int, args.threads.split(",")):
            for source in (G[s] for s in args.sources.split(",")):
                given = (inputs[source], threads, args.repeats, args.cpu)
                theirs, mine = compare(lib, type_, source, *given)
                speed = [weights.size / seconds / 1e6 for seconds in (theirs, mine)]
                row = f"{speed[0]:.1f} | {speed[1]:.1f} | {theirs / mine:.1f}"
                print(f"| {name} | {source.name} | {threads} | {row} |", flush=True)


if __name__ == "__main__":
    main()
