"""Several quantized files from one pass over a source, over a store on disk."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_files import gguf_bytes, tiny_model

from mbuild.build.graph import StepContext
from mbuild.build.steps import making, tensors
from mbuild.build.steps.opened import OpenFiles
from mbuild.build.steps.outputs import Variant, VariantFile
from mbuild.build.steps.ranges import RangeCache
from mbuild.build.steps.tensors import write_variants
from mbuild.core.errors import CancelledError, FormatError
from mbuild.core.events import Code
from mbuild.gguf.model import Model, Tensor
from mbuild.gguf.split import split
from mbuild.gguf.types import GGMLType
from mbuild.quant.quantize import quantize
from mbuild.store import Store
from mbuild.store.manifest import Blob

ROWS, WIDTH = 4, 64
LOADED: Counter[str] = Counter()
"""How often each tensor of :func:`source` was loaded."""


@pytest.fixture
def context(tmp_path: Path) -> Iterator[StepContext]:
    """What a running step may use, on an empty store; nobody hears of it."""
    LOADED.clear()
    store = Store(tmp_path / "store")
    with store.using():
        yield StepContext.silent(store)


def values(name: str) -> np.ndarray[Any, Any]:
    """A tensor's values, other ones for each name."""
    return np.linspace(-1, len(name), ROWS * WIDTH, dtype=np.float32)


def tensor(name: str, data: np.ndarray[Any, Any] | None = None) -> Tensor:
    """A tensor of a source, which counts how often it is loaded."""

    def load() -> bytes:
        LOADED[name] += 1
        return (values(name) if data is None else data).tobytes()

    return Tensor(name, (WIDTH, ROWS), GGMLType.F32, load)


def source(*tensors: Tensor) -> Model:
    """A model of these tensors."""
    return tiny_model(tensors=tensors or (tensor("a.weight"), tensor("bb.weight")))


def variant(model: Model, **types: GGMLType) -> Variant:
    """What is to be made: ``a`` and ``bb`` name tensors; the others stay as they are."""
    made = tuple((t, types.get(t.name.partition(".")[0], t.type)) for t in model.tensors)
    return Variant("variant-", made, model.metadata, None)


def written(context: StepContext, model: Model, *variants: Variant) -> list[Blob]:
    """Make the variants."""
    cache = RangeCache(context.store, None)
    with ExitStack() as stack:
        files = OpenFiles({}, stack)
        return [
            blob for own in write_variants(variants, model, cache, files, context) for blob in own
        ]


def expected(model: Model, **types: GGMLType) -> bytes:
    """The file of a variant, made in memory without any of the machinery."""

    return gguf_bytes(Model(model.metadata, tuple(made_tensor(t, types) for t in model.tensors)))


def made_tensor(each: Tensor, types: Mapping[str, GGMLType]) -> Tensor:
    """A tensor as a variant has it."""
    new = types.get(each.name.partition(".")[0], each.type)
    data = values(each.name)
    raw = data if new is each.type else quantize(new, each.type, data.view(np.uint8), WIDTH)
    content = np.ascontiguousarray(raw).tobytes()
    return Tensor(each.name, each.dims, new, lambda: content)


def read(context: StepContext, blob: Blob) -> bytes:
    return context.store.blobs.read(blob.digest, 1 << 20)


def test_each_variant_is_a_file_of_its_own(context: StepContext) -> None:
    """In the order in which they were asked for, whole, from one reading of each tensor."""
    model = source()
    wanted: list[Mapping[str, GGMLType]] = [
        {"a": GGMLType.Q8_0, "bb": GGMLType.Q8_0},
        {"a": GGMLType.Q4_0},
        {},
    ]
    blobs = written(context, model, *(variant(model, **types) for types in wanted))
    assert [read(context, blob) for blob in blobs] == [expected(model, **w) for w in wanted]
    assert LOADED == {"a.weight": 1, "bb.weight": 1}


