"""The GGUF reader: bounded on hostile files, lazy on large ones, right on good ones."""

from __future__ import annotations

import json
import os
import socket
import stat
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from gguf_files import KINDS, entry, gguf_bytes, tensor, tiny_gguf, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from pace import at_most

from mbuild.core.errors import FormatError, SourceError, UnsupportedError
from mbuild.gguf.cursor import WINDOW, Cursor
from mbuild.gguf.files import FileBytes
from mbuild.gguf.model import KV, Model
from mbuild.gguf.reader import GGUFFile, open_gguf
from mbuild.gguf.types import GGMLType, ValueType

BAD = Path(__file__).parents[1] / "data" / "bad_gguf"
EXPECTED: dict[str, dict[str, str]] = json.loads((BAD / "index.json").read_text())


def s(data: bytes) -> bytes:
    """A GGUF string."""
    return struct.pack("<Q", len(data)) + data


def kv(key: bytes, type_: int, payload: bytes) -> bytes:
    return s(key) + struct.pack("<I", type_) + payload


def u32(key: bytes, value: int) -> bytes:
    return kv(key, 4, struct.pack("<I", value))


def array(key: bytes, element: int, count: int, items: bytes = b"") -> bytes:
    return kv(key, 9, struct.pack("<IQ", element, count) + items)


def info(name: bytes, dims: tuple[int, ...], type_: int = 0, offset: int = 0) -> bytes:
    return s(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, type_, offset)


ARCH = kv(b"general.architecture", 8, s(b"llama"))


def header(kvs: list[bytes], tensors: list[bytes], counts: tuple[int, int] | None = None) -> bytes:
    n_tensors, n_kvs = counts or (len(tensors), len(kvs))
    return b"GGUF" + struct.pack("<IQQ", 3, n_tensors, n_kvs) + b"".join(kvs + tensors)


def padded(kvs: list[bytes], tensors: list[bytes], data: int = 128) -> bytes:
    head = header(kvs, tensors)
    return head + bytes(-len(head) % 32 + data)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], GGUFFile]:
    def open_bytes(data: bytes) -> GGUFFile:
        path = tmp_path / "file.gguf"
        path.write_bytes(data)
        return open_gguf(path, name="file.gguf")

    return open_bytes


