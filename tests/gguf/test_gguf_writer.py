"""The GGUF writer: llama.cpp's layout, bytes that depend on the model alone, and clean failures."""

from __future__ import annotations

import array
import hashlib
import math
import random
import struct
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from gguf_files import entry, gguf_bytes, tensor, tiny_gguf, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from mbuild.core.errors import FormatError
from mbuild.gguf.encoding import SCALAR_CODES, SCALAR_SIZES
from mbuild.gguf.model import KV, Model, Tensor
from mbuild.gguf.reader import open_gguf
from mbuild.gguf.types import BLOCKS, GGMLType, ValueType, tensor_nbytes
from mbuild.gguf.writer import SLICE, layout, write
from mbuild.work.ahead import budget

ARCH = KV("general.architecture", ValueType.STRING, "llama")


def integers(type_: ValueType) -> st.SearchStrategy[int]:
    bits = 8 * SCALAR_SIZES[type_]
    if type_.name.startswith("U"):
        return st.integers(0, 2**bits - 1)
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def scalars(type_: ValueType) -> st.SearchStrategy[Any]:
    match type_:
        case ValueType.STRING:
            return st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
        case ValueType.BOOL:
            return st.booleans()
        case ValueType.FLOAT32:
            return st.floats(width=32, allow_nan=False)
        case ValueType.FLOAT64:
            return st.floats(allow_nan=False)
        case _:
            return integers(type_)


NAMES = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=20)
SCALARS = st.sampled_from([t for t in ValueType if t is not ValueType.ARRAY])


@st.composite
def entries(draw: st.DrawFn) -> KV:
    key = "x." + draw(NAMES)
    type_ = draw(st.sampled_from(ValueType))
    if type_ is not ValueType.ARRAY:
        return KV(key, type_, draw(scalars(type_)))
    element = draw(SCALARS)
    return KV(key, type_, draw(st.lists(scalars(element), max_size=12)), element)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    type_ = draw(st.sampled_from(GGMLType))
    dims = [draw(st.integers(1, 3)) * BLOCKS[type_].weights]
    dims += draw(st.lists(st.integers(1, 3), max_size=3))
    return tensor(draw(NAMES), tuple(dims), type_, draw(st.integers(0, 99)))


