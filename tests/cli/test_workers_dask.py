"""``--on``: real clusters of Dask, whose workers and schedulers are killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import Run
from example_models import settle, write_chat

import mbuild as api
from mbuild.core.events import StepProgress, StepStarted
from mbuild.work import pools

pytest.importorskip("distributed", reason="the extra dask is not installed")


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A checkpoint that takes two seconds to quantize to IQ3_S, and its Modelfile."""
    folder = write_chat(tmp_path / "chat", LAYERS=4, WIDTH=512, HIDDEN=1536)
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    settle()
    return folder


PLAIN: dict[str, str] = {}


def plain(tmp_path: Path, type_: str) -> str:
    """The id of the plain build, which is made once: the checkpoint is the same in every test."""
    if type_ not in PLAIN:
        built = api.build(folder=tmp_path, name="m", quantize=type_, store=tmp_path / "plain")
        PLAIN[type_] = str(built.id)
    return PLAIN[type_]


def test_local_workers_make_the_same_model(chat: Path, tmp_path: Path, mbuild: Run) -> None:
    """Two processes, which end with the build; nothing of Dask's is printed."""
    done = mbuild("--on", "local:2", "-q", "q4_K_M", "-t", "m", "--progress", "plain")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^computing on local:2, \d+ tasks at a time$", done.stderr, re.MULTILINE)
    assert "distributed" not in done.stderr
    quiet = mbuild("-t", "m2", "-q", "q4_K_M", "--quiet")
    assert quiet.stdout.strip() == plain(tmp_path, "q4_K_M")


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("dask://127.0.0.1:1", "does not answer"),
        ("local:none", "not a place that computes"),
        ("dask://host", "has no port"),
    ],
)
def test_where_nobody_answers(where: str, said: str, chat: Path, mbuild: Run) -> None:
    """One error with a remedy, and nothing is built."""
    done = mbuild("--on", where, "-q", "q4_0", "-t", "m")
    assert done.returncode in (1, 2)
    assert said in done.stderr and "hint:" in done.stderr
    assert mbuild("list").stdout.count("\n") == 1


class Cluster:
    """A scheduler and its workers, each a process that can be killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """One more process."""
        log = self._folder / f"{module}-{len(self.processes)}.log"
        environment = {**os.environ, "DASK_DISTRIBUTED__WORKER__DAEMON": "False"}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", f"distributed.cli.{module}", *arguments],
                stdout=out,
                stderr=out,
                env=environment,
                cwd=self._folder,
            )
        self.processes.append(process)
        return process

    def scheduler(self) -> None:
        """Start it, and wait for its address."""
        self.start("dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        log = self._folder / "dask_scheduler-0.log"
        for _ in range(300):
            found = re.search(r"tcp://([\d.]+:\d+)", log.read_text())
            if found:
                self.address = found[1]
                return
            time.sleep(0.1)
        raise AssertionError(log.read_text())

    def worker(self) -> subprocess.Popen[bytes]:
        """Start one without a nanny: what is killed stays dead."""
        arguments = ("--no-nanny", "--no-dashboard", "--nthreads", "1")
        return self.start("dask_worker", f"tcp://{self.address}", *arguments)

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """With no time to say anything."""
        process.send_signal(signal.SIGKILL)
        process.wait()


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[Cluster]:
    """A cluster that is gone afterwards."""
    folder.mkdir()
    found = Cluster(folder)
    try:
        found.scheduler()
        for _ in range(workers):
            found.worker()
        yield found
    finally:
        for process in found.processes:
            with suppress(ProcessLookupError):
                found.kill(process)


@pytest.mark.parametrize("victim", ["worker", "scheduler", "all workers"])
def test_who_is_killed_costs_what_ran(
    victim: str, chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 in the middle: the model is the plain one; whoever is left goes on, or the build."""
    monkeypatch.setattr(pools, "EMPTY_SECONDS", 2)
    wanted = plain(tmp_path, "iq3_s")
    with cluster(tmp_path / "dask", 2) as found:
        events = api.build.events(
            folder=tmp_path,
            name="m",
            quantize="iq3_s",
            store=tmp_path / "store",
            executor=f"dask://{found.address}",
        )
        killed = False
        for event in events:
            if isinstance(event, StepProgress) and event.completed and not killed:
                killed = True
                chosen = {"worker": [1], "scheduler": [0], "all workers": [1, 2]}[victim]
                for number in chosen:
                    found.kill(found.processes[number])
        assert killed
        assert str(events.result.id) == wanted
        assert len(events.result.warnings) == (0 if victim == "worker" else 1)


def test_a_build_that_is_killed_leaves_a_cluster_that_works(
    chat: Path, tmp_path: Path, mbuild: Run
) -> None:
    """The next build of the same cluster makes the model."""
    wanted = plain(tmp_path, "iq3_s")
    with cluster(tmp_path / "dask", 1) as found:
        options = ["--on", f"dask://{found.address}", "-q", "iq3_s", "-t", "m"]
        first = subprocess.Popen(
            [sys.executable, "-m", "mbuild", *options, "--progress", "json"],
            cwd=tmp_path,
            env={**os.environ, "OLLAMA_MODELS": str(tmp_path / "store")},
            stdout=subprocess.PIPE,
        )
        assert first.stdout is not None
        for line in first.stdout:
            if b'"StepProgress"' in line:
                break
        first.kill()
        first.wait()
        first.stdout.close()
        done = mbuild(*options, "--quiet")
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() == wanted


def test_events_of_workers_are_those_of_the_build(chat: Path, tmp_path: Path) -> None:
    """One step, its progress up to the end."""
    with cluster(tmp_path / "dask", 1) as found:
        events = list(
            api.build.events(
                folder=tmp_path,
                name="m",
                quantize="q4_0",
                store=tmp_path / "store",
                executor=f"dask://{found.address}",
            )
        )
    steps = [event for event in events if isinstance(event, StepStarted)]
    assert sum(step.kind == "quantize" for step in steps) == 1
    last = [event for event in events if isinstance(event, StepProgress)][-1]
    assert last.completed == last.total > 0
