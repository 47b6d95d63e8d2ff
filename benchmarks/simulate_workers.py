"""How long many machines take for one large model, simulated task by task from measured rates.

    python benchmarks/simulate_workers.py

Events, not formulas: a task waits for its machine's link, for one of its cores, and for the link
back; whoever writes the model takes results in the order of the file. The rates are those that
``cores.py`` and ``workers.py`` measured; machines are given by their cores and their link. The
table in docs/workers.md is what this prints.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

GIGA = 10**9

WEIGHTS = 671 * GIGA
SOURCE = 1342 * GIGA
"""DeepSeek-V3 in BF16: weights and bytes."""

RESULT = 404 * GIGA
"""Its Q4_K_M."""

QUANTIZE = 167e6
"""Weights a second of one core, from BF16 to Q4_K (docs/benchmarks.md, quantization kernels)."""

DIGEST, COPY, SHA256 = 4.5e9, 3e9, 1.8e9
"""Bytes a second of one core: BLAKE3, copying, and the SHA-256 that one file's digest is."""

TASK = 64 << 20
"""Bytes of source in a task of ``--on``."""

OVERHEAD = 0.005
"""Seconds of the scheduler for a task, one after another, which Dask 2026 takes."""

START = 10.0
"""Seconds until a machine works: Python, its kernels, the source's headers."""

CORES = 16
DIGESTS_AT_ONCE = 4
"""Files that a build writes at once where the model is split."""

MACHINES = (1, 4, 16, 64)
LINKS = (1.0, 1.25, 3.1, 5.0)
"""Machines, and gigabytes a second of each one's link or storage, whichever is less."""


class Cluster(NamedTuple):
    """Machines with a link each, in bytes a second, and how their work is handed out."""

    machines: int
    link: float
    parts: bool = False
    """Whether each has a fixed share (``--part``) or gets tasks when it is free (``--on``)."""


def _tasks() -> list[tuple[float, float]]:
    """Bytes of source and of result of each task, in the file's order.

    Tasks of a simulation are sixteen of the program's, so that it takes seconds.
    """
    size = 16 * TASK
    count = -(-SOURCE // size)
    return [(SOURCE / count, RESULT / count)] * count


def finished(cluster: Cluster) -> list[float]:
    """When each task's result has left the machine that made it."""
    tasks = _tasks()
    links = [START] * cluster.machines
    back = [START] * cluster.machines
    cores = [[START] * CORES for _ in range(cluster.machines)]
    done = [0.0] * len(tasks)
    scheduler = START
    free = [(START, machine, slot) for machine in range(cluster.machines) for slot in range(CORES)]
    heapq.heapify(free)
    for number, (size, result) in enumerate(tasks):
        if cluster.parts:
            machine = number * cluster.machines // len(tasks)
            slot = min(range(CORES), key=cores[machine].__getitem__)
            at = cores[machine][slot]
        else:
            at, machine, slot = heapq.heappop(free)
            scheduler = max(scheduler, at - 1.0) + 16 * OVERHEAD
            at = max(at, scheduler)
        # A core asks for its next bytes while it works on the last, so only the link holds it up.
        links[machine] = max(links[machine], at - _work(size)) + size / cluster.link
        ready = max(at, links[machine]) + _work(size)
        cores[machine][slot] = ready
        if not cluster.parts:
            heapq.heappush(free, (ready, machine, slot))
        back[machine] = max(back[machine], ready) + result / cluster.link
        done[number] = back[machine]
    return done


def _work(size: float) -> float:
    """Seconds of a core for so many bytes of source."""
    weights = size / 2
    return weights / QUANTIZE + size / DIGEST + size / COPY


def assembled(arrivals: list[float], link: float, files: int) -> float:
    """When the model is written by a machine that takes results in order and digests them.

    ``files`` grow at once, each with a digest that one core makes.
    """
    size = RESULT / len(arrivals)
    wire = 0.0
    digests = [0.0] * files
    for number, arrival in enumerate(arrivals):
        file = number % files
        wire = max(wire, arrival) + size / link
        digests[file] = max(digests[file], wire) + size / SHA256
    return max(digests)


def on_cluster(machines: int, link: float, files: int) -> float:
    """``--on``: results come to the build that waits for them, which has their order asked for."""
    return assembled(finished(Cluster(machines, link)), link, files)


def in_parts(machines: int, link: float, files: int, *, known: bool) -> float:
    """``--part`` on every machine, then a build on one; ``known``: the source's digests are."""
    over = max(finished(Cluster(machines, link, parts=True)))
    read = 0.0 if known else SOURCE / min(link, CORES * DIGEST)
    fetch = assembled([over] * len(_tasks()), link, files)
    return max(fetch, over + read)


def by_formula(machines: int, link: float) -> float:
    """``--on`` on paper: its slowest stage, and the start."""
    reading = SOURCE / (machines * link)
    computing = _work(SOURCE) / (machines * CORES)
    return START + max(reading, computing, RESULT / min(link, SHA256))


def row(machines: int, link: float) -> tuple[float, ...]:
    """Minutes by formula, and of the five ways."""
    bytes_ = link * GIGA
    found = (
        by_formula(machines, bytes_),
        on_cluster(machines, bytes_, 1),
        on_cluster(machines, bytes_, DIGESTS_AT_ONCE),
        in_parts(machines, bytes_, 1, known=True),
        in_parts(machines, bytes_, DIGESTS_AT_ONCE, known=True),
        in_parts(machines, bytes_, 1, known=False),
    )
    return tuple(seconds / 60 for seconds in found)


def text() -> str:
    """The table."""
    head = (
        "| machines | GB/s each | by formula | `--on` | `--on`, split | parts | parts, split"
        " | parts, source unread before |\n|---|---|---|---|---|---|---|---|\n"
    )
    lines = [
        f"| {machines} | {link:g} | " + " | ".join(f"{m:.1f}" for m in row(machines, link)) + " |"
        for machines in MACHINES
        for link in LINKS
    ]
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(text(), end="")
