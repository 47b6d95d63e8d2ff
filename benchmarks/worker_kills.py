"""kill -9 of each part of a distributed build, at ten moments: the model, and what it cost.

    python benchmarks/worker_kills.py [--kills 10] [parts] [worker] [scheduler] [coordinator]

A checkpoint of 14 million weights is quantized. A part (``--part 1/2``, ``2/2``), a worker of Dask,
its scheduler, or the build that asked is killed at moments that are spread over its work. Every
model has the id of the plain build, or the program stops. ``Lost`` are the ranges that were
made when it was killed and had to be made again: of a part those that it had told of, of the build
those that it had written, of workers the warnings about lost work.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from common import MBUILD, arguments, machine, table, work_folder

TYPE = "iq3_s"
SHAPE = {"LAYERS": 4, "WIDTH": 512, "HIDDEN": 1536}


class Machines:
    """A folder of sources, and stores beside it."""

    def __init__(self, work: Path) -> None:
        self.work = work
        if not (work / "chat").exists():
            code = "import sys; from pathlib import Path; from example_models import write_chat\n"
            code += f"write_chat(Path(sys.argv[1]), **{SHAPE})"
            path = str(Path(__file__).resolve().parent.parent / "tests")
            environment = {**os.environ, "PYTHONPATH": path}
            subprocess.run(
                [sys.executable, "-c", code, str(work / "chat")], check=True, env=environment
            )
        (work / "Modelfile").write_text("FROM ./chat\n", encoding="utf-8")
        self.plain = self.id("plain")

    def command(self, store: str, *options: str) -> list[str]:
        return [*MBUILD, "-q", TYPE, "--store", str(self.work / store), *options]

    def id(self, store: str, *options: str) -> str:
        """The id of a build that goes well."""
        command = self.command(store, "-t", "m", "--quiet", *options)
        done = subprocess.run(command, cwd=self.work, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        return done.stdout.strip()

    def check(self, found: str, what: str) -> None:
        if found != self.plain:
            raise SystemExit(f"{what}: another model than the plain build's")

    def until(
        self, command: Sequence[str], moment: int
    ) -> tuple[subprocess.Popen[bytes], int, int]:
        """Run until it has told of progress so often; the process, how often, and its bytes."""
        process = subprocess.Popen(
            command, cwd=self.work, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdout is not None
        seen = written = 0
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "StepProgress" and event["completed"]:
                seen, written = seen + 1, event["completed"]
            if seen >= moment:
                break
        return process, seen, written

    def places(self, store: str) -> set[tuple[int, int]]:
        """Where in their files a store's quantized ranges lie, from and to, as it has noted."""
        path = self.work / store / ".mbuild" / "cache.db"
        with closing(sqlite3.connect(path)) as connection:
            rows = connection.execute("SELECT value FROM records WHERE kind = 'range'").fetchall()
        values = [json.loads(text) for (text,) in rows]
        return {(offset, offset + size) for _, offset, size, _ in values}

    def clean(self, *names: str) -> None:
        for name in names:
            shutil.rmtree(self.work / name, ignore_errors=True)


def kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def parts(machines: Machines, kills: int) -> Iterator[Sequence[str]]:
    """Each of two parts; the cache is emptied before each kill."""
    for part in ("1/2", "2/2"):
        options = ("--part", part, "--cache-to", "cache", "--progress", "json", "--threads", "1")
        machines.clean("cache", "part")
        done = subprocess.run(
            machines.command("part", *options), cwd=machines.work, capture_output=True, check=True
        )
        total = json.loads(done.stdout.splitlines()[-1])["made"]
        lost = []
        for number in range(kills):
            machines.clean("cache", "part")
            moment = max(1, total * (number + 1) // (kills + 1))
            process, seen, _ = machines.until(machines.command("part", *options), moment)
            kill(process)
            done = subprocess.run(
                machines.command("part", *options),
                cwd=machines.work,
                capture_output=True,
                check=True,
            )
            end = json.loads(done.stdout.splitlines()[-1])
            if end["made"] + end["there"] != total:
                raise SystemExit(f"part {part}: {end} of {total}")
            lost.append(max(0, seen - end["there"]))
            machines.clean("assembled")
            machines.check(machines.id("assembled", "--cache-from", "cache"), f"part {part}")
        yield [f"--part {part}", str(kills), str(total), f"{max(lost)} of {total}", "the same"]


@contextmanager
def cluster(
    machines: Machines, workers: int
) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and its workers; the first process is the scheduler."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(module: str, *options: str) -> Path:
        log = machines.work / f"{module}-{len(processes)}.log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", f"distributed.cli.{module}", *options]
            processes.append(subprocess.Popen(command, stdout=out, stderr=out, cwd=machines.work))
        return log

    try:
        log = start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        while not (found := re.search(r"tcp://([\d.]+:\d+)", log.read_text(encoding="utf-8"))):
            time.sleep(0.1)
        for _ in range(workers):
            start("dask_worker", found[0], "--no-nanny", "--no-dashboard", "--nthreads", "1")
        yield found[1], processes
    finally:
        for process in processes:
            kill(process)


def dask(machines: Machines, victim: str, kills: int) -> Iterator[Sequence[str]]:
    """One of two workers, the scheduler, or the build, at ten moments each."""
    total, lost = 50, []
    for number in range(kills):
        machines.clean("on")
        moment = max(1, total * (number + 1) // (kills + 1))
        with cluster(machines, 2) as (address, processes):
            options = ("-t", "m", "--on", f"dask://{address}", "--progress", "json")
            process, _, written = machines.until(machines.command("on", *options), moment)
            if victim == "coordinator":
                kill(process)
                kept = machines.places("on")
                machines.check(machines.id("on"), victim)
                ended = {place for place in machines.places("on") if place[1] <= written}
                total = len(machines.places("on"))
                lost.append(len(ended - kept))
            else:
                kill(processes[1 if victim == "worker" else 0])
                assert process.stdout is not None
                rest = process.stdout.read()
                process.stdout.close()
                if process.wait():
                    raise SystemExit(f"{victim}: the build ended with {process.returncode}")
                lost.append(rest.count(b'"Warned"'))
            machines.check(machines.id("on"), victim)
    what = "warnings" if victim != "coordinator" else f"of {total}"
    yield [f"Dask's {victim}", str(kills), str(total), f"{max(lost)} {what}", "the same"]


def main() -> None:
    """Run it."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("what", nargs="*", default=["parts", "worker", "scheduler", "coordinator"])
    asked = parser.parse_args()
    rows: list[Sequence[str]] = []
    with work_folder(asked.work) as work:
        machines = Machines(work)
        for what in asked.what:
            found = (
                parts(machines, asked.kills)
                if what == "parts"
                else dask(machines, what, asked.kills)
            )
            for row in found:
                rows.append(row)
                print(row, file=sys.stderr)
    print(machine())
    print(table(["killed", "times", "ranges", "lost at most", "model"], rows))


if __name__ == "__main__":
    main()
