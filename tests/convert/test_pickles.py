"""Pickled weights: tensors come out, and no pickle does anything else, whatever it tries."""

from __future__ import annotations

import gc
import io
import json
import pickle
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pace import at_most

from mbuild.convert.read import pickles
from mbuild.convert.read.pickles import MAX_STEPS, contiguous_strides, read_pickle
from mbuild.convert.read.safetensors import DType
from mbuild.convert.read.torch_files import StridedTensor, read_torch_file
from mbuild.convert.read.weight_files import is_torch_file
from mbuild.core.errors import FormatError, MbuildError, SourceError, UnsupportedError

DATA = Path(__file__).parents[1] / "data" / "torch"

MADE: list[str] = []
"""What a pickle did, if one does something."""


def done(what: str) -> str:
    """Called by a pickle that is run."""
    MADE.append(what)
    return what


# --- files of torch.save ---


@pytest.mark.parametrize("name", ("zip.bin", "legacy.bin"))
def test_what_torch_saved_is_read(name: str) -> None:
    """Views, transposes, shared storages, every type: bytes as torch has them (2.13)."""
    want = json.loads((DATA / "want.json").read_text())
    found = {tensor.name: tensor for tensor in read_torch_file(DATA / name, name)}
    assert [*found] == [*want]
    for key, (_, shape, data) in want.items():
        assert list(found[key].shape) == shape
        assert found[key].read().tolist() == data and found[key].read(1, 2).tolist() == data[1:2]
    assert isinstance(found["c.t"], StridedTensor)
    assert found["g.fp8"].dtype is DType.F8_E4M3 and found["d.bf16"].dtype is DType.BF16


def test_a_whole_module_is_refused() -> None:
    """It is Python's objects: only its tensors would be of use."""
    with pytest.raises(UnsupportedError, match=r"torch\.nn\.modules\.linear\.Linear") as caught:
        read_torch_file(DATA / "module.pth", "module.pth")
    assert "safetensors" in caught.value.hint


def test_names_of_weights_and_of_a_trainings_other_files() -> None:
    """Arguments, optimizers and random states are no weights."""
    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pth", "model.pt"):
        assert is_torch_file(name)
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "model.safetensors"):
        assert not is_torch_file(name)


# --- a small assembler of pickles ---


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def name(module: str, what: str) -> bytes:
    return f"c{module}\n{what}\n".encode()


def call(module: str, what: str, *arguments: bytes) -> bytes:
    return name(module, what) + b"(" + b"".join(arguments) + b"tR"


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(key: str = "0", count: int = 6, kind: str = "FloatStorage") -> bytes:
    parts = (text("storage"), name("torch", kind), text(key), text("cpu"), number(count))
    return b"(" + b"".join(parts) + b"tQ"


def tensor(
    shape: tuple[int, ...] = (2, 3),
    strides: tuple[int, ...] = (3, 1),
    offset: int = 0,
    of: bytes | None = None,
) -> bytes:
    inner = (of or storage(), number(offset), numbers(*shape), numbers(*strides), b"\x89", b"N")
    return call("torch._utils", "_rebuild_tensor_v2", *inner)


def state(*items: bytes) -> bytes:
    """A pickle of a state dict: names and tensors in turn."""
    return b"\x80\x02}(" + b"".join(items) + b"u."


GOOD = state(text("w"), tensor())


def zipped(
    path: Path,
    data: bytes = GOOD,
    storages: dict[str, bytes] | None = None,
    method: int = zipfile.ZIP_STORED,
    **others: bytes,
) -> Path:
    """A file as torch writes it, with that pickle."""
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("archive/data.pkl", data)
        for key, content in ({"0": bytes(24)} if storages is None else storages).items():
            archive.writestr(f"archive/data/{key}", content)
        for other, content in others.items():
            archive.writestr(f"archive/{other}", content)
    return path


def test_the_assembler_makes_a_good_file(tmp_path: Path) -> None:
    """Otherwise the hostile ones would be refused for another reason."""
    (found,) = read_torch_file(zipped(tmp_path / "a.bin"), "a.bin")
    assert (found.name, found.shape, found.dtype, found.nbytes) == ("w", (2, 3), DType.F32, 24)


# --- hostile pickles ---


