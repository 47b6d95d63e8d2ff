"""Weights that are used while they come and never stored: ``--no-keep-source``."""

from __future__ import annotations

import hashlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from checkpoints import files_of
from conftest import Run
from example_models import write_chat
from hub_stand_in import HubStandIn, hub_stand_in
from inprocess import in_process
from stores import check_promise

from mbuild.build.steps import pulling
from mbuild.core.digest import Digest
from mbuild.core.errors import SourceError
from mbuild.core.names import ModelName
from mbuild.core.system import make_hole
from mbuild.registry.transfer import download, passing, queueing
from mbuild.registry.transfer.partial import OtherBytesError
from mbuild.registry.transfer.passing import PassingBlob
from mbuild.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="takes Linux's holes in files")

REPO = "org/chat"
MIB = 1 << 20


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process, on an empty store, without a login or a Hub's cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HF_TOKEN", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return in_process(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A checkpoint of some megabytes."""
    folder = write_chat(tmp_path_factory.mktemp("checkpoint") / "chat", LAYERS=8)
    return {name: path.read_bytes() for name, path in files_of(folder).items()}


@pytest.fixture
def hub(
    checkpoint: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[HubStandIn]:
    """The Hub with ``org/chat``, which a Modelfile names; small holes count as large ones do."""
    monkeypatch.setattr(passing, "LEAST_HOLE", 64 << 10)
    monkeypatch.setattr(passing, "LEAST_READ", 4 << 10)
    monkeypatch.setattr(pulling, "WINDOW", MIB)
    monkeypatch.setattr(download, "RANGE", 256 << 10)
    monkeypatch.setattr(queueing, "HEADER", 64 << 10)
    with hub_stand_in() as found:
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        found.put(REPO, checkpoint)
        found.forget()
        (tmp_path / "Modelfile").write_text(f"FROM hf.co/{REPO}\n")
        yield found


def weights_of(checkpoint: dict[str, bytes]) -> dict[str, bytes]:
    """The files of weights by their names as blobs."""
    names = [name for name in checkpoint if name.endswith(".safetensors")]
    return {f"sha256-{hashlib.sha256(checkpoint[n]).hexdigest()}": checkpoint[n] for n in names}


def identity(folder: Path) -> str:
    return str(Store(folder / "store").manifests.read(ModelName.parse("m")).id)


@contextmanager
def watched(folder: Path, names: set[str]) -> Iterator[list[int]]:
    """Meanwhile, the most room that unfinished downloads take; none is ever a blob or kept."""
    most, over, seen = [0], threading.Event(), list[str]()

    def watch() -> None:
        store = folder / "store"
        while not over.is_set():
            room = 0
            for path in (store / ".mbuild/partial").glob("pull-*"):
                try:
                    room += path.stat().st_blocks * 512
                except OSError:
                    continue
            most[0] = max(most[0], room)
            for place in (store / "blobs", store / ".mbuild/kept"):
                seen.extend(name for name in names if (place / name).exists())
            time.sleep(0.002)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()
    assert not seen


@pytest.mark.parametrize("options", [(), ("-q", "q8_0", "-q", "q4_0")])
def test_weights_pass_through(
    mbuild: Run,
    tmp_path: Path,
    hub: HubStandIn,
    checkpoint: dict[str, bytes],
    options: tuple[str, ...],
) -> None:
    """They are no blob at any time and never whole on the disk; the model is the same."""
    hub.pause = 0.03
    weights = weights_of(checkpoint)
    with watched(tmp_path, set(weights)) as most:
        done = mbuild("-t", "m", "--no-keep-source", *options)
    assert done.returncode == 0, done.stderr
    total = sum(map(len, weights.values()))
    assert total > 4 * MIB and 0 < most[0] < total * 0.7
    assert hub.weight_bytes() == total
    assert not list((tmp_path / "store/.mbuild/partial").glob("pull-*"))
    first = identity(tmp_path) if not options else ""
    hub.forget()
    done = mbuild("-t", "m", "--no-keep-source", *options)
    assert "0 steps run" in done.stderr and not hub.requests
    check_promise(tmp_path / "store")
    if first:
        shutil.rmtree(tmp_path / "store")
        assert mbuild("-t", "m").returncode == 0
        assert identity(tmp_path) == first


def test_wrong_bytes_are_in_no_model(mbuild: Run, tmp_path: Path, hub: HubStandIn) -> None:
    """What was used by then is not recorded; the next build begins anew and is right."""
    hub.lie = True
    done = mbuild("-t", "m", "--no-keep-source")
    assert done.returncode == 1 and "the wrong bytes" in done.stderr
    assert not list(Store(tmp_path / "store").manifests.names())
    assert not list((tmp_path / "store/.mbuild/partial").glob("pull-*"))
    hub.lie = False
    done = mbuild("-t", "m", "--no-keep-source")
    assert done.returncode == 0 and "steps run, 0 cached" in done.stderr, done.stderr


def test_what_two_steps_read_apart_is_stored(
    mbuild: Run, tmp_path: Path, hub: HubStandIn, checkpoint: dict[str, bytes]
) -> None:
    """A draft of the same repository reads it a second time: it is kept until the build ends."""
    (tmp_path / "Modelfile").write_text(f"FROM hf.co/{REPO}\nDRAFT hf.co/{REPO}\n")
    done = mbuild("-t", "m", "--no-keep-source")
    assert done.returncode == 0, done.stderr
    for place in (tmp_path / "store/blobs", tmp_path / "store/.mbuild/kept"):
        assert weights_of(checkpoint).keys().isdisjoint(path.name for path in place.iterdir())


DATA = bytes(range(256)) * 4096 * 3


def begun(tmp_path: Path, digest: Digest) -> PassingBlob:
    """A blob of which nothing is there yet."""
    store = Store(tmp_path / "store")
    store.prepare()
    blob = PassingBlob(store.blobs, digest, len(DATA))
    assert blob.claim()
    blob.begin()
    return blob


def arrive(blob: PassingBlob, start: int, end: int) -> None:
    blob.write(start, DATA[start:end])
    blob.note(start, end)
    blob.advance()


def test_what_was_read_gives_its_room_back(tmp_path: Path) -> None:
    """Once it is digested, too; a second reading is an error, before and after it."""
    blob = begun(tmp_path, Digest.of(DATA))
    arrive(blob, 0, 2 * MIB)
    assert blob.ahead == 2 * MIB
    path, full = blob.path, blob.path.stat().st_blocks
    blob.check(0, MIB)
    blob.used(0, MIB + 5)
    assert blob.ahead == MIB - 5 and path.stat().st_blocks <= full - MIB // 512
    for reading in (blob.check, blob.used):
        with pytest.raises(SourceError, match="needed a second time") as caught:
            reading(MIB - 10, MIB + 100)
        assert caught.value.hint == "build without --no-keep-source"
    blob.check(MIB, 2 * MIB)  # the block that the reading ended in is there
    blob.used(2 * MIB, 3 * MIB)  # what is not digested waits
    arrive(blob, 2 * MIB, len(DATA))
    with pytest.raises(SourceError):
        blob.check(2 * MIB, 3 * MIB)
    made = blob.finish()
    assert (made.digest, made.size) == (Digest.of(DATA), len(DATA)) and made.blake3 is not None
    blob.leave()
    assert path.read_bytes()[MIB : MIB + 100] == DATA[MIB : MIB + 100]  # for who reads still
    blob.release()
    assert not list((tmp_path / "store/.mbuild/partial").iterdir())
    assert not list((tmp_path / "store/blobs").iterdir())


def test_a_digest_counts_what_is_gone(tmp_path: Path) -> None:
    """Bytes that were cut out were digested before: another digest is found out."""
    blob = begun(tmp_path, Digest("3" * 64))
    arrive(blob, 0, len(DATA))
    blob.used(0, len(DATA))
    with pytest.raises(OtherBytesError, match=str(Digest.of(DATA))):
        blob.finish()
    blob.leave()
    blob.release()


def test_holes_are_zeros(tmp_path: Path) -> None:
    """A hole takes no room and leaves the length; what cannot have one stays as it is."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * MIB)
    with path.open("r+b") as file:
        assert make_hole(file.fileno(), 4096, 8192)
    assert path.read_bytes() == b"x" * 4096 + bytes(4096) + b"x" * (MIB - 8192)
    with path.open("rb") as file:  # not for writing
        assert not make_hole(file.fileno(), 0, 4096)
