"""Builds from a repository of the Hub that convert and quantize while the weights arrive.

    python benchmarks/streaming.py [--layers 8] [--rate 100] [--repeats 2] [--work FOLDER]

The Hub is the tests' stand-in in this process, which sends so many MB a second over all connections
together. A build that streams is compared with the download alone, which is the time of its step,
and the same build of the folder: what takes the one after the other. With --no-keep-source the
room is measured that unfinished downloads take on the disk.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from common import MBUILD, arguments, generate, machine, mib, remover, seconds, table, work_folder
from hub_stand_in import HubStandIn, hub_stand_in

from mbuild.registry.transfer.moving import NEAR_CONNECTIONS

REPO = "org/large"
_PIECE = 64 << 10
_BLOCK = 512
WORK = {"to F16": ("--outtype", "f16"), "to Q8_0": ("-q", "q8_0"), "to Q4_K_M": ("-q", "q4_K_M")}


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


def build(folder: Path, store: Path, hub: HubStandIn, *options: str) -> tuple[float, float, int]:
    """Wall time, that of the download's step (0 without one), and the room of the download."""
    remover(store)()
    (store / ".mbuild").mkdir(parents=True)
    room = Room(store)
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(store / "hub")}
    command = [*MBUILD, "--store", str(store), "-t", "m", "--progress", "json", *options]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    wall = time.perf_counter() - began
    most = room.stop()
    if done.returncode:
        raise SystemExit(done.stderr)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    took = [
        event["seconds"]
        for event in events
        if event["event"] == "StepFinished" and event.get("kind") == "pull"
    ]
    return wall, sum(took), most


def measured(place: Path, local: Path, hub: HubStandIn, flags: Sequence[str]) -> list[float]:
    """One kind of work: seconds of the download, of the build of a folder, and of both at once.

    Then their ratio, the seconds with --no-keep-source, and the room without and with it.
    """
    store = place.parent / "store"
    alone = build(local, store, hub, *flags)[0]
    wall, download, held = build(place, store, hub, *flags)
    passing, _, room = build(place, store, hub, "--no-keep-source", *flags)
    ratio = wall / (download + alone)
    return [download, alone, wall, ratio, passing, held, room]


def main() -> None:
    """The table."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--layers", type=int, default=8, help="of the checkpoint  [default: 8]")
    parser.add_argument("--rate", type=float, default=100, help="MB a second  [default: 100]")
    parser.set_defaults(repeats=2)  # ends within four minutes
    options = parser.parse_args()
    print(f"{machine()}\n")
    rows = []
    with work_folder(options.work) as work, hub_stand_in() as hub:
        source = work / f"source-{options.layers}"
        if not source.exists():
            generate("checkpoint", source, options.layers)
        hub.put(REPO, {path.name: path.read_bytes() for path in source.iterdir()})
        hub.pause = _PIECE / (options.rate * 1e6 / NEAR_CONNECTIONS)
        local, place = work / "local", work / "remote"
        for folder, name in ((local, str(source)), (place, f"hf.co/{REPO}")):
            folder.mkdir(exist_ok=True)
            (folder / "Modelfile").write_text(f"FROM {name}\n", encoding="utf-8")
        for name, flags in WORK.items():
            found = [measured(place, local, hub, flags) for _ in range(options.repeats)]
            middle = [statistics.median(column) for column in zip(*found, strict=True)]
            times = [seconds(value) for value in middle[:3]]
            rest = [f"{middle[3]:.2f}", seconds(middle[4]), mib(middle[5]), mib(middle[6])]
            rows.append([name, *times, *rest])
    head = ["work", "download", "build of the folder", "both at once", "to their sum"]
    print(table([*head, "--no-keep-source", "room, kept", "room, not kept"], rows))


if __name__ == "__main__":
    main()