HOSTILE: dict[str, tuple[bytes, str]] = {
    "only the magic": (b"GGUF", "truncated GGUF: the version"),
    "no tensors count": (b"GGUF" + struct.pack("<I", 3), "truncated"),
    "2^63 tensors": (header([ARCH], [], (2**63, 1)), "9223372036854775808 tensors"),
    "2^64-1 keys": (header([], [], (0, 2**64 - 1)), "metadata entries"),
    "more keys than bytes": (header([ARCH], [], (0, 60000)), "bytes remain"),
    "more tensors than bytes": (header([ARCH], [], (60000, 1)), "bytes remain"),
    "type 13": (padded([ARCH, kv(b"aaaaa", 13, bytes(16))], []), "unknown type 13"),
    "type 2^32-1": (padded([ARCH, kv(b"aaaaa", 2**32 - 1, bytes(16))], []), "unknown type"),
    "duplicate key": (padded([ARCH, u32(b"a", 1), u32(b"a", 1)], []), "'a' occurs twice"),
    "a key of 1 MiB": (padded([ARCH, u32(b"k" * (1 << 20), 1)], []), "more than 1024"),
    "string of 1 GiB": (
        padded([ARCH, kv(b"a", 8, struct.pack("<Q", 1 << 30))], [], 100),
        "claims 1073741824 bytes",
    ),
    "string of 2^64-1": (
        padded([ARCH, kv(b"a", 8, b"\xff" * 8)], []),
        "claims 18446744073709551615",
    ),
    "array of 2^40 strings": (padded([ARCH, array(b"a", 8, 2**40)], []), "1099511627776 items"),
    "array of 2^61 int64": (padded([ARCH, array(b"a", 11, 2**61)], []), "2305843009213693952"),
    "array one byte short": (padded([ARCH, array(b"a", 0, 200)], [], 0), "200 items of UINT8"),
    "array of arrays": (padded([ARCH, array(b"a", 9, 1, bytes(12))], []), "array of arrays"),
    "long string in an array": (
        padded([ARCH, array(b"a", 8, 2, s(b"x") + struct.pack("<Q", 2**62))], []),
        "claims 4611686018427387904",
    ),
    "string in an array past the end": (
        padded([ARCH, array(b"a", 8, 2, s(b"x") + struct.pack("<Q", 300))], []),
        "claims 300 bytes",
    ),
    "string in an array of 2^64-1": (
        padded([ARCH, array(b"a", 8, 3, s(b"x") + b"\xff" * 8)], []),
        "claims 18446744073709551615",
    ),
    "array of strings cut off": (
        header([ARCH, array(b"a", 8, 3, s(b"x" * 40) + s(b"y"))], [])[:-1],
        "claims 1 bytes|truncated",
    ),
    "boolean 2 in an array": (padded([ARCH, array(b"a", 7, 3, b"\0\1\2")], []), "boolean 2"),
    "alignment 2^31": (padded([ARCH, u32(b"general.alignment", 2**31)], []), "alignment"),
    "alignment 4": (padded([ARCH, u32(b"general.alignment", 4)], []), "alignment is 4"),
    "alignment 48": (padded([ARCH, u32(b"general.alignment", 48)], []), "alignment is 48"),
    "alignment array": (padded([ARCH, array(b"general.alignment", 4, 0)], []), "ARRAY"),
    "rank 0": (padded([ARCH], [info(b"t", ()) + bytes(8)]), "0 dimensions"),
    "rank 2^31": (
        padded([ARCH], [s(b"t") + struct.pack("<I", 2**31) + bytes(40)]),
        "2147483648 dimensions",
    ),
    "a zero dimension": (padded([ARCH], [info(b"t", (32, 0))]), "empty"),
    "type Q4_2": (padded([ARCH], [info(b"t", (32,), 4)]), "unknown type 4"),
    "type Q4_0_4_4": (padded([ARCH], [info(b"t", (32,), 31)]), "unknown type 31"),
    "row not whole": (padded([ARCH], [info(b"t", (32, 8), 12)]), "row of 32 values"),
    "2^62 x 4 x 4": (padded([ARCH], [info(b"t", (2**62, 4, 4))]), "past the end"),
    "2^64-1 in each dimension": (padded([ARCH], [info(b"t", (2**64 - 1,) * 4)]), "past the end"),
    "size_max / 4 + padding": (padded([ARCH], [info(b"t", (2**62 - 1,))]), "past the end"),
    "overlapping": (
        padded([ARCH], [info(b"a", (16,)), info(b"b", (16,), 0, 32)]),
        "'a' and 'b' overlap",
    ),
    "same place": (padded([ARCH], [info(b"a", (8,)), info(b"b", (8,))]), "overlap"),
    "one byte past the end": (padded([ARCH], [info(b"t", (8,))], 31), "ends 1 bytes past"),
    "offset past the end": (padded([ARCH], [info(b"t", (8,), 0, 128)]), "past the end"),
    "name of 64 bytes": (padded([ARCH], [info(b"n" * 64, (8,))]), "64 bytes, more than 63"),
    "empty name": (padded([ARCH], [info(b"", (8,)) + b"x"]), "is empty"),
    "name with a newline": (padded([ARCH], [info(b"a\nb", (8,))]), "not printable"),
    "name that is not UTF-8": (padded([ARCH], [info(b"\xff\xfe", (8,))]), "not printable"),
    "absolute name": (padded([ARCH], [info(b"/etc/passwd", (8,))]), "like a path"),
    "Windows path": (padded([ARCH], [info(rb"..\x", (8,))]), "like a path"),
    "architecture 7": (padded([u32(b"general.architecture", 7)], []), "type UINT32"),
    "architecture ..": (padded([kv(b"general.architecture", 8, s(b".."))], []), "'..'"),
    "architecture empty": (padded([kv(b"general.architecture", 8, s(b""))], []), "''"),
    "architecture of 16 MiB": (
        padded([kv(b"general.architecture", 8, s(b"a" * (1 << 20)))], []),
        "too long",
    ),
    "architecture with newline": (
        padded([kv(b"general.architecture", 8, s(b"llama\n"))], []),
        "llama",
    ),
    "blocks 0": (padded([ARCH, u32(b"llama.block_count", 0)], []), "block_count is 0"),
    "blocks 65536": (padded([ARCH, u32(b"llama.block_count", 65536)], []), "65536"),
    "blocks -1": (
        padded([ARCH, kv(b"llama.block_count", 5, struct.pack("<i", -1))], []),
        "block_count is -1",
    ),
    "blocks as text": (padded([ARCH, kv(b"llama.block_count", 8, s(b"2"))], []), "type STRING"),
    "a shard number without a count": (padded([u32(b"split.no", 1)], []), "no general.arch"),
    "fewer scores than tokens": (
        padded(
            [
                ARCH,
                array(b"tokenizer.ggml.tokens", 8, 2, s(b"a") + s(b"b")),
                array(b"tokenizer.ggml.scores", 6, 1, bytes(4)),
            ],
            [],
        ),
        "1 items for 2 tokens",
    ),
    "token types as text": (
        padded(
            [
                ARCH,
                array(b"tokenizer.ggml.tokens", 8, 1, s(b"a")),
                array(b"tokenizer.ggml.token_type", 8, 1, s(b"1")),
            ],
            [],
        ),
        "not an array of INT32",
    ),
    "HTML": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "HTML page"),
    "HTML, upper case": (b"<HTML><HEAD>", "HTML page"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs pointer"),
    "JSON": (b'{"error": "not found"}', "JSON"),
    "zip": (b"PK\x03\x04" + bytes(100), "zip archive"),
    "safetensors": (struct.pack("<Q", 20) + b'{"a": {}}', "safetensors"),
    "one byte": (b"G", "not a GGUF file"),
}
"""Hostile or foreign files: the bytes, and what the refusal says."""


