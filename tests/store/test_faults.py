"""The store's promise under faults: kill -9, full disks, damage, races between processes."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Run
from filesystems import small_file_system
from forked import Forked
from gguf_files import tiny_gguf
from live_server import lines_of, serving
from programs import need
from registries import docker_registry
from stores import check_promise

from mbuild.core.errors import DamagedError
from mbuild.core.names import ModelName
from mbuild.store import Store

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and locks")


def start(root: Path, modelfile: Path, name: str) -> subprocess.Popen[bytes]:
    """Start a builder that is not waited for."""
    command = [sys.executable, "-m", "mbuild", "--store", root, "-f", modelfile, "-t", name]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=quiet, stderr=quiet)  # type: ignore[arg-type]


def fork(root: Path, modelfile: Path, name: str) -> Forked:
    """The same, without the time that Python and the modules take."""
    return Forked(root.parent / f"said-{name}", "--store", root, "-f", modelfile, "-t", name)


@POSIX
@pytest.mark.slow
def test_kill_9_at_any_moment_leaves_a_good_store(tmp_path: Path) -> None:
    """50 rounds of 4 builders, killed at random: nothing torn, nothing missing, nothing left.

    How long four take that nobody kills says when the others may be killed.
    """
    root, chance, whole = tmp_path / "store", random.Random(1), 0.0
    ends: Counter[int] = Counter()
    for round_ in range(51):
        builders, began = [], time.monotonic()
        for number in range(4):
            folder = tmp_path / f"{number}"
            folder.mkdir(exist_ok=True)
            tiny_gguf(folder / "model.gguf", seed=round_ * 2 + number % 2)
            modelfile = folder / "Modelfile"
            modelfile.write_text(f"FROM ./model.gguf\nSYSTEM {round_} {number}\nLICENSE same\n")
            name = "same" if number < 2 else f"other-{number}"
            builders.append(fork(root, modelfile, name))
        time.sleep(chance.uniform(0, whole))
        for builder in builders:
            if whole:
                builder.kill()
            ends[builder.wait()] += 1
        whole = whole or min(time.monotonic() - began, 0.6)
        if (root / "blobs").is_dir():
            check_promise(root)
    assert set(ends) == {0, -signal.SIGKILL}, "some end, some are killed"
    assert fork(root, tmp_path / "0" / "Modelfile", "last").wait() == 0
    assert check_promise(root) >= 1
    assert list((root / ".mbuild" / "tmp").iterdir()) == []
    assert all(name.startswith("sha256-") for name in os.listdir(root / "blobs"))


@POSIX
def test_builders_that_are_not_killed_all_succeed(tmp_path: Path) -> None:
    """8 builders at once, of the same and of different models, need no retry."""
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM shared\n")
    tiny_gguf(tmp_path / "model.gguf")
    root = tmp_path / "store"
    builders = [fork(root, tmp_path / "Modelfile", f"m{n % 3}") for n in range(8)]
    assert [builder.wait() for builder in builders] == [0] * 8
    assert check_promise(root) == 3
    assert len({m.id for m in Store(root).list() if not isinstance(m, DamagedError)}) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    with small_file_system(tmp_path / "disk") as place:
        yield place


def test_builds_and_a_server_end_where_the_disk_is_full(
    mbuild: Run, tmp_path: Path, small_disk: Path
) -> None:
    """Nothing waits for room: a build does without its cache, requests are answered."""
    tiny_gguf(tmp_path / "model.gguf", seed=1)
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM new\n")
    model = (tmp_path / "model.gguf").read_bytes()
    with serving(small_disk / "store", "--port", "0", "--no-run") as server:
        digest = server.upload(model)
        fill(small_disk)
        answer = server.http.post(f"/api/blobs/sha256:{'0' * 64}", content=bytes(4096))
        assert answer.status_code == 507 and "room" in answer.json()["error"]
        for stream in (True, False):
            files = {"m.gguf": digest}
            answer = server.create(model="m", files=files, system="x" * 9000, stream=stream)
            assert "disk" in lines_of(answer)[-1]["error"]
        assert server.http.get("/api/tags").json() == {"models": []}
    done = mbuild("-t", "mario", "--cache-to", small_disk / "cache")
    assert done.returncode == 0, done.stderr
    assert "cache cannot be written: No space left on device" in done.stderr
    fill(small_disk)  # also what the server gave back when it ended
    done = mbuild("-t", "mario", "--store", small_disk / "other")
    assert done.returncode == 1
    # The layer that does not fit, or the weights: which of the two steps says so first is open.
    words = ("writing a blob: No space left on device", "the build will not fit on this disk")
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith(tuple(f"error: {said}" for said in words)), done.stderr
    assert "free space on that disk" in done.stderr and "Traceback" not in done.stderr


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with suppress(OSError), (disk / "filling").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


def test_a_full_disk_is_one_clear_line_and_the_old_model_works(
    mbuild: Run, tmp_path: Path, small_disk: Path
) -> None:
    """Nothing is left of the build that did not fit; the model that was there is untouched."""
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM old\n")
    store = small_disk / "store"
    assert mbuild("--store", store, "-t", "mario").returncode == 0
    before = (store / "manifests/registry.ollama.ai/library/mario/latest").read_bytes()
    (tmp_path / "big.gguf").write_bytes((tmp_path / "model.gguf").read_bytes() + bytes(3 << 20))
    (tmp_path / "Modelfile").write_text("FROM ./big.gguf\nSYSTEM new\n")
    done = mbuild("--store", store, "-t", "mario", "--progress", "plain")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert "will not fit on this disk: " in errors[0]
    assert "Traceback" not in done.stderr
    assert (store / "manifests/registry.ollama.ai/library/mario/latest").read_bytes() == before
    assert list((store / ".mbuild" / "tmp").iterdir()) == []
    assert check_promise(store) == 1
    shown = mbuild("show", "mario", "--store", store, "--system")
    assert shown.stdout == "old\n"


def damage_header(path: Path) -> None:
    path.write_bytes(b"garbage!" * 100 + path.read_bytes()[800:])


def damage_middle(path: Path) -> None:
    data = bytearray(path.read_bytes())
    for position in range(4096, len(data)):
        data[position] ^= 0x5A
    path.write_bytes(data)


def damage_length(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def damage_all(path: Path) -> None:
    path.write_bytes(b"")


def damage_version(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
        connection.commit()


def damage_values(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE records SET value = replace(value, '1', '2')")
        connection.commit()


def damage_tables(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE files")
        connection.commit()


@pytest.mark.parametrize(
    "damage",
    [
        damage_header,
        damage_middle,
        damage_length,
        damage_all,
        damage_version,
        damage_values,
        damage_tables,
    ],
)
def test_a_damaged_cache_costs_a_rebuild_only(mbuild: Run, tmp_path: Path, damage: object) -> None:
    """Whatever happens to the cache's file, the build succeeds with the same model."""
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM old\nLICENSE MIT\n")
    first = mbuild("-t", "mario", "--quiet")
    assert first.returncode == 0, first.stderr
    damage(tmp_path / "store" / ".mbuild" / "cache.db")  # type: ignore[operator]
    second = mbuild("-t", "mario", "--quiet")
    assert (second.returncode, second.stdout) == (0, first.stdout), second.stderr
    third = mbuild("-t", "mario", "--progress", "json")
    assert json.loads(third.stdout.splitlines()[-1])["ran"] == 0