class Run:
    """Pickles to a call of any function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def dumped(value: Any, protocol: int) -> bytes:
    return pickle.dumps({"w": value}, protocol)


def calls() -> Iterator[tuple[str, bytes]]:
    """Pickles that would call something if they were loaded by Python."""
    for protocol in range(6):
        yield f"call {protocol}", dumped(Run(done, "called"), protocol)
    yield "eval", dumped(Run(eval, "MADE.append(1)"), 2)
    yield "exec", dumped(Run(exec, "MADE.append(1)"), 4)
    names = (
        ("os", "system"), ("posix", "system"), ("nt", "system"), ("subprocess", "Popen"),
        ("builtins", "getattr"), ("builtins", "__import__"), ("builtins", "open"),
        ("builtins", "dict"), ("__builtin__", "eval"), ("importlib", "import_module"),
        ("runpy", "run_path"), ("pty", "spawn"), ("socket", "socket"), ("sys", "exit"),
        ("torch.storage", "_load_from_bytes"), ("torch", "load"), ("torch.hub", "load"),
        ("torch._utils", "_rebuild_sparse_tensor"), ("torch.jit", "load"),
        ("torch._utils", "_rebuild_tensor_v2.__globals__"), ("torch._utils", "__import__"),
        ("collections", "OrderedDict.__init__"), ("numpy", "load"), ("operator", "attrgetter"),
        ("numpy.core.multiarray", "_reconstruct"), ("pickle", "loads"),
        ("copyreg", "_reconstructor"),
        ("functools", "partial"), ("webbrowser", "open"), ("code", "interact"),
        ("bdb", "Bdb.run"), ("timeit", "timeit"), ("pip", "main"), ("asyncio", "run"),
    )  # fmt: skip
    for module, what in names:
        yield f"{module}.{what}", state(text("w"), call(module, what, text("id")))
        stacked = text(module) + text(what) + b"\x93(" + text("id") + b"tR"
        yield f"stack {module}.{what}", state(text("w"), stacked)


def instructions() -> Iterator[tuple[str, bytes]]:
    """Instructions that make objects, and those of text protocols."""
    for label, raw in {
        "INST": b"(ios\nsystem\n",
        "OBJ": b"(" + name("os", "system") + text("id") + b"o",
        "NEWOBJ": name("collections", "OrderedDict") + b")\x81",
        "NEWOBJ_EX": name("collections", "OrderedDict") + b")}\x92",
        "EXT1": b"\x82\x01",
        "EXT2": b"\x83\x01\x00",
        "EXT4": b"\x84\x01\x00\x00\x00",
        "PERSID": b"Pstorage\n",
        "INT": b"I" + b"9" * 100_000 + b"\n",
        "LONG": b"L" + b"9" * 100_000 + b"L\n",
        "LONG4": b"\x8b\xff\xff\xff\x7f",
        "FLOAT": b"F1e9999\n",
        "STRING": b"S'x'\n",
        "UNICODE": b"Vx\n",
        "GET": b"g0\n",
        "PUT": b"p0\n",
        "BYTEARRAY8": b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f",
        "BINUNICODE8": b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f",
        "BINBYTES8": b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        "NEXT_BUFFER": b"\x97",
        "READONLY_BUFFER": b"\x98",
        "FROZENSET": b"(\x91",
        "EMPTY_SET": b"\x8f",
        "DUP": b"2",
        "unknown": b"\xfe",
    }.items():
        yield label, state(text("w"), raw)


def broken() -> Iterator[tuple[str, bytes]]:
    """Pickles that make no sense, and numbers that cannot be."""
    yield "empty", b""
    yield "only a stop", b"\x80\x02."
    yield "no stop", GOOD[:-1]
    yield "cut", GOOD[:40]
    yield "length beyond the end", b"\x80\x02X\xff\xff\xff\x7fab."
    yield "memo of 2^32 - 1", b"\x80\x02}r\xff\xff\xff\xffj\xfe\xff\xff\xff."
    yield "mark without end", b"\x80\x02((((."
    yield "a key is a tuple", b"\x80\x02}(" + numbers(1) + b"Nu."
    yield "a key is a dictionary", b"\x80\x02}(}Nu."
    yield "odd items", b"\x80\x02}(" + text("a") + b"u."
    yield "reduce of a text", b"\x80\x02" + text("a") + b")R."
    yield "build of a tensor", state(text("w"), tensor(), text("x"), b"b")
    yield "append to nothing", b"\x80\x02Na."
    yield "not UTF-8", b"\x80\x02X\x02\x00\x00\x00\xff\xfe."
    yield "a name of a megabyte", b"\x80\x02c" + b"a" * (1 << 20) + b"\n\n."
    yield "a list that holds itself", b"\x80\x02]q\x00h\x00a."
    yield (
        "a tensor of text",
        state(text("w"), call("torch._utils", "_rebuild_tensor_v2", text("a"))),
    )
    yield (
        "a shape of text",
        state(
            text("w"),
            call("torch._utils", "_rebuild_tensor_v2", storage(), number(0), text("a"), text("a")),
        ),
    )
    yield (
        "a parameter of text",
        state(text("w"), call("torch._utils", "_rebuild_parameter", text("a"))),
    )
    yield "a dictionary of text", state(text("w"), call("collections", "OrderedDict", text("a")))
    yield "a size of text", state(text("w"), call("torch", "Size", text("a")))
    yield "seventeen axes", state(text("w"), tensor((1,) * 17, (1,) * 17))
    yield "a storage that is none", b"\x80\x02" + text("storage") + b"Q."
    yield (
        "a storage without a type",
        state(text("w"), b"(" + text("storage") + text("x") * 3 + number(1) + b"tQ"),
    )
    yield "no tensors", b"\x80\x02}."
    yield "a name that is no text", b"\x80\x02}(" + number(1) + tensor() + b"u."
    for label, wrong in {
        "beyond the storage": tensor((2, 4), (4, 1)),
        "offset beyond the storage": tensor(offset=1),
        "strides beyond the storage": tensor((2, 3), (4, 1)),
        "negative stride": tensor((2, 3), (-3, 1)),
        "negative offset": tensor(offset=-1),
        "negative shape": tensor((-2, 3), (3, 1)),
        "repeated by stride 0": tensor((1 << 40,), (0,)),
        "2^80 values": tensor((1 << 40, 1 << 40), (0, 0)),
        "another number of strides": tensor((2, 3), (1,)),
        "2^63 - 1": tensor(((1 << 63) - 1,), (1,)),
        "another storage": tensor(of=storage("1")),
        "a larger storage": tensor(of=storage(count=7)),
        "a storage outside": tensor(of=storage("../../etc/passwd")),
        "a storage of 2^62": tensor(of=storage(count=1 << 62)),
        "another type": tensor(of=storage(kind="DoubleStorage")),
    }.items():
        yield label, state(text("w"), wrong)
    yield "a NUL in a name", state(text("w\0"), tensor())
    yield "a name of 300 bytes", state(text("w" * 300), tensor())


def endless() -> Iterator[tuple[str, bytes]]:
    """Pickles that are small and would take forever, or all memory."""
    yield "too many steps", b"\x80\x02" + b"N0" * MAX_STEPS + b"."
    yield "many lists", b"\x80\x02(" + b"]" * (4 * MAX_STEPS) + b"l."
    yield "deep tuples", b"\x80\x02N" + b"\x85" * (4 * MAX_STEPS) + b"."
    yield "deep lists", b"\x80\x02" + b"]" * MAX_STEPS + b"a" * (MAX_STEPS - 2) + b"."
    doubled = b"".join(b"h%cq%c" % (n, n + 1) for n in range(200))
    yield "doubled tuples as a key", b"\x80\x02)q\x00" + doubled + b"}h\xc8Ns."
    twice = b"".join(b"h%c\x86q%c" % (n, n + 1) for n in range(60))
    yield "2^60 in one tuple", b"\x80\x02)q\x00" + b"h\x00" + twice + b"}h\x3cNs."


HOSTILE = {
    label: data for found in (calls(), instructions(), broken(), endless()) for label, data in found
}


def test_the_corpus_is_large() -> None:
    """At least 60 pickles of many kinds."""
    assert len(HOSTILE) > 130


@pytest.mark.parametrize("label", HOSTILE)
def test_a_hostile_pickle_is_an_error_and_nothing_else(label: str, tmp_path: Path) -> None:
    """In a zip: nothing is run, within a second of processor time and 200 MB, and one error."""
    path = zipped(tmp_path / "a.bin", HOSTILE[label])
    gc.freeze()  # what other tests left is no matter of this pickle's time
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with at_most(1), pytest.raises(MbuildError) as caught:
        read_torch_file(path, "a.bin")
    gc.unfreeze()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200 << 10
    assert caught.value.message.startswith("a.bin") and not MADE
    assert len(caught.value.message) < 400


@pytest.mark.parametrize("label", [*dict(broken())][::4])
def test_hostile_pickles_in_the_older_format(label: str, tmp_path: Path) -> None:
    """As the object of a stream, behind the three pickles that begin one."""
    head = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {}))
    path = tmp_path / "a.bin"
    path.write_bytes(head + HOSTILE[label] + pickle.dumps(["0"], 2) + struct.pack("<q", 6))
    with pytest.raises(MbuildError) as caught:
        read_torch_file(path, "a.bin")
    assert caught.value.message.startswith("a.bin") and not MADE


def test_only_the_table_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is imported: what a name means is looked up among texts."""
    import builtins

    def never(*arguments: Any, **named: Any) -> Any:
        raise AssertionError(arguments)

    monkeypatch.setattr(builtins, "__import__", never)
    value, end = read_pickle(GOOD, "x")
    assert end == len(GOOD) and [*value] == ["w"]
    assert {*pickles._MAKERS} == {
        "collections.OrderedDict", "torch.Size", "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3",
        "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state",
    }  # fmt: skip