@pytest.mark.parametrize("name", [n for n, e in EXPECTED.items() if e["expect"] != "accept"])
def test_bad_files_are_refused_quickly_and_small(name: str) -> None:
    """Each bad file is refused with its name, in under a second and 64 MiB."""
    tracemalloc.start()
    try:
        with at_most(1), pytest.raises((FormatError, UnsupportedError)) as caught:
            open_gguf(BAD / name, name=name)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.message.startswith(f"{name}: ")
    assert caught.value.hint


@pytest.mark.parametrize("name", [n for n, e in EXPECTED.items() if e["expect"] == "accept"])
def test_good_files_of_that_set_are_read(name: str) -> None:
    """What must be accepted is."""
    with open_gguf(BAD / name) as file:
        assert file.get("general.architecture") == "llama"
        assert [t.nbytes for t in file.tensors] == [128]


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_are_refused_by_what_is_wrong(
    case: str, opened: Callable[[bytes], GGUFFile]
) -> None:
    """Each kind of attack is refused, and the message names the defect."""
    data, says = HOSTILE[case]
    with pytest.raises((FormatError, UnsupportedError), match=says) as caught:
        opened(data)
    assert caught.value.message.startswith("file.gguf: ")
    assert caught.value.hint
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"GGUF" + struct.pack("<III", 1, 0, 0), "GGUF version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"FUGG" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"tjgg" + bytes(40), "old GGML"),
    ],
)
def test_formats_without_support_name_a_remedy(
    data: bytes, says: str, opened: Callable[[bytes], GGUFFile]
) -> None:
    """Version 1, big-endian files and GGML's older formats are named, with what to do."""
    with pytest.raises(UnsupportedError, match=says) as caught:
        opened(data)
    assert "convert" in caught.value.hint


