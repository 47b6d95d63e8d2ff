"""Builds from a repository of the Hub that convert and quantize while the weights arrive.

    python benchmarks/streaming.py [--layers 8] [--rate 100] [--repeats 3] [--only to_F16]
                                   [--other CHECKOUT] [--work FOLDER]

The Hub is the tests' stand-in in a process of its own, which sends so many MB a second over all
connections together. A build that streams is compared with ``curl`` of all its files, and the
same build of the folder: what takes the one after the other. Of all runs, which are in turn,
the fastest counts: then the least of anything else was on the cores. ``--other`` runs another
checkout of mbuild in turn with this one. The end is what comes after the download. With
--no-keep-source the room is measured that unfinished downloads take on the disk.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from common import (
    MBUILD,
    ROOT,
    arguments,
    generate,
    machine,
    mib,
    remover,
    seconds,
    table,
    work_folder,
)
from hub_stand_in import hub_stand_in

REPO = "org/large"
_BLOCK = 512
WORK = {
    "to_F16": ("--outtype", "f16"),
    "to_Q8_0": ("-q", "q8_0"),
    "to_Q4_K_M": ("-q", "q4_K_M"),
}


class Ran(NamedTuple):
    """A build: wall time, and that after its download (0 without one), seconds of the processor,
    peak memory, and the room of the download, in bytes."""

    wall: float
    end: float
    cpu: float
    peak: int
    room: int


class Room:
    """The most bytes that unfinished downloads of a store took on the disk."""

    def __init__(self, store: Path) -> None:
        self.most = 0
        self._folder = store / ".mbuild" / "partial"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            room = 0
            for path in self._folder.glob("pull-*"):
                try:
                    room += path.stat().st_blocks * _BLOCK
                except OSError:
                    continue
            self.most = max(self.most, room)

    def stop(self) -> int:
        """Stop looking; the bytes."""
        self._over.set()
        self._thread.join()
        return self.most


def _serve(folder: Path, rate: float, pipe: Connection) -> None:
    """The stand-in, until nobody is at the pipe's other end."""
    with hub_stand_in() as hub:
        hub.put(REPO, {path.name: path.read_bytes() for path in folder.iterdir()})
        hub.rate = rate
        pipe.send(hub.url)
        try:
            pipe.recv()
        except EOFError:
            return


@contextmanager
def served(folder: Path, rate: float) -> Iterator[str]:
    """The Hub with the folder's files, which sends so many bytes a second; its address."""
    context = multiprocessing.get_context("spawn")
    own, other = context.Pipe()
    process = context.Process(target=_serve, args=(folder, rate, other), daemon=True)
    process.start()
    other.close()
    try:
        yield own.recv()
    finally:
        own.close()
        process.join()


def build(folder: Path, store: Path, environment: Mapping[str, str], options: Sequence[str]) -> Ran:
    """One build into an empty store."""
    remover(store)()
    (store / ".mbuild").mkdir(parents=True)
    room = Room(store)
    own = {**os.environ, "HF_HOME": str(store / "hub"), **environment}
    command = [*MBUILD, "--store", str(store), "-t", "m", "--progress", "json", *options]
    began, came = time.perf_counter(), 0.0
    process = subprocess.Popen(command, cwd=folder, env=own, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "StepFinished" and event.get("kind") == "pull":
            came = time.perf_counter()
    _, status, usage = os.wait4(process.pid, 0)
    ended = time.perf_counter()
    most = room.stop()
    if status:
        raise SystemExit("the build failed")
    cpu = usage.ru_utime + usage.ru_stime
    return Ran(ended - began, ended - came if came else 0.0, cpu, usage.ru_maxrss << 10, most)


def curl(url: str, source: Path, work: Path) -> float:
    """Seconds that ``curl`` takes for all files."""
    began = time.perf_counter()
    for path in source.iterdir():
        target = str(work / "got")
        address = f"{url}/{REPO}/resolve/main/{path.name}"
        subprocess.run(["curl", "-sSfL", "-o", target, address], check=True)
    return time.perf_counter() - began


def measured(
    work: Path, url: str, version: Mapping[str, str], flags: Sequence[str]
) -> dict[str, Ran]:
    """One round: the build of the folder, that from the Hub, and that which keeps no source."""
    store, environment = work / "store", {"HF_ENDPOINT": url, **version}
    return {
        "alone": build(work / "local", store, environment, flags),
        "both": build(work / "remote", store, environment, flags),
        "passing": build(work / "remote", store, environment, ["--no-keep-source", *flags]),
    }


def best(rounds: Sequence[Mapping[str, Ran]], what: str) -> Ran:
    """Of each figure the least; of memory and room the most."""
    wall, end, cpu, peak, room = zip(*(each[what] for each in rounds), strict=True)
    return Ran(min(wall), min(end), min(cpu), max(peak), max(room))


def row(name: str, download: float, rounds: Sequence[Mapping[str, Ran]]) -> list[str]:
    """What the table says of one kind of work."""
    alone, both, passing = (best(rounds, what) for what in ("alone", "both", "passing"))
    ratio = f"{both.wall / (download + alone.wall):.2f}"
    least = f"{max(download, alone.wall) / (download + alone.wall):.2f}"
    times = [seconds(value) for value in (download, alone.wall, both.wall)]
    cpu = f"{alone.cpu:.2f} s, {both.cpu:.2f} s"
    memory = f"{mib(alone.peak)}, {mib(both.peak)}, {mib(passing.peak)}"
    rooms = f"{mib(both.room)}, {mib(passing.room)}"
    ends = f"{seconds(both.end)}, {seconds(passing.end)}"
    return [name, *times, ratio, least, ends, seconds(passing.wall), cpu, memory, rooms]


def main() -> None:
    """The table."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--layers", type=int, default=8, help="of the checkpoint  [default: 8]")
    parser.add_argument("--rate", type=float, default=100, help="MB a second  [default: 100]")
    parser.add_argument("--only", choices=list(WORK), action="append", help="kinds of work")
    parser.add_argument("--other", type=Path, help="checkout of another version, run in turn")
    parser.set_defaults(repeats=3)
    options = parser.parse_args()
    print(f"{machine()}\n")
    versions = {"": {"PYTHONPATH": str(ROOT)}}
    if options.other:
        versions["other, "] = {"PYTHONPATH": str(options.other.resolve())}
    rows = []
    with work_folder(options.work) as work:
        source = work / f"source-{options.layers}"
        if not source.exists():
            generate("checkpoint", source, options.layers)
        with served(source, options.rate * 1e6) as url:
            for folder, name in (("local", str(source)), ("remote", f"hf.co/{REPO}")):
                (work / folder).mkdir(exist_ok=True)
                text = f"FROM {name}\n"
                (work / folder / "Modelfile").write_text(text, encoding="utf-8")
            for name in options.only or WORK:
                downloads: list[float] = []
                found: dict[str, list[dict[str, Ran]]] = {each: [] for each in versions}
                for _ in range(options.repeats):
                    downloads.append(curl(url, source, work))
                    for each, version in versions.items():
                        found[each].append(measured(work, url, version, WORK[name]))
                shown = name.replace("_", " ", 1)
                rows += [row(f"{v}{shown}", min(downloads), found[v]) for v in versions]
                print(*rows[-len(versions) :], sep="\n", file=sys.stderr)
    head = ["work", "download", "build of the folder", "both at once", "to their sum"]
    head += ["the longer one to it", "after the download: kept, not kept", "not kept"]
    head += ["CPU: folder, both", "peak memory: folder, kept, not kept", "room: kept, not kept"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