# --- hostile files ---


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    path = folder / "a.bin"
    good = zipped(path).read_bytes()
    end = good.rfind(b"PK\x05\x06")

    def written(data: bytes) -> Path:
        path.write_bytes(data)
        return path

    yield "is not a file of PyTorch", written(b"")
    yield "is not a file of PyTorch", written(b"\x00" * 100)
    yield "git-lfs", written(b"version https://git-lfs.github.com/spec/v1\n")
    yield "tar format", written(b"a" * 257 + b"ustar" + bytes(300))
    yield "has no end", written(good[:end])
    yield (
        "directory has no possible size",
        written(good[: end + 10] + b"\xff\x7f" * 6 + b"\x00\x00"),
    )
    yield "directory is damaged", written(good.replace(b"PK\x01\x02", b"PK\x01\x09"))
    yield "without data.pkl", written(good.replace(b"data.pkl", b"data.pkX"))
    yield "is compressed", zipped(path, bytes(5000), method=zipfile.ZIP_DEFLATED)
    yield "the other byte order", zipped(path, byteorder=b"big")
    yield "missing or has another size", zipped(path, storages={})
    yield "missing or has another size", zipped(path, storages={"0": bytes(23)})
    yield "but not a file of PyTorch", written(pickle.dumps({"w": 1}, 2))
    local = good.find(b"PK\x01\x02") + 42
    far = good[:local] + struct.pack("<I", len(good)) + good[local + 4 :]
    yield "directory is damaged", written(far)
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/data.pkl", GOOD)
        archive.writestr("a/data.pkl", GOOD)
    yield "twice", written(twice.getvalue())


