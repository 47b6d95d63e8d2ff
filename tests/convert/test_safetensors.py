"""The safetensors reader accepts what the format allows and refuses everything else, quickly."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from checkpoints import write_raw, write_shard
from hypothesis import given
from hypothesis import strategies as st
from pace import at_most

from mbuild.convert.read.safetensors import BITS, DType, StoredTensor, read_header
from mbuild.core.errors import FormatError, MbuildError, SourceError

BAD = Path(__file__).parents[1] / "data" / "bad_safetensors"
EXPECTED = json.loads((BAD / "index.json").read_text())


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize("name", EXPECTED)
def test_hostile_files_are_refused_and_odd_ones_read(name: str) -> None:
    """Every collected broken file meets its fate, with an error of ours, in under a second."""
    with at_most(1):
        try:
            read_header(BAD / name, name)
            outcome = "accept"
        except MbuildError as error:
            assert name in error.message
            outcome = "refuse"
    assert EXPECTED[name]["expect"] in (outcome, "either")


def test_tensors_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    """Plain string order, whatever the order of header and data: layer 10 before layer 2."""
    path = tmp_path / "model.safetensors"
    write_shard(path, {"l.2": "F32 2", "l.10": "BF16 3 2", "a": "U8"})
    tensors = read_header(path, path.name)
    assert [t.name for t in tensors] == ["a", "l.10", "l.2"]
    assert [(t.dtype, t.shape, t.nbytes) for t in tensors] == [
        (DType.U8, (), 1),
        (DType.BF16, (3, 2), 12),
        (DType.F32, (2,), 8),
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([d for d in DType if BITS[d] % 8 == 0]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=6,
    ),
    st.binary(min_size=64, max_size=64),
)
def test_written_tensors_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[tuple[DType, list[int]]], seed: bytes
) -> None:
    """Reading is the inverse of writing, for every type, with empty tensors and scalars."""
    header: dict[str, object] = {}
    parts, at = [], 0
    for number, (dtype, shape) in enumerate(wanted):
        count = BITS[dtype] // 8
        for dim in shape:
            count *= dim
        parts.append((seed * (count // 64 + 1))[:count])
        header[f"t{number}"] = entry(shape, at, at + count, dtype)
        at += count
    path = write_raw(tmp_path_factory.mktemp("st") / "x", header, b"".join(parts))
    tensors = read_header(path, "x")
    assert [(t.dtype, list(t.shape), t.read().tobytes()) for t in tensors] == [
        (dtype, shape, part) for (dtype, shape), part in zip(wanted, parts, strict=True)
    ]


@pytest.mark.oracle
def test_the_reference_library_reads_the_same(tmp_path: Path) -> None:
    """Types, shapes and bytes are those of the safetensors package."""
    safetensors = pytest.importorskip("safetensors")
    path = tmp_path / "model.safetensors"
    write_shard(path, {"b": "F16 4 8", "a": "F32 3", "c": "I64 2"})
    with safetensors.safe_open(path, framework="np") as reference:
        for tensor in read_header(path, path.name):
            other = reference.get_tensor(tensor.name)
            assert (other.shape, other.tobytes()) == (tensor.shape, tensor.read().tobytes())


def test_a_hundred_thousand_tensors_take_a_moment(tmp_path: Path) -> None:
    """The parser is linear in the number of tensors."""
    header = {f"model.layers.{i}.weight": entry([0, 7], 0, 0) for i in range(100_000)}
    path = write_raw(tmp_path / "many.safetensors", header)
    with at_most(5):
        assert len(read_header(path, path.name)) == 100_000


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"0" * 12, "gap"),
        ({"a\0": entry([1], 0, 4)}, b"0000", "NUL"),
        ({"a" * 256: entry([1], 0, 4)}, b"0000", "longer"),
        ({"a": entry([1], 0, 4, "F33")}, b"0000", "F33"),
        ({"a": entry([1.0], 0, 4)}, b"0000", "1.0"),  # type: ignore[list-item]
        ({"a": entry([True], 0, 4)}, b"0000", "True"),
        ({"a": {"shape": [1], "data_offsets": [0, 4]}}, b"0000", "dtype"),
        ({"a": [1, 2]}, b"", "object"),
        ({"\ud800": entry([1], 0, 4)}, b"0000", "Unicode"),
        ({"__metadata__": ["x"]}, b"", "__metadata__"),
        ({"a": entry([1 << 62, 4], 0, 0)}, b"", "too large"),
        ({"a": entry([3], 0, 12)}, b"0" * 11, "fewer"),
    ],
)
def test_what_the_format_forbids_is_named(
    tmp_path: Path, header: dict[str, object], data: bytes, message: str
) -> None:
    """The message says what is wrong."""
    path = write_raw(tmp_path / "m.safetensors", header, data)
    with pytest.raises(FormatError, match=message):
        read_header(path, path.name)


def stored(tmp_path: Path) -> tuple[Path, StoredTensor]:
    path = tmp_path / "m.safetensors"
    write_shard(path, {"a": "F32 1000"})
    return path, read_header(path, path.name)[0]


def test_a_file_that_shrinks_is_an_error_not_a_crash(tmp_path: Path) -> None:
    """Weights are read by pread, so a truncated file raises instead of killing the process."""
    path, tensor = stored(tmp_path)
    os.truncate(path, 100)
    with pytest.raises(FormatError, match="changed"):
        tensor.read()


def test_a_file_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    """Another file under the same name is not read with the first one's offsets."""
    path, tensor = stored(tmp_path)
    other = tmp_path / "other"
    other.write_bytes(path.read_bytes())
    other.replace(path)
    with pytest.raises(FormatError, match="changed"):
        tensor.read()


def test_a_file_that_went_away_is_an_error(tmp_path: Path) -> None:
    """A missing file at reading time is a source error that names it."""
    path, tensor = stored(tmp_path)
    path.unlink()
    with pytest.raises(SourceError, match=r"m\.safetensors"):
        tensor.read()
    with pytest.raises(SourceError, match=r"m\.safetensors"):
        read_header(path, path.name)


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    """Only regular files are read."""
    path = tmp_path / "pipe.safetensors"
    os.mkfifo(path)
    with pytest.raises(SourceError, match="regular"):
        read_header(path, path.name)
