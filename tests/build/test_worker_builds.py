"""Builds for which others compute: the plain build's bytes, its errors, and nothing lost."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adapters import factors, write_peft
from checkpoints import FAMILIES, write_family
from example_models import set_value, settle, write_chat
from gguf_files import gguf_bytes
from quant_data import imatrix_bytes

import mbuild
from mbuild.build.graph import StepContext
from mbuild.build.sources import spans
from mbuild.build.steps import elsewhere, filling, opened, ranges
from mbuild.build.steps.as_it_is import write_as_it_is
from mbuild.build.steps.changes import ChangedOrigin, DropLayers, TakeTensors
from mbuild.build.steps.filling import VERSIONS, FillSource, FillTask, fill, layers_of, pickled
from mbuild.build.steps.making import RangeMaker
from mbuild.build.steps.opened import OpenFiles
from mbuild.build.steps.origins import GGUFOrigin, LayerOrigin
from mbuild.build.steps.outputs import Variant
from mbuild.build.steps.ranges import Range
from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.errors import WorkerError
from mbuild.core.events import Code, Status
from mbuild.gguf.model import Model, Tensor
from mbuild.gguf.types import GGMLType
from mbuild.quant.engine import Unavailable
from mbuild.store import Layer, Store
from mbuild.store.media import MODEL


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """What a test opened by itself stays open for no other one."""
    yield
    filling.close_idle()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges of 32 KiB and tasks of 96 KiB: every tensor is cut, most tasks have several."""
    monkeypatch.setattr(ranges, "RANGE", 32 << 10)
    monkeypatch.setattr(elsewhere, "TASK", 96 << 10)


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    """Three threads, which do what three processes would."""
    with ThreadPoolExecutor(3) as executor:
        yield executor


@pytest.fixture
def chat(tmp_path: Path) -> Path:
    """A checkpoint, an adapter for it, an importance matrix."""
    folder = write_chat(tmp_path / "chat")
    shapes = {f"model.layers.{n}.self_attn.q_proj": (256, 256) for n in range(2)}
    write_peft(tmp_path / "lora", factors(shapes, 4, 1), rank=4, alpha=8)
    random = np.random.default_rng(0)
    tensors = mbuild.inspect(folder).tensors
    values = {
        each.name: (random.random((1, each.shape[0])) + 0.1, np.ones(1))
        for each in tensors
        if len(each.shape) == 2
    }
    (tmp_path / "imatrix.gguf").write_bytes(imatrix_bytes(values))
    settle()
    return folder


def both(tmp_path: Path, executor: Executor | None, **asked: Any) -> list[str]:
    """The ids with and without workers; of the first also what was said."""
    plain = mbuild.build(folder=tmp_path, name="m", store=tmp_path / "plain", **asked)
    shared = mbuild.build(
        folder=tmp_path, name="m", store=tmp_path / "shared", executor=executor, **asked
    )
    assert shared.warnings == plain.warnings
    return [str(model.id) for built in (plain, shared) for model in built.models]


CASES: dict[str, dict[str, Any]] = {
    "conversion": {"text": "FROM ./chat\n"},
    "conversion in shards": {"text": "FROM ./chat\n", "split_layers": 1},
    "Q4_K_M": {"text": "FROM ./chat\n", "quantize": "q4_K_M"},
    "Q4_K_M in shards": {"text": "FROM ./chat\n", "quantize": "q4_K_M", "split": "400KB"},
    "MERGE": {"text": "# syntax=mbuild/1\nFROM ./chat\nMERGE ./lora WEIGHT 0.5\n"},
    "MERGE and Q6_K": {"text": "# syntax=mbuild/1\nFROM ./chat\nMERGE ./lora\nQUANTIZE q6_K\n"},
}


@pytest.mark.parametrize("case", CASES)
def test_the_bytes_are_those_of_the_plain_build(
    case: str, chat: Path, tmp_path: Path, executor: Executor
) -> None:
    """Whatever is made: converted, merged, quantized, split."""
    plain, shared = both(tmp_path, executor, **CASES[case])
    assert plain == shared


