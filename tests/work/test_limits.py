"""What held work up, in seconds, told apart."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
from conftest import Run
from example_models import write_chat
from gguf_files import tiny_gguf
from inprocess import in_process

from mbuild.gguf.model import Tensor
from mbuild.gguf.types import GGMLType
from mbuild.store import Store
from mbuild.store import writing as store_writing
from mbuild.store.blocks import BLOCK, Blocks
from mbuild.work.ahead import Ahead, Job
from mbuild.work.limits import CORES, DISK, HASH, Limits, reading, waited_for_reads


def test_the_time_of_a_block_counts_for_what_held_it_up() -> None:
    """Also where the block ends by an error; times of one kind add up."""
    limits = Limits()
    for _ in range(2):
        with limits.held_up_by(DISK):
            time.sleep(0.02)
    with pytest.raises(OSError), limits.held_up_by(HASH):
        time.sleep(0.02)
        raise OSError
    assert limits.seconds[DISK] >= 0.04 and limits.seconds[HASH] >= 0.02
    assert limits.rounded() == {what: round(s, 3) for what, s in limits.seconds.items()}
    assert limits.seconds[CORES] == 0


def test_values_that_come_slowly() -> None:
    """What is between them, in whoever uses them, does not count."""
    limits = Limits()

    def slow() -> object:
        for value in "ab":
            time.sleep(0.02)
            yield value

    found = []
    for value in limits.waiting_for(DISK, slow()):
        time.sleep(0.2)
        found.append(value)
    assert found == ["a", "b"] and 0.04 <= limits.seconds[DISK] < 0.2


def test_a_read_waits_as_long_as_its_thread_computes_nothing() -> None:
    """A copy out of memory is computing; each thread has a clock of its own."""
    with reading():
        time.sleep(0.05)
    waited = waited_for_reads()
    assert waited >= 0.05
    with reading():
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
    others: list[float] = []
    thread = threading.Thread(target=lambda: others.append(waited_for_reads()))
    thread.start()
    thread.join()
    assert others == [0.0]


def slow_job(*, reads: bool) -> Job[int]:
    """A job that takes a while, in a read or without one."""

    def run() -> int:
        if reads:
            with reading():
                time.sleep(0.03)
        else:
            time.sleep(0.03)
        return 1

    return Job(run, 1)


@pytest.mark.parametrize(("reads", "what"), [(True, DISK), (False, CORES)])
def test_waiting_for_jobs_is_the_cores_or_the_disks(reads: bool, what: str) -> None:
    """By how much of their time the jobs wait in reads."""
    ahead: Ahead[int] = Ahead([slow_job(reads=reads) for _ in range(6)], 2, 2)
    limits = Limits()
    ahead.start()
    for index in range(6):
        ahead.take(index, limits)
        ahead.done(index)
    ahead.stop()
    other = CORES if what is DISK else DISK
    assert limits.seconds[what] >= 0.06 > limits.seconds[other]


@pytest.mark.parametrize("what", [HASH, DISK])
def test_who_waits_for_a_block_waits_for_the_slowest(what: str, tmp_path: Path) -> None:
    """For what sees blocks, or for the disk: where more of them wait."""
    release = threading.Event()

    def look(data: memoryview) -> None:
        if what is HASH:
            release.wait(30)

    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    blocks = Blocks(fd, look)
    try:
        if what is DISK:
            blocks.then(b"", lambda written: release.wait(30))
        for _ in range(3):
            blocks.put(blocks.take(), BLOCK)
        deadline = time.monotonic() + 30
        while what is DISK and blocks.slowest is HASH and time.monotonic() < deadline:
            time.sleep(0.001)
        assert blocks.slowest is what
    finally:
        release.set()
        blocks.wait()
        blocks.stop()
        os.close(fd)


@pytest.mark.parametrize("few", [0, 99])
def test_a_writer_counts_its_hashing_and_its_disk(
    few: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a thread that digests and without: the digest takes time, and so does the end."""
    monkeypatch.setattr(store_writing, "_FEW", few)
    store = Store(tmp_path / "store")
    with store.using(), store.blobs.writer() as writer:
        writer.write(bytes(48 << 20))
        writer.commit()
    assert writer.limits.seconds[HASH] > 0.001
    assert writer.limits.seconds[DISK] > 0


def test_a_build_says_what_held_its_steps_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the events of the steps that make weights, within their seconds; of others nothing."""
    write_chat(tmp_path / "chat")
    # Large enough to be hashed in some milliseconds, of which its limits are counted.
    filler = Tensor("filler.weight", (1024, 8192), GGMLType.F32, lambda: bytes(32 << 20))
    tiny_gguf(tmp_path / "large.gguf", tensors=[filler])
    mbuild: Run = in_process(tmp_path, monkeypatch)
    seen = {}
    for source, options in (("./chat", []), ("./chat", ["-q", "q4_0"]), ("./large.gguf", [])):
        (tmp_path / "Modelfile").write_text(f"FROM {source}\nSYSTEM You are Mario.\n")
        done = mbuild("-t", "m", "--progress", "json", *options)
        assert done.returncode == 0, done.stderr
        for event in map(json.loads, done.stdout.splitlines()):
            if event["event"] == "StepFinished" and not event["cached"]:
                seen[event["kind"]] = event["limits"]
                assert sum(event["limits"].values()) <= event["seconds"] + 0.01
    for kind in ("convert", "quantize", "import"):
        assert seen[kind].keys() == {"disk", "hash", "cores"} and sum(seen[kind].values()) > 0
    assert seen["params"] == {}