def test_removal_waits_for_running_builds(tmp_path: Path, mbuild: Run) -> None:
    """A blob that a running build may rely on stays until that build is over, then goes."""
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM held\n")
    assert mbuild("-t", "mario").returncode == 0
    running = Store(tmp_path / "store")
    running.begin()
    assert mbuild("rm", "mario").returncode == 0
    held = {blob.read_bytes() for blob in (tmp_path / "store" / "blobs").iterdir()}
    assert b"held" in held
    running.end()
    assert list((tmp_path / "store" / "blobs").iterdir()) == []


@POSIX
def test_a_killed_builder_leaves_no_lock(tmp_path: Path) -> None:
    """The lock of a builder that was killed is free at once."""
    root = tmp_path / "store"
    code = (
        "import sys, time; from pathlib import Path; from mbuild.store import Store;"
        "Store(Path(sys.argv[1])).begin(); print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(root)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    store = Store(root)
    digest = store.blobs.put(b"unused").digest
    store.discard([digest])
    assert store.collect_garbage() == 0
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert store.collect_garbage() == 1
    store.database.close()


def test_nothing_is_collected_while_a_manifest_is_unreadable(tmp_path: Path) -> None:
    """A torn manifest may name any blob, so all of them stay; list says which it is."""
    store = Store(tmp_path / "store")
    store.prepare()
    digest = store.blobs.put(b"maybe used").digest
    torn = store.root / "manifests/registry.ollama.ai/library/torn/latest"
    torn.parent.mkdir(parents=True)
    torn.write_text('{"schemaVersion":2,"conf')
    store.discard([digest])
    assert store.collect_garbage() == 0
    assert store.blobs.has(digest, 10)
    (damaged,) = store.list()
    assert isinstance(damaged, DamagedError)
    assert "torn:latest" in damaged.message
    store.remove(ModelName.parse("torn"))
    assert store.collect_garbage() == 1
    store.database.close()


def special_files(folder: Path) -> list[tuple[Path, str]]:
    """A pipe, a socket, a device, a directory: none of them may be read."""
    os.mkfifo(folder / "pipe.gguf")
    listener = socket.socket(socket.AF_UNIX)
    place = os.getcwd()
    os.chdir(folder)  # a socket's path is limited to 108 bytes
    try:
        listener.bind("socket.gguf")
    finally:
        os.chdir(place)
        listener.close()
    return [
        (folder / "pipe.gguf", "a named pipe"),
        (folder / "socket.gguf", "a socket"),
        (Path("/dev/zero"), "a device"),
        (Path("/dev/random"), "a device"),
    ]


@POSIX
def test_special_files_are_refused_at_once(mbuild: Run, tmp_path: Path) -> None:
    """FROM, ADAPTER and DRAFT refuse what is no regular file, by what it is."""
    tiny_gguf(tmp_path / "model.gguf")
    for path, what in special_files(tmp_path):
        for line in (f"FROM {path}", f"FROM ./model.gguf\nADAPTER {path}"):
            (tmp_path / "Modelfile").write_text(line + "\n")
            done = mbuild("-t", "mario", timeout=10)
            assert done.returncode == 1
            assert f"is {what}, not a regular file" in done.stderr


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_an_import_is_not_lost(tmp_path: Path, number: signal.Signals) -> None:
    """It comes through once the module is there, and not in the middle of the import."""
    (tmp_path / "slow.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(0.1)\nwhole = True\n"
    )
    code = (
        "import sys, time\nfrom mbuild.cli import signals\nsignals.stop_on_signals()\n"
        "try:\n    import slow\n    time.sleep(20)\n"
        "except KeyboardInterrupt:\n    print(sys.modules['slow'].whole)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_a_thread_starts_loses_no_thread(number: signal.Signals) -> None:
    """It comes through once the pool knows of the thread, and so waits for what that does."""
    code = (
        "import os, time\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from mbuild.cli import signals\n"
        "signals.stop_on_signals()\n"
        "class Signalling:\n"
        "    def acquire(self, timeout):\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        return False\n"
        "pool, done = ThreadPoolExecutor(1), []\n"
        "pool._idle_semaphore = Signalling()\n"  # asked before a thread is started
        "try:\n"
        "    pool.submit(lambda: (time.sleep(0.2), done.append(1)))\n"
        "    time.sleep(20)\n"
        "except KeyboardInterrupt:\n"
        "    pool.shutdown(wait=True)\n"
        "    print(len(pool._threads), done, flush=True)\n"
        "os._exit(signals.stopped())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (128 + number, "1 [1]\n"), done.stderr


@POSIX
def test_ctrl_c_stops_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    """SIGINT and SIGTERM end a large import; its temporary file goes with it."""
    root = tmp_path / "store"
    tiny_gguf(tmp_path / "model.gguf")
    with (tmp_path / "model.gguf").open("r+b") as file:
        file.truncate(8 << 30)  # sparse
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\n")
    for number in (signal.SIGINT, signal.SIGTERM):
        builder = start(root, tmp_path / "Modelfile", "mario")
        temporary = root / ".mbuild" / "tmp"
        deadline = time.monotonic() + 30
        while not (temporary.is_dir() and list(temporary.iterdir())):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        builder.send_signal(number)
        assert builder.wait(20) == 128 + number
        assert list(temporary.iterdir()) == []
        assert list((root / "blobs").iterdir()) == []


def test_a_read_only_store_can_be_listed_pushed_and_says_so_when_built_into(
    mbuild: Run, tmp_path: Path
) -> None:
    """Reading needs no lock and no cache; building names the folder and the remedy."""
    need("mount", "umount")
    tiny_gguf(tmp_path / "model.gguf")
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\nSYSTEM old\n")
    assert mbuild("-t", "mario").returncode == 0
    store, view = tmp_path / "store", tmp_path / "view"
    view.mkdir()
    bind = [["mount", "--bind", str(store), str(view)], ["mount", "-o", "remount,ro,bind", view]]
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("a read-only mount needs root on Linux")
    if any(subprocess.run(c, capture_output=True, check=False).returncode for c in bind):
        pytest.skip("bind mounts are not allowed here")
    try:
        assert "mario:latest" in mbuild("list", "--store", view).stdout
        assert mbuild("show", "mario", "--store", view, "--system").stdout == "old\n"
        done = mbuild("-t", "luigi", "--store", view)
        assert done.returncode == 1
        assert "Read-only file system" in done.stderr
        assert "--store" in done.stderr
        with docker_registry(tmp_path / "registry") as host:
            pushed = mbuild("push", "mario", f"{host}/a/mario", "--store", view)
        assert pushed.returncode == 0, pushed.stderr
    finally:
        subprocess.run(["umount", str(view)], check=False)