MODELS = st.builds(
    lambda alignment, metadata, made: Model((ARCH, *alignment, *metadata), tuple(made)),
    st.sampled_from([8, 32, 64]).map(
        lambda n: () if n == 32 else (KV("general.alignment", ValueType.UINT32, n),)
    ),
    st.lists(entries(), max_size=6, unique_by=lambda kv: kv.key),
    st.lists(tensors(), max_size=6, unique_by=lambda t: t.name),
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("written") / "m.gguf"


@settings(max_examples=150, deadline=None, derandomize=True)
@given(model=MODELS)
def test_what_is_written_is_read(model: Model, scratch: Path) -> None:
    """Metadata, types, dims and bytes come back; writing what was read gives the same file."""
    data = gguf_bytes(model)
    scratch.write_bytes(data)
    back = open_gguf(scratch).model()
    shown = [(kv.key, kv.type, kv.element, kv.value) for kv in back.metadata]
    assert shown == [(kv.key, kv.type, kv.element, kv.value) for kv in model.metadata]
    assert [(t.name, t.dims, t.type, bytes(t.load())) for t in back] == [
        (t.name, t.dims, t.type, bytes(t.load())) for t in model
    ]
    assert gguf_bytes(back) == data
    assert (
        gguf_bytes(Model(tuple(KV(*row[:2], row[3], row[2]) for row in shown), back.tensors))
        == data
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(model=MODELS)
def test_the_layout_is_the_files(model: Model, scratch: Path) -> None:
    """Offsets, sizes and length are known before anything is loaded, and right."""
    plan = layout(model)
    data = gguf_bytes(model)
    assert len(data) == plan.size
    assert data.startswith(plan.header)
    assert plan.size % plan.alignment == 0
    for part, start, size in zip(model, plan.offsets, plan.sizes, strict=True):
        assert start % plan.alignment == 0
        assert data[start : start + size] == bytes(part.load())
    end = max((s + n for s, n in zip(plan.offsets, plan.sizes, strict=True)), default=plan.size)
    assert data[end:] == bytes(len(data) - end)


@pytest.mark.oracle
def test_equals_the_reference_writer(tmp_path: Path) -> None:
    """The gguf package, fed the same keys and tensors, writes the same bytes."""
    gguf = pytest.importorskip("gguf")
    numpy = pytest.importorskip("numpy")
    model = tiny_model()
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "llama")
    for kv in model.metadata[1:]:
        sub = None if kv.element is None else gguf.GGUFValueType(kv.element)
        writer.add_key_value(kv.key, kv.value, gguf.GGUFValueType(kv.type), sub)
    for part in model:
        raw = numpy.frombuffer(part.load(), numpy.uint8)
        shape = gguf.quant_shape_to_byte_shape(
            part.dims[::-1], gguf.GGMLQuantizationType(part.type)
        )
        kind = gguf.GGMLQuantizationType(part.type)
        writer.add_tensor(part.name, raw.reshape(shape), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert (tmp_path / "theirs.gguf").read_bytes() == gguf_bytes(model)


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_bytes_do_not_depend_on_the_workers(workers: int) -> None:
    """Loads that end in any order are written in order."""
    delays = random.Random(workers)

    def slow(part: Tensor) -> Tensor:
        seconds = delays.random() / 300

        def load() -> Any:
            time.sleep(seconds)
            return part.load()

        return Tensor(part.name, part.dims, part.type, load)

    model = tiny_model(tensors=[tensor(f"t{i}", (i + 1,), GGMLType.F32) for i in range(40)])
    pieces: list[bytes] = []
    slowed = Model(model.metadata, tuple(map(slow, model.tensors)))
    plan = write(slowed, lambda data: pieces.append(bytes(data)), workers=workers)
    assert b"".join(pieces) == gguf_bytes(model)
    assert plan == layout(model)


def test_progress_counts_every_byte_and_pieces_are_small() -> None:
    """Progress rises to the file's size, and no piece is larger than 8 MiB."""
    big = Tensor("big", (5 << 20,), GGMLType.F32, lambda: bytes(20 << 20))
    sizes: list[int] = []
    seen: list[int] = []
    plan = write(Model((ARCH,), (big,)), lambda d: sizes.append(len(d)), progress=seen.append)
    assert max(sizes) == SLICE
    assert seen == [sum(sizes[: i + 1]) for i in range(len(sizes))]
    assert seen[-1] == plan.size


def test_tensors_in_flight_are_bounded() -> None:
    """With many workers and a slow sink, loaded bytes stay within the budget."""
    size = 4 << 20
    lock = threading.Lock()
    alive = peak = 0

    def load() -> bytearray:
        nonlocal alive, peak
        with lock:
            alive += size
            peak = max(peak, alive)
        return bytearray(size)

    def sink(data: Any) -> None:
        nonlocal alive
        if len(data) == size:
            time.sleep(0.002)
            with lock:
                alive -= size

    model = Model((ARCH,), tuple(Tensor(f"t{i}", (size,), GGMLType.I8, load) for i in range(40)))
    write(model, sink, workers=16)
    assert size < peak <= budget(16, size)
    assert alive == 0


class Boom(Exception):
    """What a load or a sink raises in these tests."""


def _threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("mbuild-work")]


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("where", ["load", "sink", "progress"])
def test_an_error_anywhere_stops_everything(where: str, error: type[BaseException]) -> None:
    """The error comes out as it was raised, at once, and no thread goes on."""
    loads: list[int] = []

    def fail(place: str) -> None:
        if where == place:
            raise error

    def part(number: int) -> Tensor:
        def load() -> bytes:
            loads.append(number)
            if number == 3:
                fail("load")
            return bytes(64)

        return Tensor(f"t{number}", (64,), GGMLType.I8, load)

    model = Model((ARCH,), tuple(part(i) for i in range(2000)))
    written = 0

    def sink(data: Any) -> None:
        nonlocal written
        written += len(data)
        if written > len(layout(model).header) + 200:
            fail("sink")

    begun = time.perf_counter()
    with pytest.raises(error):
        write(model, sink, workers=3, progress=lambda n: fail("progress") if n > 300 else None)
    assert time.perf_counter() - begun < 5
    assert not _threads()
    if where == "load":
        assert len(loads) < 2000


def test_a_load_that_hangs_does_not_hold_an_error_up() -> None:
    """An error is raised while another load still runs."""
    release = threading.Event()

    def load() -> bytes:
        release.wait(30)
        return bytes(4)

    def fail() -> bytes:
        raise Boom

    model = Model(
        (ARCH,),
        (Tensor("a", (4,), GGMLType.I8, load), Tensor("b", (4,), GGMLType.I8, fail)),
    )
    begun = time.perf_counter()
    with pytest.raises(Boom):
        write(model, lambda data: None, workers=2)
    assert time.perf_counter() - begun < 5
    release.set()


def test_a_load_of_the_wrong_length_is_an_error() -> None:
    """Neither short nor long data is written under a tensor's name."""
    for size in (3, 5, 0):
        bad = Tensor("t", (4,), GGMLType.I8, lambda size=size: bytes(size))
        with pytest.raises(FormatError, match=f"'t': {size} bytes loaded, not 4"):
            write(Model((ARCH,), (bad,)), lambda data: None)


@pytest.mark.parametrize("kind", ["float32", "strided", "float16", "structured"])
def test_numpy_arrays_are_buffers(kind: str) -> None:
    """Arrays of any dtype, shape and stride are taken as their bytes in C order."""
    numpy = pytest.importorskip("numpy")
    made = {
        "float32": numpy.arange(12, dtype="<f4").reshape(3, 4),
        "strided": numpy.arange(24, dtype="<f4").reshape(3, 8)[:, ::2],
        "float16": numpy.arange(24, dtype="<f2").reshape(4, 6),
        "structured": numpy.zeros(6, dtype=[("d", "<f2"), ("q", "u1", (6,))]),
    }[kind]
    model = Model((ARCH,), (Tensor("t", (made.nbytes,), GGMLType.I8, lambda: made),))
    assert gguf_bytes(model)[layout(model).offsets[0] :].startswith(made.tobytes())


@pytest.mark.parametrize("element", [t for t in SCALAR_CODES if t is not ValueType.BOOL])
def test_arrays_of_numbers_from_any_sequence(element: ValueType) -> None:
    """Lists, tuples, ranges, array.array and numpy arrays of one or another dtype are one value."""
    numpy = pytest.importorskip("numpy")
    expected = KV("k", ValueType.ARRAY, [0, 1, 2, 100], element).encode()
    code = SCALAR_CODES[element]
    values = [0, 1, 2, 100]
    for same in (
        tuple(values),
        array.array(code, values),
        numpy.array(values, dtype=f"<{code}"),
        numpy.array(values, dtype=f">{code}"),
        numpy.array(values, dtype="int64"),
        numpy.array([0, 9, 1, 9, 2, 9, 100, 9], dtype=f"<{code}")[::2],
    ):
        assert KV("k", ValueType.ARRAY, same, element).encode() == expected, same


def test_bytes_are_strings_that_need_not_be_utf8() -> None:
    """Tokens may be given as bytes."""
    mixed = KV("k", ValueType.ARRAY, ["a", b"\xff"], ValueType.STRING).encode()
    assert mixed.endswith(struct.pack("<Q", 1) + b"a" + struct.pack("<Q", 1) + b"\xff")


@pytest.mark.parametrize(
    ("type_", "value", "element"),
    [
        (ValueType.UINT8, 256, None),
        (ValueType.UINT32, -1, None),
        (ValueType.UINT32, "1", None),
        (ValueType.BOOL, 7, None),
        (ValueType.STRING, 5, None),
        (ValueType.STRING, "\ud800", None),
        (ValueType.ARRAY, [1], None),
        (ValueType.ARRAY, [[1]], ValueType.ARRAY),
        (ValueType.ARRAY, [300], ValueType.UINT8),
        (ValueType.ARRAY, [1.5], ValueType.INT32),
        (ValueType.ARRAY, [2], ValueType.BOOL),
        (ValueType.ARRAY, "text", ValueType.STRING),
        (ValueType.ARRAY, [1], ValueType.STRING),
    ],
)
def test_values_that_do_not_fit_are_refused(
    type_: ValueType, value: Any, element: ValueType | None
) -> None:
    """A value outside its type is an error that names the key, never another value."""
    with pytest.raises(FormatError, match=r"metadata key 'the\.key'"):
        KV("the.key", type_, value, element).encode()


def test_special_floats_are_kept() -> None:
    """Infinity and NaN pass through."""
    data = KV("k", ValueType.ARRAY, [math.inf, math.nan], ValueType.FLOAT32).encode()
    assert struct.unpack("<2f", data[-8:])[0] == math.inf
    assert math.isnan(struct.unpack("<2f", data[-8:])[1])


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Model((ARCH, ARCH), ()), "metadata key 'general.architecture' occurs twice"),
        (Model((ARCH,), (tensor("t", (1,), GGMLType.F32),) * 2), "tensor 't' occurs twice"),
        (Model((ARCH,), (tensor("t" * 64, (1,), GGMLType.F32),)), "names of 1 to 63"),
        (Model((ARCH,), (tensor("t", (1,) * 5, GGMLType.F32),)), "1 to 4 dimensions"),
        (Model((ARCH,), (tensor("t", (), GGMLType.F32),)), "1 to 4 dimensions"),
        (Model((ARCH, entry("general.alignment", 33)), ()), "general.alignment is 33"),
    ],
)
def test_models_that_no_reader_takes_are_not_written(model: Model, says: str) -> None:
    """What the reader refuses is refused before the first byte."""
    with pytest.raises(FormatError, match=says):
        write(model, lambda data: pytest.fail("wrote"))


