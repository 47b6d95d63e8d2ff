"""Compares the kernels with ggml's, bit for bit, on as many weights as one has patience for.

    python benchmarks/quantize_oracle.py [--millions 1000] [--types Q4_K,Q6_K]

The reference is ``ggml_quantize_chunk`` of PyPI's ``llama-cpp-py-sync``. Each round
draws new weights of every kind: those of the test suite (normal, uniform, heavy-tailed,
constant, zero, sparse, denormal, huge values) and near-ties, where a value lies next to
the middle between two levels. Rounds go on until each type has had so many millions; the
first differing block ends the program with its values.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from quant_data import Reference, kinds

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.quantize import engine

TYPES = "Q4_0,Q4_1,Q5_0,Q5_1,Q8_0,Q2_K,Q3_K,Q4_K,Q5_K,Q6_K,IQ4_NL,IQ4_XS"
ROW = 1280
COUNT = ROW * 256
"""Weights of one kind in a round."""

ABORTS = {"IQ3_S": ("huge", "very huge", "largest", "mixed")}
"""Kinds with values so large that an assertion of ggml fails, which ends the process."""


def near_ties(count: int, seed: int) -> Iterator[tuple[str, Any]]:
    """Values at, just below and just above the middles between even levels."""
    r = np.random.default_rng(seed)
    for levels in (3, 4, 7, 8, 15, 16, 31, 32, 63, 127):
        steps = r.integers(-levels, levels + 1, (count // 32, 32)) + 0.5
        steps[:, 0], steps[:, 1] = levels, -levels
        values = (steps * 10.0 ** r.uniform(-4, 2, (count // 32, 1))).astype(np.float32)
        moved = values.view(np.int32) + r.integers(-2, 3, values.shape).astype(np.int32)
        yield f"near ties of {levels}", moved.view(np.float32).reshape(-1)


def weights(seed: int) -> Iterator[tuple[str, Any]]:
    """A round's weights of all kinds."""
    yield from kinds(COUNT, seed)
    yield from near_ties(COUNT, seed)


def differing(reference: Reference, type_: GGMLType, x: Any) -> Any:
    """The numbers of the blocks whose bytes differ."""
    ours = np.empty(x.size // BLOCKS[type_].weights * BLOCKS[type_].size, np.uint8)
    if not engine().blocks(type_, x.view(np.uint8), GGMLType.F32, ours):
        raise SystemExit(f"{type_.name}: finite weights were refused")
    theirs = reference(type_, x, ROW)
    return np.flatnonzero((ours.reshape(theirs.shape) != theirs).any(axis=1))


def compare(reference: Reference, type_: GGMLType, kind: tuple[str, Any]) -> int:
    """How many weights were compared; exits where a block differs."""
    name, x = kind
    bad = differing(reference, type_, x)
    if bad.size:
        block = BLOCKS[type_].weights
        values = x[bad[0] * block : (bad[0] + 1) * block].tolist()
        raise SystemExit(f"{type_.name}, {name}: {bad.size} blocks differ, one of {values}")
    return int(x.size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--millions", type=int, default=1000, help="millions of weights a type")
    parser.add_argument("--types", default=TYPES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    args = parser.parse_args()
    reference, types = Reference(), [GGMLType[name] for name in args.types.split(",")]
    for type_ in types:
        engine().prepare(type_, False)
    totals, names, seed, started = Counter[str](), set[str](), args.seed, time.perf_counter()
    with ThreadPoolExecutor(args.threads) as pool:
        while min(totals[t.name] for t in types) < args.millions * 1_000_000:
            tasks = []
            for kind in weights(seed):
                names.add(kind[0])
                tasks += [
                    (t.name, pool.submit(compare, reference, t, kind))
                    for t in types
                    if kind[0] not in ABORTS.get(t.name, ())
                ]
            for name, task in tasks:
                totals[name] += task.result()
            seed += 1
            print(f"to seed {seed - 1}: {totals.total():,} in all", file=sys.stderr, flush=True)
    print(f"{len(names)} kinds of weights, seeds {args.seed} to {seed - 1}, no block differs,")
    print(f"{time.perf_counter() - started:.0f} s:\n\n| type | weights |\n|---|---|")
    for type_ in types:
        print(f"| {type_.name} | {totals[type_.name]:,} |")


if __name__ == "__main__":
    main()
