"""Pulls and pushes that SIGKILL ends at random moments, and that go on: what travels twice.

    python benchmarks/kills.py [--size 300] [--kills 20] [--rate 0] [--parts pull,push] [--seed 1]

The registry is Debian's docker-registry, for pushes the tests' stand-in for distribution 3, too,
which keeps what arrived of a part. A counting proxy is in between; ``--rate`` is MB a second for
each connection, 0 as many as there are. Two readings: as many transfers as ``--kills`` says, each
killed once, and one transfer that is killed so often. A share is of the model's bytes.

Bytes can be with the kernel when the program dies: the proxy has sent them, or this machine
has received them, and nobody has read them. Both are counted.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from common import MBUILD, arguments, machine, table, work_folder
from counting_proxy import CountingProxy, counting_proxy, lost_of, noted
from registries import docker_registry
from stand_in import stand_in
from transfer import NAME, model

from mbuild.core.transfers import Direction
from mbuild.registry.client.access import Nearness
from mbuild.registry.transfer.moving import connections
from mbuild.store import Layer, Store

MB = 1_000_000


class Twice(NamedTuple):
    """What one transfer had to move again, as shares of its bytes: as sent, and as received."""

    sent: float
    received: float


@dataclass
class Killed:
    """Transfers under test; ``lost`` are the bytes that each connection lost at each kill."""

    proxy: CountingProxy
    layer: Layer
    count: Callable[[], int]
    lost: list[int] = field(default_factory=list)

    def kill(self, command: list[str], moment: int, store: Path | None = None) -> bool:
        """Run, and kill once so many bytes have travelled; False if it ended before."""
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None and self.count() < moment:
            time.sleep(0.0005)
        if process.poll() is None:
            process.kill()
        _, errors = process.communicate(timeout=60)
        self.proxy.settle()
        if process.returncode > 0:
            raise SystemExit(errors.decode())
        if store is not None and process.returncode:
            spans = noted(store, self.layer.digest)
            count = connections(Direction.PULL, Nearness.LOOPBACK)
            bodies = self.proxy.blobs(str(self.layer.digest))[-count:]
            self.lost += [lost_of(body, spans) for body in bodies]
        return process.returncode < 0


def run(command: list[str]) -> None:
    """Run to the end."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)


def pulls(work: Path, options: Options) -> Iterator[list[str]]:
    """Rows for pulls from docker-registry."""
    store, other = Store(work / "store"), work / "other"
    layer = model(store, options.size)
    with docker_registry(work / "registry") as upstream, counting_proxy(upstream) as (proxy, host):
        push = [*MBUILD, "--store", str(store.root), "push", NAME, f"{upstream}/a/m:v1"]
        run(push)
        proxy.rate = options.rate * MB
        command = [*MBUILD, "--store", str(other), "pull", f"http://{host}/a/m:v1"]
        killed = Killed(proxy, layer, lambda: proxy.sent)
        found = []
        for moments in options.readings:
            shutil.rmtree(other, ignore_errors=True)
            proxy.forget()
            for moment in moments:
                killed.kill(command, moment, other)
            run(command)
            proxy.settle()
            bodies = proxy.blobs(str(layer.digest))
            sent, received = sum(b.sent for b in bodies), sum(b.received for b in bodies)
            found.append(Twice(sent / layer.size - 1, received / layer.size - 1))
            if len(moments) > 1 or len(found) == options.kills:
                yield [f"pull, {options.name(moments)}", *shares(found), *losses(killed.lost)]
                found, killed.lost = [], []


def pushes(work: Path, options: Options, registry: str) -> Iterator[list[str]]:
    """Rows for pushes; each goes to a repository of its own."""
    store = Store(work / "store")
    layer = model(store, options.size)
    with REGISTRIES[registry](work / "registry") as (upstream, forget), ExitStack() as stack:
        proxy, host = stack.enter_context(counting_proxy(upstream))
        proxy.rate = options.rate * MB
        killed = Killed(proxy, layer, lambda: proxy.taken)
        found = []
        for number, moments in enumerate(options.readings):
            proxy.forget()
            target = f"http://{host}/a/m{number}:v1"
            command = [*MBUILD, "--store", str(store.root), "push", NAME, target]
            for moment in moments:
                killed.kill(command, moment)
            run(command)
            proxy.settle()
            share = proxy.taken / layer.size - 1
            found.append(Twice(share, share))
            forget()
            if len(moments) > 1 or len(found) == options.kills:
                yield [f"push to {registry}, {options.name(moments)}", *shares(found), "", ""]
                found = []


@contextmanager
def debian(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Debian's docker-registry: where it is, and what empties it."""
    with docker_registry(folder) as host:
        yield host, lambda: shutil.rmtree(folder / "data", ignore_errors=True)


@contextmanager
def like_3(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """The stand-in, which holds everything in memory."""
    with stand_in() as (registry, host):
        yield host, registry.blobs.clear


REGISTRIES = {"distribution 2.8": debian, "a stand-in for distribution 3": like_3}


class Options(NamedTuple):
    """What the command line says: bytes in MB, kills, MB a second, and where to begin."""

    size: int
    kills: int
    rate: float
    seed: int

    @property
    def readings(self) -> Iterator[list[int]]:
        """The moments of each transfer, in bytes: each killed once, then one killed so often."""
        pick = random.Random(self.seed)
        for _ in range(self.kills):
            yield [pick.randrange(1, self.size * MB)]
        yield sorted(pick.sample(range(1, self.size * MB), self.kills))

    def name(self, moments: list[int]) -> str:
        """What a reading is called."""
        return (
            f"{len(moments)} kills of one" if len(moments) > 1 else f"{self.kills}, one kill each"
        )


def shares(found: list[Twice]) -> list[str]:
    """Mean and greatest of both counts."""
    rows = zip(*found, strict=True)
    return [f"{statistics.mean(row):.2%}, {max(row):.2%}" for row in rows]


def losses(lost: list[int]) -> list[str]:
    """Mean and greatest loss of a connection at a kill, and the mean of all connections."""
    if not lost:
        return ["", ""]
    return [f"{statistics.mean(lost) / MB:.2f} MB", f"{max(lost) / MB:.2f} MB"]


def main() -> None:
    """The table."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--size", type=int, default=300, help="of the model, MB  [default: 300]")
    parser.add_argument("--kills", type=int, default=20, help="in all  [default: 20]")
    parser.add_argument("--rate", type=float, default=0, help="MB a second  [default: no limit]")
    parser.add_argument("--seed", type=int, default=1, help="of the moments  [default: 1]")
    parser.add_argument("--parts", default="pull,push", help="what to measure  [default: both]")
    given = parser.parse_args()
    options = Options(given.size, given.kills, given.rate, given.seed)
    os.environ.pop("DOCKER_CONFIG", None)
    print(f"{machine()}\n")
    works = []
    if "pull" in given.parts:
        works.append(pulls)
    if "push" in given.parts:
        works += [partial(pushes, registry=name) for name in REGISTRIES]
    rows = []
    for number, work in enumerate(works):
        with work_folder(given.work) as folder:
            for row in work(folder / f"kills-{number}", options):
                print(row[0], file=sys.stderr)
                rows.append(row)
    head = ["transfer", "sent twice: mean, most", "received twice", "lost by a connection", "most"]
    print(table(head, rows))


if __name__ == "__main__":
    main()