@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("shards", [[(0, 1, 2)], [(0, 1, 2), (0, 1, 2)], [(0, 2, 1), ()], [(3,)]])
def test_a_variant_in_shards_is_the_whole_one_split(
    context: StepContext,
    shards: list[tuple[int, ...]],
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever number grows at once, and whether or not other variants are cut elsewhere."""
    model = source(tensor("a.weight"), tensor("bb.weight"), tensor("ccc.weight"))
    types = [{"a": GGMLType.Q8_0}, {"bb": GGMLType.Q4_0}]
    cut = [variant(model, **t)._replace(shards=s) for t, s in zip(types, shards, strict=False)]
    monkeypatch.setenv("MBUILD_THREADS", str(threads))
    blobs = iter(written(context, model, *cut))
    for own, kinds in zip(shards, types, strict=False):
        whole = tuple(made_tensor(each, kinds) for each in model.tensors)
        every = Model(model.metadata, whole)
        files = split(every, own) if own else (every,)
        assert [read(context, next(blobs)) for _ in files] == [gguf_bytes(each) for each in files]
    assert next(blobs, None) is None


_G = GGMLType
TWELVE = (
    *(_G.Q4_0, _G.Q4_1, _G.Q5_0, _G.Q5_1, _G.Q8_0, _G.IQ4_NL),
    *(_G.MXFP4, _G.F16, _G.BF16, _G.F32, _G.Q4_0, _G.Q8_0),
)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_many_variants_hold_no_more_than_the_budget(
    context: StepContext, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve results of a range count until the slowest of twelve files has taken its own."""
    held, peak, lock = [0], [0], threading.Lock()
    made, done, add = making.RangeMaker.make, tensors.Ahead.done, VariantFile.add
    sizes: dict[int, int] = {}
    left: Counter[int] = Counter()

    def making_(self: Any, part: Any, types: Any, loaded: Any = None) -> Any:
        found = made(self, part, types, loaded)
        results = {id(each.data): each.data.nbytes for each in found if each.key}
        size = part.size + sum(results.values())
        with lock:
            sizes[part.number] = size
            held[0] += size
            peak[0] = max(peak[0], held[0])
        return found

    def done_(self: Any, number: int) -> None:
        with lock:
            left[number] += 1
            held[0] -= sizes[number] if left[number] == len(TWELVE) else 0
        done(self, number)

    def slow(self: Any, *given: Any, **options: Any) -> None:
        files.append(self)
        time.sleep(0.001 if self is files[0] else 0)
        add(self, *given, **options)

    model = source(*(tensor(f"a.{number}") for number in range(60)))
    variants = [variant(model, a=type_) for type_ in TWELVE]
    files: list[VariantFile] = []
    monkeypatch.setattr(making.RangeMaker, "make", making_)
    monkeypatch.setattr(tensors.Ahead, "done", done_)
    monkeypatch.setattr(VariantFile, "add", slow)
    limits: list[int] = []

    def few(threads: int, largest: int) -> int:
        limits.append(3 * largest)
        return limits[0]

    monkeypatch.setattr(tensors, "budget", few)
    monkeypatch.setenv("MBUILD_THREADS", str(threads))
    assert len(written(context, model, *variants)) == len(TWELVE)
    assert held == [0] and 0 < peak[0] <= limits[0]


def test_a_tensor_is_not_quantized_twice(context: StepContext) -> None:
    """What an earlier file has of that type is taken from there, and it is said."""
    model = source()
    written(context, model, variant(model, a=GGMLType.Q8_0))
    said: list[tuple[Code, Mapping[str, Any]]] = []
    context = context._replace(status=lambda code, values: said.append((code, values)))
    types = {"a": GGMLType.Q8_0, "bb": GGMLType.Q8_0}
    (blob,) = written(context, model, variant(model, **types))
    assert read(context, blob) == expected(model, **types)
    assert said == [
        (Code.REUSED_TENSORS, {"reused": 1, "total": 2}),
        (Code.NEWLY_QUANTIZED, {"tensors": ("bb.weight",)}),
    ]


def test_variants_that_want_the_same_share_the_work(
    context: StepContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What two variants have in one type is quantized once, in one build, for both files."""
    made: list[GGMLType] = []

    def counted(new: GGMLType, *arguments: Any, **options: Any) -> Any:
        made.append(new)
        return quantize(new, *arguments, **options)

    monkeypatch.setattr(making, "quantize", counted)
    model = source()
    wanted: list[Mapping[str, GGMLType]] = [
        {"a": GGMLType.Q8_0, "bb": GGMLType.Q4_0},
        {"a": GGMLType.Q8_0, "bb": GGMLType.Q5_0},
        {"a": GGMLType.Q8_0},
    ]
    blobs = written(context, model, *(variant(model, **types) for types in wanted))
    assert [read(context, blob) for blob in blobs] == [expected(model, **w) for w in wanted]
    assert sorted(made) == [GGMLType.Q4_0, GGMLType.Q5_0, GGMLType.Q8_0]


def test_reports_count_all_files_together(context: StepContext) -> None:
    """They never go back, nor beyond the size of all."""
    model = source()
    told: list[tuple[int, int]] = []
    context = context._replace(report=lambda done, total: told.append((done, total)))
    blobs = written(context, model, variant(model, a=GGMLType.Q8_0), variant(model))
    total = sum(blob.size for blob in blobs)
    sizes = [done for done, of in told if of == total]
    assert sizes == sorted(sizes)
    assert 0 < sizes[-1] <= total


def test_values_that_are_no_numbers_name_their_tensor(context: StepContext) -> None:
    """No variant is left, not even the one that would not have needed them quantized."""
    bad = values("bad")
    bad[70] = np.nan
    model = source(tensor("a.weight"), tensor("bad.weight", bad))
    with pytest.raises(FormatError, match=r"^bad\.weight: "):
        written(context, model, variant(model, bad=GGMLType.Q8_0), variant(model))
    assert list(context.store.blobs) == []  # type: ignore[call-overload]


def test_a_tensor_that_keeps_its_type_is_not_looked_into(context: StepContext) -> None:
    """Its bytes are the source's, whatever they mean, and it does not count as quantized."""
    raw = np.full(34 * ROWS * WIDTH // 32, 0xFF, np.uint8).tobytes()  # every scale is a NaN
    bad = Tensor("bad.weight", (WIDTH, ROWS), GGMLType.Q8_0, lambda: raw)
    model = source(tensor("a.weight"), bad)
    (blob,) = written(context, model, variant(model, a=GGMLType.Q8_0))
    assert raw in read(context, blob)


def test_a_tensor_that_cannot_be_read_stops_all_variants(context: StepContext) -> None:
    """The error of the source is the one that is raised, whoever came upon it."""

    def load() -> bytes:
        raise FormatError("the disk is gone")

    model = source(tensor("a.weight"), Tensor("b.weight", (WIDTH, ROWS), GGMLType.F32, load))
    with pytest.raises(FormatError, match="the disk is gone"):
        written(context, model, variant(model, a=GGMLType.Q8_0), variant(model))
    assert list(context.store.blobs) == []  # type: ignore[call-overload]


def test_a_stopped_build_publishes_nothing(context: StepContext) -> None:
    """It ends with what stopped it."""

    def stop(done: int, total: int) -> None:
        raise CancelledError("the build was stopped")

    model = source()
    with pytest.raises(CancelledError):
        written(context._replace(report=stop), model, variant(model, a=GGMLType.Q8_0))
    assert list(context.store.blobs) == []  # type: ignore[call-overload]


def test_what_is_quantized_already_is_decoded_first(context: StepContext) -> None:
    """From Q8_0 to Q4_0 the result is that of the decoded values."""
    raw = quantize(GGMLType.Q8_0, GGMLType.F32, values("a").view(np.uint8), WIDTH)
    data = np.ascontiguousarray(raw).tobytes()
    model = source(Tensor("a.weight", (WIDTH, ROWS), GGMLType.Q8_0, lambda: data))
    (blob,) = written(context, model, variant(model, a=GGMLType.Q4_0))
    block = np.frombuffer(data, np.uint8).reshape(ROWS, -1)
    decoded = gguf.quants.dequantize(block, gguf.GGMLQuantizationType.Q8_0)
    again = quantize(GGMLType.Q4_0, GGMLType.F32, decoded.view(np.uint8), WIDTH)
    content = np.ascontiguousarray(again).tobytes()
    made = Tensor("a.weight", (WIDTH, ROWS), GGMLType.Q4_0, lambda: content)
    assert read(context, blob) == gguf_bytes(Model(model.metadata, (made,)))