def test_damaged_and_hostile_files_are_named(tmp_path: Path) -> None:
    """What is wrong with the zip or the stream, before a byte of a tensor is read."""
    for says, path in _files(tmp_path):
        with pytest.raises((FormatError, UnsupportedError), match=says):
            read_torch_file(path, "a.bin")
    with pytest.raises(SourceError, match="is not a regular file"):
        read_torch_file(tmp_path, "a.bin")
    with pytest.raises(SourceError):
        read_torch_file(tmp_path / "none.bin", "none.bin")


def test_a_zip_with_sizes_of_64_bits_is_read(tmp_path: Path) -> None:
    """As torch writes files of more than 4 GB."""
    path = tmp_path / "a.bin"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in (("data.pkl", GOOD), ("data/0", bytes(range(24)))):
            with archive.open(zipfile.ZipInfo(f"a/{member}"), "w", force_zip64=True) as file:
                file.write(data)
    raw = path.read_bytes()
    at = raw.rfind(b"PK\x05\x06")
    count, length, start = struct.unpack_from("<HII", raw, at + 10)
    record = b"PK\x06\x06" + struct.pack(
        "<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, length, start
    )
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, at, 1)
    end = b"PK\x05\x06" + b"\x00" * 4 + b"\xff" * 4 + b"\xff" * 8 + b"\x00\x00"
    path.write_bytes(raw[:at] + record + locator + end)
    (found,) = read_torch_file(path, "a.bin")
    assert found.read().tolist() == [*range(24)]


def test_strides_of_the_usual_order() -> None:
    """The last index is the fastest."""
    assert contiguous_strides((2, 3, 4)) == (12, 4, 1) and contiguous_strides(()) == ()
