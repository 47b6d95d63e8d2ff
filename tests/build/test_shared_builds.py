"""Builds of several machines at once: one makes a step, the others wait for it or take over."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from example_models import write_chat
from shared_storages import LEASING, clean_environment, storage
from stores import check_promise

VARIANTS = ("q4_K_M", "q5_K_M", "q8_0")

HOLDER = """
import sys, time
from pathlib import Path
from mbuild.shared.cache import TeamCache
from mbuild.shared.locations import Location
from mbuild.shared.storages import open_storage
from mbuild.store import Store

url, key, life, store = sys.argv[1:]
target = open_storage(Location.parse(url), writes=True)
cache = TeamCache([], target, Store(Path(store)).blobs, life=float(life))
print("held" if cache.take(key) is not None else "not held", flush=True)
time.sleep(600)
"""


class Job(NamedTuple):
    """A build in a process of its own."""

    process: subprocess.Popen[str]
    store: Path

    def events(self) -> list[dict[str, Any]]:
        """All that it said, once it is over and has gone well."""
        out, errors = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, errors + out
        assert "Traceback" not in errors
        return [json.loads(line) for line in out.splitlines()]


class Team:
    """Machines that share a storage: each is a store of its own on one folder of sources."""

    def __init__(self, folder: Path, url: str, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.url = url
        self.environment = clean_environment(environment)
        self.processes: list[subprocess.Popen[str]] = []

    def end(self) -> None:
        """Leave nothing that runs, whatever failed."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def start(self, name: str, *variants: str, flag: str = "--cache-to") -> Job:
        """Begin to build."""
        store = self.folder / name
        options = [part for variant in variants for part in ("-q", variant)]
        tag = "mario:{quant}" if len(variants) > 1 else "mario"
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "mbuild", *options, "-t", tag, flag, self.url),
                *("--progress", "json", "--store", str(store)),
            ],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return Job(process, store)

    def hold(self, key: str, life: float) -> subprocess.Popen[str]:
        """A process that has the lease on a step and does nothing but to renew it."""
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, self.url, key, str(life), str(self.folder / "holder")],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        assert process.stdout is not None
        with process.stdout as said:
            assert said.readline() == "held\n"
        return process

    def key(self, variant: str) -> str:
        """The key of the step that quantizes; with a shared cache a plan knows it."""
        (self.folder / "empty").mkdir()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "mbuild", "plan", "-q", variant, "-t", "x"),
                *("--cache-from", "empty", "--format", "json"),
                *("--store", str(self.folder / "planning")),
            ],
            cwd=self.folder,
            env=self.environment,
            check=True,
            timeout=60,
            capture_output=True,
            text=True,
        )
        steps = json.loads(done.stdout)["steps"]
        return str(next(step["key"] for step in steps if step["kind"] == "quantize"))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and a Modelfile."""
    folder = tmp_path_factory.mktemp("sources")
    write_chat(folder / "chat")
    (folder / "Modelfile").write_text("FROM ./chat\nTEMPLATE x\n")
    return folder


@pytest.fixture(params=[*LEASING, "registry"])
def team(request: pytest.FixtureRequest, sources: Path, tmp_path: Path) -> Iterator[Team]:
    """Machines around one kind of storage."""
    with storage(request.param, tmp_path / "storage") as (url, environment):
        for name in ("chat", "Modelfile"):
            (tmp_path / name).symlink_to(sources / name)
        found = Team(tmp_path, url, environment)
        yield found
        found.end()


def _made(events: Sequence[Mapping[str, Any]], kind: str = "quantize") -> list[str]:
    """What was made, not taken."""
    return [
        str(event["target"])
        for event in events
        if event["event"] == "StepFinished" and event["kind"] == kind and not event["cached"]
    ]


def _ids(events: Sequence[Mapping[str, Any]]) -> list[str]:
    return [str(event["id"]) for event in events if event["event"] == "ModelBuilt"]


def test_two_at_once_make_each_step_once(team: Team) -> None:
    """Then a third machine makes nothing but trivial steps, and all have the same ids."""
    jobs = [team.start(name, *VARIANTS) for name in ("one", "two")]
    one, two = (job.events() for job in jobs)
    assert sorted(_made(one) + _made(two)) == ["Q4_K_M", "Q5_K_M", "Q8_0"]
    third = team.start("three", *VARIANTS, flag="--cache-from").events()
    ran = {
        str(event["kind"])
        for event in third
        if event["event"] == "StepFinished" and not event["cached"]
    }
    assert ran <= {"config", "manifest", "params", "template"}
    assert _ids(one) == _ids(two) == _ids(third) != []
    assert len({check_promise(team.folder / name) for name in ("one", "two", "three")}) == 1


@pytest.mark.parametrize("team", ["folder", "s3"], indirect=True)
def test_a_step_is_taken_over_from_a_holder_that_was_killed(team: Team) -> None:
    """While it lives the other waits and says for whom; within a lease's life it goes on."""
    key = team.key("q4_K_M")
    holder = team.hold(key, life=2.0)
    job = team.start("one", "q4_K_M")
    assert job.process.stdout is not None
    said = ""
    for line in job.process.stdout:
        if json.loads(line).get("code") == "waiting-for-machine":
            said = json.loads(line)["text"]
            break
    assert f"process {holder.pid}" in said
    time.sleep(3.0)
    assert job.process.poll() is None, "a lease that is renewed is not taken over"
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    killed = time.monotonic()
    events = job.events()
    assert time.monotonic() - killed < 2.0 + 15.0
    assert _made(events) == ["Q4_K_M"]
    assert any(event.get("code") == "taking-over" for event in events)
    again = team.start("two", "q4_K_M").events()
    assert _made(again) == [] and _ids(again) == _ids(events)
