"""Jobs that quantize one source to different types at once: each range is made by one of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_models import settle, write_chat
from fakes_shared import MemoryStorage
from fakes_store import MemoryStore
from shared_storages import clean_environment, storage

import mbuild as api
from mbuild.build.steps import flight
from mbuild.build.steps.flight import PieceFlight, flight_of
from mbuild.build.steps.ranges import RangeCache
from mbuild.shared.cache import TeamCache

JOB = """
import os, sys, time
from mbuild.build.steps import flight, making

late = os.environ.get("LATE")  # after so many ranges a second job has come, however slowly
wait_until_ready = flight.PieceFlight._wait_until_ready

def came(self, check):
    open("came", "w").close()
    wait_until_ready(self, check)

flight.PieceFlight._wait_until_ready = came
quantized = making.RangeMaker._quantized

def logged(self, part, new, importances, data):
    time.sleep(0.02)  # a small model, quantized as slowly as a large one
    made = len(open("made").readlines()) if os.path.exists("made") else 0
    while late and made >= int(late) and not os.path.exists("came"):
        time.sleep(0.02)
    made = quantized(self, part, new, importances, data)
    line = f"{part.tensor.name} {part.first} {new.name}\\n"
    with open("made", "a") as log:
        log.write(line)
    return made

making.RangeMaker._quantized = logged
from mbuild.build.steps import ranges
ranges.RANGE = 64 << 10
from mbuild.cli.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and a Modelfile."""
    folder = tmp_path_factory.mktemp("sources")
    write_chat(folder / "chat", LAYERS=2)
    (folder / "Modelfile").write_text("FROM ./chat\n")
    settle()
    return folder


@pytest.fixture
def work(folder: Path, tmp_path: Path) -> Path:
    """The same sources, and an empty log."""
    for name in ("chat", "Modelfile"):
        (tmp_path / name).symlink_to(folder / name)
    return tmp_path


class Jobs:
    """Jobs on one storage, each with a store of its own."""

    def __init__(self, work: Path, url: str, environment: dict[str, str]) -> None:
        self.work = work
        self._url = url
        self.environment = environment
        self.started: list[subprocess.Popen[str]] = []

    def start(self, type_: str, *options: str) -> subprocess.Popen[str]:
        """Begin a build."""
        store = f"store{len(self.started)}"
        command = [sys.executable, "-c", JOB, "-q", type_, "--cache-to", self._url]
        job = subprocess.Popen(
            [*command, "--store", store, "--progress", "json", *(options or ("-t", "m"))],
            cwd=self.work,
            env=clean_environment(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(job)
        return job

    def made(self) -> list[str]:
        """The ranges that were made so far, one line each time."""
        log = self.work / "made"
        return log.read_text().splitlines() if log.exists() else []

    def until(self, count: int) -> None:
        """Wait until so many were made."""
        end = time.monotonic() + 60
        while len(self.made()) < count:
            assert time.monotonic() < end
            time.sleep(0.02)

    def ids(self) -> list[str]:
        """What all jobs built, once they have ended well."""
        found = []
        for job in self.started:
            out, errors = job.communicate(timeout=120)
            assert job.returncode == 0, errors + out
            events = [json.loads(line) for line in out.splitlines()]
            found += [str(each["id"]) for each in events if each["event"] == "ModelBuilt"]
        return found


@pytest.fixture(params=["folder", "s3"])
def jobs(request: pytest.FixtureRequest, work: Path) -> Iterator[Jobs]:
    """Jobs around one kind of storage."""
    with storage(request.param, work / "storage") as (url, environment):
        found = Jobs(work, url, dict(environment))
        yield found
        for job in found.started:
            if job.poll() is None:
                job.kill()
                job.communicate()


PLAIN: dict[str, str] = {}


def plain(work: Path, type_: str) -> str:
    """The id of a build that knows of nobody; the checkpoint is the same in every test."""
    if type_ not in PLAIN:
        built = api.build(folder=work, name="m", quantize=type_, store=work / type_)
        PLAIN[type_] = str(built.id)
    return PLAIN[type_]


@pytest.mark.parametrize("late", [0, 12], ids=["at once", "later"])
def test_two_types_make_no_range_twice(jobs: Jobs, late: int) -> None:
    """Q4_K_M and Q4_K_S have most tensors in common; the second job comes at once or later."""
    jobs.environment["LATE"] = str(late)
    jobs.start("q4_K_M")
    jobs.until(late)
    jobs.start("q4_K_S")
    assert jobs.ids() == [plain(jobs.work, "q4_K_M"), plain(jobs.work, "q4_K_S")]
    made = jobs.made()
    assert len(made) == len(set(made)) > 20


@pytest.mark.parametrize("jobs", ["folder"], indirect=True)
def test_a_job_that_is_alone_sends_its_layer_alone(jobs: Jobs) -> None:
    """Nothing is stored twice."""
    jobs.start("q4_K_M")
    jobs.ids()
    blobs = list((jobs.work / "storage/shared/v1/blob").iterdir())
    largest = max(path.stat().st_size for path in blobs)
    assert sum(path.stat().st_size for path in blobs) < largest * 1.5
    assert list((jobs.work / "storage/shared/v1/lease").iterdir()) == []


@pytest.mark.parametrize("jobs", ["folder"], indirect=True)
@pytest.mark.parametrize("victim", [0, 1])
def test_of_two_jobs_one_is_killed(jobs: Jobs, victim: int) -> None:
    """The other one ends with the right model, and leaves no lease of its own."""
    jobs.start("q4_K_M")
    jobs.start("q4_K_S")
    jobs.until(15)
    job = jobs.started.pop(victim)
    job.send_signal(signal.SIGKILL)
    job.communicate()
    assert jobs.ids() == [plain(jobs.work, ["q4_K_S", "q4_K_M"][victim])]


@pytest.mark.parametrize("jobs", ["folder"], indirect=True)
def test_parts_of_two_types_make_no_range_twice(jobs: Jobs) -> None:
    """Array jobs that fill one cache for two builds."""
    for type_ in ("q4_K_M", "q4_K_S"):
        jobs.start(type_, "--part", "1/1")
    jobs.ids()
    made = jobs.made()
    assert len(made) == len(set(made)) > 20
    assert os.listdir(jobs.work / "storage/shared/v1/lease") == []


def test_who_can_be_told_of_others(tmp_path: Path) -> None:
    """A job on a cache that it writes, which knows who was first, and of a known source."""
    store = MemoryStore(tmp_path / "store")
    known = {"gguf": "x"}
    assert flight_of(RangeCache(store, known), store.blobs) is None
    for place, writes, origin, told in (
        (MemoryStorage(), True, known, True),
        (MemoryStorage(), True, None, False),
        (MemoryStorage(), False, known, False),
        (MemoryStorage(can_lease=False), True, known, False),
    ):
        cache = TeamCache([] if writes else [place], place if writes else None, store.blobs)
        store.shared = cache
        found = flight_of(RangeCache(store, origin), store.blobs)
        assert (found is not None) is told
        cache.close()


def a_flight(tmp_path: Path, name: str, place: MemoryStorage) -> tuple[PieceFlight, TeamCache]:
    """A job on a storage, with a store of its own."""
    store = MemoryStore(tmp_path / name)
    cache = TeamCache([], place, store.blobs)
    store.shared = cache
    found = flight_of(RangeCache(store, {"gguf": "x"}), store.blobs)
    assert found is not None
    return found, cache


@pytest.mark.parametrize("sends", [True, False])
def test_a_job_waits_for_one_that_sends_what_it_had(
    sends: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that takes within reason; for one that does not see it, a moment."""
    monkeypatch.setattr(flight, "_NOTICE_SECONDS", 0.3)
    place = MemoryStorage()
    first, sending = a_flight(tmp_path, "first", place)
    second, _ = a_flight(tmp_path, "second", place)
    leases = [sending.take(first._names[name]) for name in ("room", "joined")[: 1 + sends]]
    begun = threading.Event()

    def run() -> None:
        with second.present(lambda: None):
            begun.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert begun.wait(1.5) is not sends
    leases.append(sending.take(first._names["ready"]))
    assert begun.wait(30)
    thread.join()
    for lease in leases:
        assert lease is not None
        lease.release()
    sending.close()
