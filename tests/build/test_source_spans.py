"""A file's digest from its parts, in any order and on any threads; builds that read once."""

from __future__ import annotations

import pickle
import random
import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from blake3 import blake3
from conftest import Run
from example_models import settle, write_chat
from inprocess import in_process

from mbuild.build.graph import StepContext
from mbuild.build.sources import reading
from mbuild.build.sources.spans import Spans
from mbuild.build.sources.values import FileStamp, SourceFile
from mbuild.build.steps import opened
from mbuild.build.steps.opened import OpenFiles
from mbuild.core.errors import CancelledError, FormatError
from mbuild.core.names import ModelName
from mbuild.quant.compiled import chunks
from mbuild.quant.engine import Unavailable
from mbuild.store import Store
from mbuild.store.copying import OpenFile
from mbuild.store.media import MODEL

OTHER_FILES = 8 << 20
"""Bytes that a build reads of other files: the result's header, modules of a child process."""

SIZES = (1025, 2048, 2049, 3072, 5000, 1 << 14, (1 << 14) + 1, 100_000, 300_001)


@pytest.fixture(autouse=True)
def ready() -> None:
    """The code is there."""
    assert chunks.why_unavailable() is None


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty one."""
    store = Store(tmp_path / "store")
    store.prepare()
    return store


def parts_of(size: int, count: int, rnd: random.Random) -> list[tuple[int, int]]:
    """A file cut anywhere, its parts in any order, some of them twice and overlapping others."""
    cuts = sorted({0, size, *(rnd.randrange(size) for _ in range(count))})
    parts = list(pairwise(cuts))
    parts += [(at, rnd.randrange(at, size + 1)) for at in (rnd.randrange(size) for _ in range(4))]
    rnd.shuffle(parts)
    return parts


@pytest.mark.parametrize("size", SIZES)
def test_parts_in_any_order_give_the_files_digest(size: int) -> None:
    """Whatever the cuts, and though some bytes come more than once."""
    rnd = random.Random(size)
    data = memoryview(rnd.randbytes(size))
    for count in (0, 1, 3, 40):
        spans = Spans(size)
        for start, stop in parts_of(size, count, rnd):
            spans.add(start, data[start:stop])
        assert list(spans.missing()) == []
        assert spans.digest().hex == blake3(data).hexdigest()


@pytest.mark.parametrize("size", SIZES)
def test_what_nobody_brought_is_named(size: int) -> None:
    """Exactly that, and with it the digest is right."""
    rnd = random.Random(size)
    data = memoryview(rnd.randbytes(size))
    spans = Spans(size)
    brought = [part for part in parts_of(size, 20, rnd) if rnd.random() < 0.5]
    for start, stop in brought:
        spans.add(start, data[start:stop])
    seen = {at for start, stop in brought for at in range(start, stop)}
    missing = list(spans.missing())
    assert {at for start, stop in missing for at in range(start, stop)} == {*range(size)} - seen
    for start, stop in missing:
        spans.add(start, data[start:stop])
    assert spans.digest().hex == blake3(data).hexdigest()


def test_threads_bring_parts_side_by_side() -> None:
    """Neighbours on different threads end in one tree, whoever comes last."""
    size, rnd = 3_000_001, random.Random(0)
    data = memoryview(rnd.randbytes(size))
    spans, gate = Spans(size), threading.Barrier(8)

    def bring(parts: list[tuple[int, int]]) -> None:
        gate.wait(30)
        for start, stop in parts:
            spans.add(start, data[start:stop])

    parts = parts_of(size, 800, rnd)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(bring, [parts[n::8] for n in range(8)]))
    assert spans.digest().hex == blake3(data).hexdigest()


# In a step.


def large(path: Path, monkeypatch: pytest.MonkeyPatch) -> SourceFile:
    """A file that counts as a large one."""
    monkeypatch.setattr(opened, "MUCH", 1)
    path.write_bytes(random.Random(1).randbytes(3 << 20))
    return SourceFile(path.name, path, FileStamp.of(path.stat()), None)


def digest_of(file: SourceFile, context: StepContext, read: int = 0) -> str:
    """What a step learns, that reads so many bytes of weights, the last ones first."""
    with ExitStack() as stack:
        files = OpenFiles({file.name: file}, stack)
        data = memoryview(file.path.read_bytes())
        for start in reversed(range(1000, read, 1 << 18)):
            files.seen[file.name](start, data[start : min(start + (1 << 18), read)])
        files.finish(context)
        files.finish(context)  # of a group, by each kind of step
        found = str(files.digests(context)[str(file.path)])
    context.store.cache.flush()
    return found


@pytest.mark.parametrize("read", [0, 2 << 20])
def test_a_step_learns_a_large_files_digest(
    read: int, tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From what it read and from the rest, also where it read nothing; and it is remembered."""
    file = large(tmp_path / "weights", monkeypatch)
    settle()
    expected = f"blake3:{blake3(file.path.read_bytes()).hexdigest()}"
    assert digest_of(file, StepContext.silent(store), read) == expected
    assert str(store.files.file_digest(file.path.stat())) == expected