def test_an_importance_matrix_counts_on_every_worker(
    chat: Path, tmp_path: Path, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its path starts from the folder of whoever asks; another type in the same pass, too."""
    monkeypatch.chdir(tmp_path)
    asked = {"text": "FROM ./chat\n", "quantize": ["q4_K_M", "q8_0"], "imatrix": "imatrix.gguf"}
    one, other, *shared = both(tmp_path, executor, **asked)
    assert [one, other] == shared
    without, _ = both(tmp_path, None, text="FROM ./chat\n", quantize="q4_K_M")
    assert without != one


def test_experts_are_cut_at_their_matrices(tmp_path: Path, executor: Executor) -> None:
    """With importances for each expert."""
    write_family(tmp_path / "moe", FAMILIES["8 experts"])
    random = np.random.default_rng(1)
    values = {}
    for each in mbuild.inspect(tmp_path / "moe").tensors:
        if len(each.shape) > 1:
            matrices = each.shape[2] if len(each.shape) > 2 else 1
            values[each.name] = (random.random((matrices, each.shape[0])) + 0.1, np.ones(matrices))
    (tmp_path / "i.gguf").write_bytes(imatrix_bytes(values))
    settle()
    asked = {"text": "FROM ./moe\n", "quantize": "q4_K_M", "imatrix": str(tmp_path / "i.gguf")}
    plain, shared = both(tmp_path, executor, **asked)
    assert plain == shared


def test_a_stored_model_is_read_where_its_blobs_lie(
    chat: Path, tmp_path: Path, executor: Executor
) -> None:
    """Workers need no store, only the files in it."""
    ids = []
    for name in ("plain", "shared"):
        store = tmp_path / name
        mbuild.build(text="FROM ./chat\n", folder=tmp_path, name="base", store=store)
        pool = executor if name == "shared" else None
        asked = {"text": "FROM base\n", "name": "m", "quantize": "q5_K_M"}
        ids.append(mbuild.build(store=store, executor=pool, **asked).id)
    assert ids[0] == ids[1]


def test_the_build_says_who_computes(chat: Path, tmp_path: Path, executor: Executor) -> None:
    """One status, with how many tasks run at a time; progress as always."""
    events = mbuild.build.events(
        text="FROM ./chat\n",
        folder=tmp_path,
        name="m",
        store=tmp_path / "s",
        quantize="q4_0",
        executor=executor,
    )
    said = [event for event in events if isinstance(event, Status) and event.code is Code.WORKERS]
    assert [event.values for event in said] == [{"place": "ThreadPoolExecutor", "threads": 3}]


def test_what_was_made_before_is_asked_of_nobody(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor
) -> None:
    """A changed adapter asks only for what it changes, and for what may have other tokens."""
    asked = {"folder": tmp_path, "store": tmp_path / "s", "executor": executor}
    text = "# syntax=mbuild/1\nFROM ./chat\nMERGE ./lora WEIGHT {}\nQUANTIZE q6_K\n"
    mbuild.build(text=text.format(0.5), name="m", **asked)  # type: ignore[arg-type]
    seen: list[str] = []

    def watched(task: FillTask) -> filling.Filled:
        seen.extend(place.tensor for place in task.places)
        return fill(task)

    monkeypatch.setattr(elsewhere, "fill", watched)
    mbuild.build(text=text.format(0.25), name="m", **asked)  # type: ignore[arg-type]
    tokens = {"token_embd.weight", "output.weight"}
    assert set(seen) - tokens == {"blk.0.attn_q.weight", "blk.1.attn_q.weight"}


class Watching(Executor):
    """Runs tasks at once, and does something before a task with a number."""

    def __init__(self, before: Callable[[int], None], number: int) -> None:
        self._before = before
        self._number = number
        self._lock = threading.Lock()
        self.count = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run it now."""
        with self._lock:
            self.count += 1
            number = self.count
        future: Future[Any] = Future()
        try:
            if number >= self._number:
                self._before(number)
            future.set_result(pickle.loads(pickle.dumps(fn(*pickle.loads(pickle.dumps(args))))))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.mark.parametrize("number", [1, 2, 5])
def test_an_executor_that_breaks_costs_what_ran(number: int, chat: Path, tmp_path: Path) -> None:
    """The build goes on here, says so once, and has the same bytes."""

    def break_down(number: int) -> None:
        raise BrokenExecutor("a process died")

    plain = mbuild.build(
        text="FROM ./chat\n", folder=tmp_path, name="m", store=tmp_path / "p", quantize="q4_K_M"
    )
    built = mbuild.build(
        text="FROM ./chat\n",
        folder=tmp_path,
        name="m",
        store=tmp_path / "s",
        quantize="q4_K_M",
        executor=Watching(break_down, number),
    )
    assert built.id == plain.id
    (warning,) = built.warnings
    assert "lost some of the work (a process died): it is done here" in warning


KILLED = """
import itertools, os, signal, sys, time
from concurrent.futures import ThreadPoolExecutor
from mbuild.build.steps import elsewhere, ranges
import mbuild

ranges.RANGE, elsewhere.TASK = 32 << 10, 96 << 10
fill, tasks = elsewhere.fill, itertools.count(1)

def watched(task):
    if next(tasks) > 6:
        time.sleep(1.5)  # what is finished is with the build, which writes it
        os.kill(os.getpid(), signal.SIGKILL)
    with open("filled", "a") as log:
        log.writelines(f"{place.tensor} {place.first}\\n" for place in task.places)
    return fill(task)

elsewhere.fill = watched
with ThreadPoolExecutor(1) as pool:
    mbuild.build(text="FROM ./chat\\n", name="m", store="s", quantize="q4_0", executor=pool)
"""


def test_a_build_that_is_killed_loses_no_range_that_workers_finished(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 of the build that asked: the next one makes what was under way, and what follows."""
    code = [sys.executable, "-c", KILLED]
    done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == -signal.SIGKILL, done.stderr
    filled = set((tmp_path / "filled").read_text().splitlines())
    again: set[str] = set()
    quantized = RangeMaker._quantized

    def watched(self: RangeMaker, part: Range, *others: Any) -> Any:
        again.add(f"{part.tensor.name} {part.first}")
        return quantized(self, part, *others)

    monkeypatch.setattr(RangeMaker, "_quantized", watched)
    asked = {"text": "FROM ./chat\n", "folder": tmp_path, "name": "m", "quantize": "q4_0"}
    built = mbuild.build(store=tmp_path / "s", **asked)  # type: ignore[arg-type]
    assert len(filled) >= 12 and not filled & again
    assert built.id == mbuild.build(store=tmp_path / "p", **asked).id  # type: ignore[arg-type]


def test_a_worker_that_hands_back_other_bytes_is_found(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor
) -> None:
    """A copy with the same size and times: the first range of every worker is read here, too."""
    shard = next(chat.glob("*.safetensors"))
    data, info = bytearray(shard.read_bytes()), shard.stat()
    for at in range(8 + int.from_bytes(data[:8], "little"), len(data), 2):
        data[at] ^= 1
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(data)
    os.utime(copy, ns=(info.st_atime_ns, info.st_mtime_ns))

    def there(task: FillTask) -> filling.Filled:
        source = FillSource(*pickle.loads(task.source))
        moved = source._replace(origin=_moved(source.origin, copy))
        return fill(task._replace(source=pickled(moved)))

    monkeypatch.setattr(elsewhere, "fill", there)
    asked = {"folder": tmp_path, "name": "m", "store": tmp_path / "s", "quantize": "q4_K_M"}
    with pytest.raises(mbuild.Error, match="reads other bytes in"):
        mbuild.build(text="FROM ./chat\n", executor=executor, **asked)  # type: ignore[arg-type]
    with pytest.raises(mbuild.Error, match="no such model"):
        mbuild.inspect("m", store=tmp_path / "s")


def test_bytes_that_change_on_their_way_are_made_again(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor
) -> None:
    """A result is digested where it is made and where it arrives."""

    def flipped(task: FillTask) -> filling.Filled:
        filled = fill(task)
        (source, ((data, digest), *more)), *rest = filled.ranges
        changed = np.array(data)
        changed[0] ^= 1
        return filled._replace(ranges=((source, ((changed, digest), *more)), *rest))

    asked = {"folder": tmp_path, "name": "m", "quantize": "q4_K_M"}
    plain = mbuild.build(text="FROM ./chat\n", store=tmp_path / "p", **asked)  # type: ignore[arg-type]
    monkeypatch.setattr(elsewhere, "fill", flipped)
    built = mbuild.build(
        text="FROM ./chat\n",
        store=tmp_path / "s",
        executor=executor,
        **asked,  # type: ignore[arg-type]
    )
    assert built.id == plain.id
    assert "different bytes arrived from" in built.warnings[0]


def test_files_are_digested_by_what_workers_read(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor
) -> None:
    """The build reads little itself of a large source, and knows its digest all the same."""
    monkeypatch.setattr(opened, "MUCH", 1)
    monkeypatch.setattr(opened, "_LARGE", 1 << 20)
    read: list[int] = []

    def counted(start: int, data: memoryview, spans: spans.Spans) -> None:
        read.append(len(data))

    monkeypatch.setattr(opened, "_show", lambda spans, start, data: counted(start, data, spans))
    store = tmp_path / "s"
    asked = {"folder": tmp_path, "name": "m", "store": store, "quantize": "q4_K_M"}
    mbuild.build(text="FROM ./chat\n", executor=executor, **asked)  # type: ignore[arg-type]
    shard = next(chat.glob("*.safetensors"))
    known = Store(store).files.file_digest(shard.stat())
    assert known == Digest.of(shard.read_bytes(), BLAKE3)
    assert sum(read) < shard.stat().st_size / 4  # the first range of the worker alone


def _moved(origin: Any, place: Path) -> Any:
    """A checkpoint's origin whose weights lie elsewhere."""
    files = {
        name: file._replace(path=place) if name.endswith(".safetensors") else file
        for name, file in origin.source.files.items()
    }
    return origin._replace(source=origin.source._replace(files=files))


# Refusals of workers.


def task_for(chat: Path, folder: Path) -> FillTask:
    """A task over a checkpoint, as a build hands it out."""
    found: list[FillTask] = []

    def keep(task: FillTask) -> filling.Filled:
        found.append(task)
        return fill(task)

    patch = pytest.MonkeyPatch()
    with patch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(elsewhere, "fill", keep)
        mbuild.build(
            text="FROM ./chat\n",
            folder=chat.parent,
            name="m",
            store=folder,
            quantize="q4_0",
            executor=pool,
        )
    return found[0]


def test_a_worker_of_another_version_refuses(chat: Path, tmp_path: Path) -> None:
    """Before it reads anything that it might not understand; both versions are named."""
    task = task_for(chat, tmp_path / "s")
    other = task._replace(versions=("0.9.9", *VERSIONS[1:]), source=b"not for this one")
    with pytest.raises(WorkerError, match=r"was started by mbuild 0\.9\.9"):
        fill(other)
    older = task._replace(versions=(*VERSIONS[:-1], -1))
    with pytest.raises(WorkerError, match="of another state"):
        fill(older)


def test_a_worker_without_compiled_quantizers_refuses(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take eighty times as long without a word; where the build has none it may."""
    task = task_for(chat, tmp_path / "s")
    monkeypatch.setattr(
        filling, "prepare", lambda *_, **__: Unavailable("numba is missing", "install numba")
    )
    with pytest.raises(WorkerError, match="cannot use the compiled quantizers") as found:
        fill(task)
    assert found.value.hint
    assert fill(task._replace(compiled=False)).ranges


def test_a_worker_that_cannot_read_the_source_refuses(chat: Path, tmp_path: Path) -> None:
    """A file that is not there, another one in its place, a blob of a store elsewhere."""
    task = task_for(chat, tmp_path / "s")
    source = FillSource(*pickle.loads(task.source))
    shard = next(chat.glob("*.safetensors"))
    moved = source._replace(origin=_moved(source.origin, tmp_path / "gone.safetensors"))
    with pytest.raises(WorkerError, match=r"cannot read .*gone\.safetensors"):
        fill(task._replace(source=pickled(moved)))
    (tmp_path / "short.safetensors").write_bytes(shard.read_bytes()[:-1])
    moved = source._replace(origin=_moved(source.origin, tmp_path / "short.safetensors"))
    with pytest.raises(WorkerError, match="finds a different file under"):
        fill(task._replace(source=pickled(moved)))
    layer = Layer(MODEL, Digest.of(b"gone"), 4)
    stored = source._replace(
        origin=LayerOrigin((layer,)), blobs={layer.digest: str(tmp_path / "sha256-gone")}
    )
    with pytest.raises(WorkerError, match=r"cannot read .*sha256-gone"):
        fill(task._replace(source=pickled(stored)))


def test_a_refusal_ends_the_build_with_its_words(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor
) -> None:
    """Nothing is named, and the remedy comes along."""
    monkeypatch.setattr(elsewhere, "VERSIONS", ("9.9.9", *VERSIONS[1:]))
    with pytest.raises(mbuild.Error, match=r"mbuild 9\.9\.9") as found:
        mbuild.build(
            text="FROM ./chat\n",
            folder=tmp_path,
            name="m",
            store=tmp_path / "s",
            quantize="q4_0",
            executor=executor,
        )
    assert found.value.hint == "install the same version on every worker"


def test_a_weight_that_is_no_number_is_named_as_by_the_plain_build(
    tmp_path: Path, executor: Executor
) -> None:
    """The tensor's name and the remedy come through whoever computed."""
    chat = write_chat(tmp_path / "chat")
    name = "model.layers.1.mlp.down_proj.weight"
    set_value(next(chat.glob("*.safetensors")), name, float("nan"))
    settle()
    said = []
    for pool in (None, executor):
        with pytest.raises(mbuild.Error) as found:
            mbuild.build(
                text="FROM ./chat\n",
                folder=tmp_path,
                name="m",
                store=tmp_path / f"s{pool is None}",
                quantize="q4_0",
                executor=pool,
            )
        said.append(str(found.value))
    assert said[0] == said[1]
    assert "blk.1.ffn_down.weight" in said[0]


def test_sources_stay_open_and_few_of_them(chat: Path, tmp_path: Path) -> None:
    """Opening a checkpoint takes its time, so a process does it once; descriptors are few."""
    task = task_for(chat, tmp_path / "s")
    assert not filling._SOURCES, "a build whose workers are threads of this process closes them"
    assert fill(task).ranges
    opened = filling._SOURCES[task.source]
    assert fill(task).ranges
    assert filling._SOURCES[task.source] is opened
    source = FillSource(*pickle.loads(task.source))
    for number in range(2 * filling._KEPT):
        fill(task._replace(source=pickled(source._replace(folder=f"/{number}"))))
    assert len(filling._SOURCES) == filling._KEPT
    assert task.source not in filling._SOURCES
    filling.close_idle()
    assert not filling._SOURCES


def test_the_layers_that_workers_read_are_those_of_all_models() -> None:
    """Also of one that only gives tensors, and of a base that is changed."""
    base, other = (Layer(MODEL, Digest.of(text), 1) for text in (b"base", b"other"))
    taken = TakeTensors("x", "other", LayerOrigin((other,)))
    changed = ChangedOrigin(LayerOrigin((base,)), (DropLayers((1,)), taken))
    assert list(layers_of(changed)) == [base, other]
    assert list(layers_of(GGUFOrigin(()))) == []


def test_processes_one_of_which_is_killed(
    chat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 breaks ProcessPoolExecutor as a whole: the build goes on by itself."""
    monkeypatch.setattr(ranges, "RANGE", 16 << 20)  # as it is in a process of its own
    plain = mbuild.build(
        text="FROM ./chat\n", folder=tmp_path, name="m", store=tmp_path / "p", quantize="q6_K"
    )
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as processes:
        for _ in range(2):  # what the build asks for waits behind these
            processes.submit(time.sleep, 60)
        events = mbuild.build.events(
            text="FROM ./chat\n",
            folder=tmp_path,
            name="m",
            store=tmp_path / "s",
            quantize="q6_K",
            executor=processes,
        )
        for event in events:
            if isinstance(event, Status) and event.code is Code.WORKERS:
                os.kill(next(iter(processes._processes)), signal.SIGKILL)
                break
        assert list(events)
    assert events.result.id == plain.id
    (warning,) = events.result.warnings
    assert "it is done here" in warning


@pytest.mark.parametrize("slots", [1, 3, 64])
def test_tasks_are_large_and_enough_for_everybody(slots: int) -> None:
    """At most :data:`TASK` bytes each, unless a range is larger, and four for each slot."""
    tensor = Tensor("t", (256, 4096), GGMLType.F32, lambda: b"")
    parts = [Range(0, tensor, lambda: b"", n * 1024, 1024, last=False) for n in range(1000)]
    groups = elsewhere._groups(parts, slots)
    assert [part for group in groups for part in group] == parts
    sizes = [sum(part.size for part in group) for group in groups]
    assert max(sizes) <= elsewhere.TASK
    assert len(groups) >= min(4 * slots, len(parts))
    assert elsewhere._groups([], slots) == []


def test_a_conversion_keeps_dimensions_that_llama_quantize_drops(tmp_path: Path) -> None:
    """Of one at the end, also where workers convert; without any they are written as ever."""
    tensor = Tensor("t", (4, 1), GGMLType.F32, lambda: bytes(16))
    rows = ((tensor, GGMLType.F32),)
    assert Variant("", rows, (), None, as_it_is=True).files[0].tensors[0].dims == (4, 1)
    assert Variant("", rows, (), None).files[0].tensors[0].dims == (4,)
    store = Store(tmp_path / "store")
    store.prepare()
    model = Model((), (tensor,))
    with ExitStack() as stack:
        files = OpenFiles({}, stack)
        (blob,) = write_as_it_is(StepContext.silent(store), model, files, None, GGUFOrigin(()))
    assert store.blobs.local_path(blob.digest).read_bytes() == gguf_bytes(model)