def test_an_error_names_the_byte(opened: Callable[[bytes], GGUFFile]) -> None:
    """The offset in a message is that of the entry that is wrong."""
    data = padded([ARCH, u32(b"a", 1), u32(b"a", 2)], [])
    at = data.rindex(s(b"a"))
    with pytest.raises(FormatError, match=f"^file.gguf: at byte {at}: metadata key 'a'"):
        opened(data)


def test_what_is_not_a_regular_file_is_refused_by_kind(tmp_path: Path) -> None:
    """A directory, a pipe, a socket and a device are named; nothing blocks."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s")[:100])
        for path, kind in (
            (tmp_path, "a directory"),
            (pipe, "a named pipe"),
            (tmp_path / "s", "a socket"),
            (Path(os.devnull), "a character device"),
        ):
            with pytest.raises(FormatError, match=kind):
                open_gguf(path)


def test_a_missing_file_is_a_source_error(tmp_path: Path) -> None:
    """The system's reason is in the message."""
    with pytest.raises(SourceError, match="No such file"):
        open_gguf(tmp_path / "none.gguf")
    with pytest.raises(SourceError, match="null"):
        open_gguf("a\0b")


HUGE = {
    "two million empty strings": header([ARCH, array(b"a", 8, 2 << 20)], [], (0, 3)),
    "64 Mi booleans": header([ARCH, array(b"a", 7, 64 << 20)], [], (0, 3)),
    "ten thousand tensors": header(
        [ARCH], [info(b"t%05d" % i, (8,), 0, 32 * i) for i in range(9_999)] + [info(b"..", (8,))]
    ),
}