def test_without_machine_code_a_file_is_read_beside(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same digest, from a second reading."""
    file = large(tmp_path / "weights", monkeypatch)
    monkeypatch.setattr(chunks, "_loaded", [Unavailable("no llvmlite", "install it")])
    expected = f"blake3:{blake3(file.path.read_bytes()).hexdigest()}"
    assert digest_of(file, StepContext.silent(store), 2 << 20) == expected


def test_a_file_that_became_shorter_is_refused(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody has read may be gone when it is read in the end."""
    file = large(tmp_path / "weights", monkeypatch)
    with ExitStack() as stack:
        files = OpenFiles({file.name: file}, stack)
        with file.path.open("r+b") as writable:
            writable.truncate(1 << 20)
        with pytest.raises(FormatError, match="became shorter"):
            files.finish(StepContext.silent(store))


def test_a_stopped_build_does_not_read_the_rest(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report that ends the build ends the reading."""
    file = large(tmp_path / "weights", monkeypatch)
    silent = StepContext.silent(store)

    def stop(completed: int, total: int) -> None:
        raise CancelledError("stopped")

    with ExitStack() as stack:
        files = OpenFiles({file.name: file}, stack)
        with pytest.raises(CancelledError, match="stopped"):
            files.finish(silent._replace(report=stop))


# In a build.


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A checkpoint of 30 MB, and a Modelfile FROM it."""
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    return write_chat(tmp_path / "chat", WIDTH=1024, HIDDEN=2048, LAYERS=2)


def weights(store: Store, types: Sequence[str]) -> list[str]:
    """The digests of the models' weights."""
    names = [f"m:{type_.lower()}" for type_ in types] if len(types) > 1 else ["m"]
    found = [store.manifests.read(ModelName.parse(name)).manifest.layers for name in names]
    return [str(layer.digest) for layers in found for layer in layers if layer.media_type == MODEL]


@pytest.mark.parametrize("types", [(), ("q4_0",), ("q4_K_M", "q8_0")])
def test_a_build_reads_each_byte_of_its_source_once(
    types: tuple[str, ...], chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read is the source's size and little more, and nothing else comes out of it.

    As the kernel counts it, in this process; the other way to read files gives the measure.
    """
    if not Path("/proc/self/io").exists():
        pytest.skip("only Linux counts what a process reads")
    mbuild: Run = in_process(tmp_path, monkeypatch)
    options = [word for type_ in types for word in ("-q", type_)]
    shard = chat / "model.safetensors"
    made, read = [], []
    for much in (1, 1, 1 << 40):  # the first build loads modules
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        monkeypatch.setattr(opened, "MUCH", much)
        before = bytes_read()
        assert mbuild("-t", "m", *options).returncode == 0
        read.append(bytes_read() - before)
        store = Store(tmp_path / "store")
        known = store.files.file_digest(shard.stat())
        assert known is not None and known.hex == blake3(shard.read_bytes()).hexdigest()
        made.append(weights(store, types))
    size = shard.stat().st_size
    assert size > 25 << 20
    assert size <= read[1] < size * 1.01 + OTHER_FILES
    assert read[2] - read[1] > size * 0.98
    assert made[1] == made[2] and len(made[1]) == max(1, len(types))


def bytes_read() -> int:
    """What this process has read from files so far, whether they were in memory or not."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["rchar"])


@pytest.mark.parametrize("code", [True, False])
def test_a_huge_file_is_digested_on_all_cores(
    code: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a build, too, and told as it goes; without the machine code in order."""
    monkeypatch.setattr(reading, "HUGE", 1)
    monkeypatch.setattr(reading, "_FEW", 0)
    threads = set()
    add = Spans.add

    def noted(self: Spans, start: int, data: memoryview) -> None:
        threads.add(threading.current_thread().name.rpartition("_")[0])
        add(self, start, data)

    monkeypatch.setattr(Spans, "add", noted)
    if not code:
        monkeypatch.setattr(chunks, "_loaded", [Unavailable("no llvmlite", "install it")])
    path, told = tmp_path / "weights", list[tuple[int, int]]()
    path.write_bytes(random.Random(2).randbytes((9 << 20) + 7))
    source = SourceFile("weights", path, FileStamp.of(path.stat()), None)
    with OpenFile.open(path, "weights") as file:
        found = reading.read_digests(file, source, lambda *done: told.append(done))
    assert found.digest is not None and found.digest.hex == blake3(path.read_bytes()).hexdigest()
    assert told[-1] == (path.stat().st_size, path.stat().st_size)
    assert threads == ({"mbuild-hash"} if code else set())


@pytest.mark.parametrize("size", [1025, 5000, (1 << 18) + 1, (3 << 20) + 77])
def test_parts_that_others_read_make_the_same_digest(size: int) -> None:
    """Cut anywhere, in any order, through pickle; a part that overlaps is left to be read."""
    dice = random.Random(size)
    data = dice.randbytes(size)
    cuts = sorted({0, size, *(dice.randrange(size) for _ in range(7))})
    spans = Spans(size)
    pairs = list(pairwise(cuts))
    dice.shuffle(pairs)
    for start, stop in pairs[1:]:
        part = Spans(size).part(start, memoryview(data)[start:stop])
        spans.absorb(pickle.loads(pickle.dumps(part)))
    own, other = pairs[0]
    wider = max(own - 1, 0), min(other + 1, size)
    spans.absorb(Spans(size).part(wider[0], memoryview(data)[slice(*wider)]))
    assert [(start, stop) for start, stop in spans.missing()] == [pairs[0]]
    spans.add(own, memoryview(data)[own:other])
    assert spans.digest().hex == blake3(data).hexdigest()