def test_large_tensors_are_copied_piece_by_piece(tmp_path: Path) -> None:
    """Copying a file's tensor takes a few pieces of memory, not the tensor's size."""
    path = tmp_path / "large.gguf"
    size = 96 << 20
    head = layout(Model((ARCH,), (Tensor("t", (size,), GGMLType.I8, bytes),))).header
    with path.open("wb") as out:
        out.write(head)
        out.truncate(len(head) + size)
        out.seek(len(head) + size - 1)
        out.write(b"x")
    seen = hashlib.sha256()
    tracemalloc.start()
    write(open_gguf(path).model(), seen.update, workers=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < budget(4, SLICE) + (8 << 20)
    assert seen.digest() == hashlib.sha256(path.read_bytes()).digest()


def test_raw_metadata_is_copied_without_decoding(tmp_path: Path) -> None:
    """An entry of a file serves in another model as it is, next to new ones."""
    file = open_gguf(tiny_gguf(tmp_path / "m.gguf"))
    raw = file.kvs["tokenizer.ggml.tokens"]
    model = Model((ARCH, raw, entry("new", 5)), ())
    assert raw.encode() == KV(raw.key, raw.type, raw.value, raw.element).encode()
    assert model.get(raw.key) == ["<unk>", "<s>", "</s>", "▁a"]
    assert raw.raw() in gguf_bytes(model)
    assert tensor_nbytes(GGMLType.F16, (64, 4)) == file.tensors[0].nbytes