LIMITED = """
import resource, sys, time
from mbuild.core.errors import FormatError
from mbuild.gguf.reader import open_gguf
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20),) * 2)
begun = time.perf_counter()
try:
    open_gguf(sys.argv[1])
except FormatError as error:
    print("refused", time.perf_counter() - begun < 5)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
@pytest.mark.parametrize("case", HUGE)
def test_huge_claims_that_the_file_backs_stay_bounded(case: str, tmp_path: Path) -> None:
    """A sparse file of 1 GiB that backs its claims is refused within 64 MiB of memory."""
    path = tmp_path / "sparse.gguf"
    path.write_bytes(HUGE[case])
    os.truncate(path, 1 << 30)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "refused True\n", done.stderr


def big_vocabulary(tmp_path: Path, count: int = 262_144) -> tuple[Path, list[str]]:
    tokens = [f"t{i}{'x' * (i % 40)}" for i in range(count)]
    tokens[100_000 % count] = "y" * (3 << 20)  # one that leaves the window
    metadata = {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.5] * count,
        "tokenizer.ggml.token_type": [1] * count,
    }
    return tiny_gguf(tmp_path / "big.gguf", metadata=metadata), tokens


def test_a_large_vocabulary_is_passed_over_not_built(tmp_path: Path) -> None:
    """Opening takes a few windows of memory, not the vocabulary's; values come when asked."""
    path, tokens = big_vocabulary(tmp_path)
    assert path.stat().st_size > 8 << 20
    tracemalloc.start()
    file = open_gguf(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * WINDOW
    raw = file.kvs["tokenizer.ggml.tokens"]
    assert (raw.type, raw.element, raw.count) == (ValueType.ARRAY, ValueType.STRING, len(tokens))
    assert raw.value == tokens
    assert file.get("tokenizer.ggml.scores") == [0.5] * len(tokens)


def test_the_reader_does_not_import_numpy() -> None:
    """A build with nothing to do must not pay for numpy."""
    modules = "mbuild.gguf.reader, mbuild.gguf.writer, mbuild.gguf.shards, mbuild.gguf.facts"
    code = f"import sys, {modules}; print('numpy' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "False\n"


def test_version_2_is_read_like_version_3(opened: Callable[[bytes], GGUFFile]) -> None:
    """The two versions differ in the number only, and a copy is version 3."""
    three = gguf_bytes(tiny_model())
    two = opened(three[:4] + struct.pack("<I", 2) + three[8:])
    assert two.version == 2
    assert gguf_bytes(two.model()) == three


def test_strings_that_are_not_utf8_are_shown_and_copied(
    opened: Callable[[bytes], GGUFFile],
) -> None:
    """llama.cpp takes any bytes for a token: shown with U+FFFD, copied as they are."""
    data = padded([ARCH, array(b"tokenizer.ggml.tokens", 8, 2, s(b"\xff") + s(b"ok"))], [], 0)
    file = opened(data)
    assert file.get("tokenizer.ggml.tokens") == ["�", "ok"]
    assert gguf_bytes(file.model()) == data


def test_a_later_shard_needs_no_architecture(opened: Callable[[bytes], GGUFFile]) -> None:
    """gguf-split writes the metadata into the first shard only."""
    split = [kv(b"split.no", 2, b"\1\0"), kv(b"split.count", 2, b"\2\0")]
    assert opened(padded(split, [info(b"t", (8,))])).get("split.no") == 1


@pytest.mark.parametrize("alignment", [8, 32, 4096, 1 << 20])
def test_alignments(alignment: int, tmp_path: Path) -> None:
    """Data starts at the alignment, and every tensor does."""
    with open_gguf(
        tiny_gguf(tmp_path / "a.gguf", metadata={"general.alignment": alignment})
    ) as file:
        assert file.alignment == alignment
        assert file.data_start % alignment == 0
        assert all(t.offset % alignment == 0 for t in file.tensors)


@pytest.mark.parametrize("change", ["cut", "grow", "rewrite"])
def test_a_file_that_changes_is_noticed(change: str, tmp_path: Path) -> None:
    """A short read or a newer time is an error, never zeros and never other bytes."""
    path = tiny_gguf(tmp_path / "m.gguf")
    file = open_gguf(path)
    size = path.stat().st_size
    if change == "cut":
        os.truncate(path, size - 500)
    elif change == "grow":
        os.truncate(path, size + 1)
    else:
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    with pytest.raises(FormatError, match="changed while reading"):
        file.model().tensors[-1].load()


def _descriptors_of(path: Path) -> int:
    """How many of this process's open descriptors are of that file, whatever else is open."""
    wanted, count = path.stat(), 0
    for number in os.listdir("/dev/fd"):
        with suppress(OSError):
            count += os.path.samestat(os.fstat(int(number)), wanted)
    return count


def test_files_are_closed(tmp_path: Path) -> None:
    """The descriptor goes with the last reference, or at the end of a with block."""
    path = tiny_gguf(tmp_path / "m.gguf")
    for _ in range(50):
        load = open_gguf(path).model().tensors[0].load
        assert load()
    assert _descriptors_of(path) == 1
    del load
    assert _descriptors_of(path) == 0
    with open_gguf(path) as file:
        assert _descriptors_of(path) == 1
    assert _descriptors_of(path) == 0
    with pytest.raises(SourceError, match="cannot be read"):
        file.get("general.name")


def test_an_open_descriptor_is_read_in_place(tmp_path: Path) -> None:
    """A file replaced by rename stays readable as it was."""
    path = tiny_gguf(tmp_path / "m.gguf")
    file = open_gguf(path)
    tiny_gguf(tmp_path / "other.gguf", metadata={"general.name": "other"}).replace(path)
    assert file.get("general.name") == "tiny"
    assert stat.S_ISREG(path.stat().st_mode)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.oracle
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_reference_reader(kind: str, tmp_path: Path) -> None:
    """On well-formed files the gguf package sees the same keys, values and tensors."""
    gguf = pytest.importorskip("gguf")
    path = tiny_gguf(tmp_path / "m.gguf", kind=kind)
    ours, theirs = open_gguf(path), gguf.GGUFReader(path)
    keys = [k for k in theirs.fields if not k.startswith("GGUF.")]
    assert list(ours.kvs) == keys
    for key in keys:
        assert _plain(theirs.fields[key].contents()) == ours.get(key), key
        assert [int(t) for t in theirs.fields[key].types] == [
            int(t) for t in (ours.kvs[key].type, ours.kvs[key].element) if t is not None
        ]
    assert [(t.name, t.dims, t.type, t.offset, t.nbytes) for t in ours.tensors] == [
        (t.name, tuple(int(d) for d in t.shape), int(t.tensor_type), t.data_offset, t.n_bytes)
        for t in theirs.tensors
    ]
    assert [t.load() for t in ours.model()] == [t.data.tobytes() for t in theirs.tensors]
    assert (ours.alignment, ours.data_start) == (theirs.alignment, theirs.data_offset)


VALID = gguf_bytes(
    Model(
        (
            entry("general.architecture", "llama"),
            entry("llama.block_count", 1),
            entry("tokenizer.ggml.tokens", ["a", "bb", ""]),
            KV("flags", ValueType.ARRAY, [True, False], ValueType.BOOL),
        ),
        (tensor("t", (32,), GGMLType.Q8_0), tensor("u", (3, 2), GGMLType.F32)),
    )
)
INTERESTING = [0, 1, 7, 8, 9, 13, 64, 255, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1]


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A valid file with a few bytes or numbers changed, a piece taken out or doubled."""
    data = bytearray(VALID)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        match draw(st.sampled_from(["byte", "number", "cut", "drop", "double"])):
            case "byte":
                data[at] = draw(st.integers(0, 255))
            case "number":
                value = draw(st.sampled_from(INTERESTING)).to_bytes(8, "little")
                size = draw(st.sampled_from([4, 8]))
                data[at : at + size] = value[:size]
            case "cut":
                del data[at + 1 :]
            case "drop":
                del data[at : at + draw(st.integers(1, 16))]
            case "double":
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
        data = data or bytearray(b"G")
    return bytes(data)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("fuzz") / "f.gguf"


LENGTHS = st.lists(st.sampled_from([0, 1, 7, 8, 9, 31, 32, 33, 64, 65, 200]), max_size=60)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(lengths=LENGTHS, window=st.sampled_from([8, 9, 16, 40, 64, 1000]), spare=st.integers(0, 9))
def test_strings_are_skipped_alike_in_any_window(
    lengths: list[int], window: int, spare: int, scratch: Path
) -> None:
    """Where windows end within an array of strings makes no difference."""
    data = b"".join(s(b"x" * n) for n in lengths)
    scratch.write_bytes(data + bytes(spare))
    walk = Cursor(FileBytes.open(scratch), window)
    walk.skip_strings(len(lengths), "strings")
    assert (walk.position, walk.remaining) == (len(data), spare)
    assert walk.take(spare, "the rest") == bytes(spare)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    lengths=LENGTHS.filter(bool), window=st.sampled_from([8, 9, 40, 1000]), cut=st.integers(1, 99)
)
def test_strings_cut_off_are_refused_in_any_window(
    lengths: list[int], window: int, cut: int, scratch: Path
) -> None:
    """An array of strings that the file does not hold whole is never passed over."""
    data = b"".join(s(b"x" * n) for n in lengths)
    scratch.write_bytes(data[: max(0, len(data) - cut)])
    walk = Cursor(FileBytes.open(scratch), window)
    with pytest.raises(FormatError):
        walk.skip_strings(len(lengths), "strings")
