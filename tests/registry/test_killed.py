"""A pull or a push that is killed at any moment goes on where it was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from counting_proxy import counting_proxy, lost_of, noted
from registries import digest_of
from stand_in import stand_in
from stores import check_promise

from mbuild.core.digest import Digest
from mbuild.core.names import ModelName
from mbuild.core.transfers import Direction
from mbuild.registry.client.access import Nearness
from mbuild.registry.transfer.moving import connections
from mbuild.store import Store
from mbuild.work.cores import THREADS_VARIABLE

SIZE = 300_000_000
KILLS = 20
RATE = 24_000_000
"""Bytes a second on each of two connections, so that 300 MB take some seconds."""

THREADS = 3
"""Enough that a pull within a machine has two connections."""

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what it has received")


def start(store: Path, *arguments: str, threads: int = THREADS) -> subprocess.Popen[bytes]:
    """The command line, on a store, without logins."""
    environment = {**os.environ, "OLLAMA_MODELS": str(store), "HOME": str(store.parent)}
    environment[THREADS_VARIABLE] = str(threads)
    environment.pop("DOCKER_CONFIG", None)
    return subprocess.Popen(
        [sys.executable, "-m", "mbuild", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )


def kill_at(process: subprocess.Popen[bytes], count: int, travelled: Callable[[], int]) -> None:
    """Kill the process once so many bytes have travelled."""
    while process.poll() is None:
        if travelled() >= count:
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=30)
            return
        time.sleep(0.002)
    _, errors = process.communicate()
    raise AssertionError(f"it ended before it was killed: {errors.decode()}")


@pytest.mark.slow
@LINUX
def test_a_pull_that_is_killed_twenty_times(tmp_path: Path) -> None:
    """Loses at most a megabyte a connection each time, and all kills together 5 % of the bytes.

    What counts are bytes that came, to the program or to the kernel for it.
    """
    weights = random.Random(7).randbytes(1 << 20) * (SIZE >> 20)
    store = tmp_path / "store"
    with stand_in() as (registry, upstream), counting_proxy(upstream) as (proxy, host):
        registry.model("a/m:v1", weights)
        proxy.rate = RATE
        moments = sorted(random.Random(1).sample(range(SIZE), KILLS))
        for moment in moments:
            process = start(store, "pull", f"{host}/a/m:v1", "--insecure")
            kill_at(process, moment, lambda: proxy.sent)
            assert list(Store(store).manifests.names()) == []
        proxy.rate = 0
        last = start(store, "pull", f"{host}/a/m:v1", "--insecure")
        _, errors = last.communicate(timeout=120)
        assert last.returncode == 0, errors
        proxy.settle()
        lost = sum(body.received for body in proxy.blobs(digest_of(weights))) - len(weights)
        assert 0 <= lost <= 2 * 1_000_000 * KILLS
        assert lost <= len(weights) * 0.05, lost / len(weights)
        assert check_promise(store) == 1
        assert not any((store / ".mbuild" / "partial").iterdir())


@pytest.mark.slow
def test_a_push_that_is_killed_twenty_times(tmp_path: Path, tiny_store: Store) -> None:
    """To a registry that remembers: the same bound, and the manifest is last."""
    weights = random.Random(8).randbytes(1 << 20) * (SIZE >> 20)
    blob = tiny_store.blobs.put(weights)
    stored = tiny_store.manifests.read(ModelName.parse("tiny")).manifest
    layers = (stored.layers[0]._replace(digest=blob.digest, size=blob.size), *stored.layers[1:])
    tiny_store.replace(ModelName.parse("large"), stored._replace(layers=layers).encode())
    with stand_in() as (registry, host):
        registry.pause = (64 << 10) / RATE / 5
        target = f"{host}/a/large:v1"
        for moment in sorted(random.Random(2).sample(range(SIZE), KILLS)):
            process = start(tiny_store.root, "push", "large", target, "--insecure")
            kill_at(process, moment, lambda: registry.taken)
            assert "a/large:v1" not in registry.manifests
        registry.pause = 0
        last = start(tiny_store.root, "push", "large", target, "--insecure")
        _, errors = last.communicate(timeout=120)
        assert last.returncode == 0, errors
        assert registry.taken <= len(weights) * 1.05, registry.taken / len(weights)
        assert registry.blobs[digest_of(weights)] == weights
        assert registry.manifests["a/large:v1"] == tiny_store.manifests.read_bytes(
            ModelName.parse("large")
        )


@LINUX
@pytest.mark.parametrize(("threads", "size"), [(2, 48), (THREADS, 160)])
def test_a_kill_in_full_flight_loses_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, size: int
) -> None:
    """At most a megabyte a connection, also of what only the kernel had; 5 % of a small model."""
    monkeypatch.setenv(THREADS_VARIABLE, str(threads))
    count = connections(Direction.PULL, Nearness.LOOPBACK)
    weights = random.Random(7).randbytes(1 << 20) * size
    digest, pick, lost, twice = Digest.of(weights), random.Random(3), list[int](), 0
    with stand_in() as (registry, upstream), counting_proxy(upstream) as (proxy, host):
        registry.model("a/m:v1", weights)
        for number in range(4):
            store = tmp_path / str(number)
            moment = pick.randrange(1 << 20, size * 3 << 18)
            proxy.forget()
            pull = ("pull", f"{host}/a/m:v1", "--insecure")
            process = start(store, *pull, threads=threads)
            while process.poll() is None and proxy.sent < moment:
                time.sleep(0.001)
            process.kill()
            process.communicate(timeout=30)
            proxy.settle()
            if process.returncode < 0:  # else it was faster
                spans, flying = noted(store, digest), proxy.blobs(str(digest))[-count:]
                lost += [lost_of(body, spans) for body in flying]
            _, errors = start(store, *pull, threads=threads).communicate(timeout=60)
            proxy.settle()
            received = sum(body.received for body in proxy.blobs(str(digest)))
            assert received >= len(weights), errors
            twice += received - len(weights)
    assert len(lost) >= 2 * count and max(lost) <= 1_000_000, lost
    assert twice <= 4 * len(weights) * 0.05, twice


def test_a_journal_that_lies_costs_a_second_download(tmp_path: Path) -> None:
    """The power may go between the journal and the bytes: the digest finds out."""
    weights = random.Random(9).randbytes(5 << 20)
    store = tmp_path / "store"
    folder = store / ".mbuild" / "partial"
    folder.mkdir(parents=True)
    name = f"pull-{digest_of(weights)[7:]}"
    (folder / name).write_bytes(bytes(len(weights)))
    (folder / f"{name}.journal").write_text(f"{len(weights)}\n0 {len(weights)}\n12")
    with stand_in() as (registry, host):
        registry.model("a/m:v1", weights)
        done = start(store, "pull", f"{host}/a/m:v1", "--insecure")
        _, errors = done.communicate(timeout=60)
        assert done.returncode == 0, errors
        assert registry.sent[digest_of(weights)] == len(weights)
        assert check_promise(store) == 1


@pytest.mark.parametrize("text", ["", "x", "5\n0 9\n", "{size}\n9 5\n", "{size}\n0 99999999\n"])
def test_a_journal_that_is_none_counts_for_nothing(tmp_path: Path, text: str) -> None:
    """Nor does a file of another length."""
    weights = random.Random(9).randbytes(1 << 20)
    store = tmp_path / "store"
    folder = store / ".mbuild" / "partial"
    folder.mkdir(parents=True)
    name = f"pull-{digest_of(weights)[7:]}"
    (folder / name).write_bytes(bytes(len(weights)))
    (folder / f"{name}.journal").write_text(text.format(size=len(weights)))
    with stand_in() as (registry, host):
        registry.model("a/m:v1", weights)
        done = start(store, "pull", f"{host}/a/m:v1", "--insecure")
        _, errors = done.communicate(timeout=60)
        assert done.returncode == 0, errors
        assert registry.sent[digest_of(weights)] == len(weights)
        assert check_promise(store) == 1


def test_two_pulls_of_one_blob_fetch_it_once(tmp_path: Path) -> None:
    """The second waits, and finds it there."""
    weights = random.Random(9).randbytes(1 << 20) * 20
    store = tmp_path / "store"
    with stand_in() as (registry, host):
        registry.model("a/m:v1", weights)
        registry.model("b/m:v1", weights)
        registry.pause = 0.003
        pulls = [start(store, "pull", f"{host}/{name}/m:v1", "--insecure") for name in "ab"]
        for process in pulls:
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 0, errors
        assert registry.sent[digest_of(weights)] == len(weights)
        assert check_promise(store) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_pull_at_once(tmp_path: Path, number: int) -> None:
    """Even if the registry says nothing more; what has arrived is kept, and that is said."""
    weights = random.Random(9).randbytes(1 << 20) * 40
    with stand_in() as (registry, host):
        registry.model("a/m:v1", weights)
        registry.pause = 0.02
        process = start(tmp_path / "store", "pull", f"{host}/a/m:v1", "--insecure")
        while sum(registry.sent.values()) < 4 << 20:
            assert process.poll() is None
            time.sleep(0.01)
        registry.pause = 100
        time.sleep(0.2)
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
        assert process.returncode == 128 + number
        assert b"the same command continues from there" in errors
        registry.pause = 0
        again = start(tmp_path / "store", "pull", f"{host}/a/m:v1", "--insecure")
        _, errors = again.communicate(timeout=60)
        assert again.returncode == 0, errors
        assert registry.sent[digest_of(weights)] < len(weights) * 1.2
