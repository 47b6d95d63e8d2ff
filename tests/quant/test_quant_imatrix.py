"""Importance matrices of both formats are read, and hostile files refused."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quant_data import imatrix_bytes

from mbuild.core.errors import FormatError, MbuildError, UsageError
from mbuild.quant.choose.imatrix import Imatrix, MatrixUse, open_imatrix

VALUES = {
    "blk.0.ffn_up.weight": ([[2.0, 4.0, 6.0, 9.0]], [2.0]),
    "blk.0.ffn_down_exps.weight": ([[3.0, 6.0], [1.0, 1.0], [8.0, 4.0]], [3.0, 0.0, 4.0]),
}
"""Sums per column and matrix, and counts per matrix."""


def _binary(trailer: bool = True) -> bytes:
    """The old form: sums divided by counts, times the number of calls."""
    made = struct.pack("<i", len(VALUES))
    for name, (sums, _) in VALUES.items():
        flat = np.ravel(sums).astype("<f4")
        made += struct.pack("<i", len(name)) + name.encode()
        made += struct.pack("<ii", 2, flat.size) + flat.tobytes()
    return made + (struct.pack("<ii", 40, 8) + b"wiki.txt" if trailer else b"")


def _open(tmp_path: Path, content: bytes) -> Imatrix:
    path = tmp_path / "imatrix.dat"
    path.write_bytes(content)
    return open_imatrix(path)


def test_a_gguf_matrix(tmp_path: Path) -> None:
    """Importances are sums over counts, per expert; an expert never used counts as 1."""
    found = _open(tmp_path, imatrix_bytes(VALUES))
    up = found.of("blk.0.ffn_up.weight", (4, 100))
    assert up is not None and up.tolist() == [[1.0, 2.0, 3.0, 4.5]]
    down = found.of("blk.0.ffn_down_exps.weight", (2, 100, 3))
    assert down is not None and down.tolist() == [[1.0, 2.0], [1.0, 1.0], [2.0, 1.0]]
    assert down.dtype == np.float32
    assert found.of("blk.1.ffn_up.weight", (4, 100)) is None
    source = found.source("im.gguf")
    assert (source.file, source.dataset, source.entries, source.chunks) == (
        "im.gguf",
        "wiki.txt",
        2,
        40,
    )


@pytest.mark.parametrize(
    ("use", "names", "listed"),
    [
        (MatrixUse(include=("up", "_gate")), ["blk.0.ffn_up.weight"], 1),
        (MatrixUse(exclude=("exps",)), ["blk.0.ffn_up.weight"], 1),
        (MatrixUse(exclude=("exps", "nothing"), pruned=(1, 3)), ["blk.0.ffn_up.weight"], 1),
        (MatrixUse(pruned=(0,)), [], 2),
    ],
)
def test_a_part_of_a_matrix(tmp_path: Path, use: MatrixUse, names: list[str], listed: int) -> None:
    """By texts in the names; entries of layers that the model lacks are gone, and counted."""
    path = tmp_path / "imatrix.dat"
    path.write_bytes(imatrix_bytes(VALUES))
    found = open_imatrix(path, use=use)
    assert [*found.entries] == names
    assert found.source("i").entries == listed


def test_entries_move_up_with_their_layers(tmp_path: Path) -> None:
    """As llama-quantize maps them; what is of no layer stays."""
    path = tmp_path / "imatrix.dat"
    one = ([[1.0, 1.0]], [1.0])
    path.write_bytes(imatrix_bytes({f"blk.{n}.a.weight": one for n in range(12)} | {"b": one}))
    found = open_imatrix(path, use=MatrixUse(pruned=(0, 2, 10)))
    assert [*found.entries] == [*(f"blk.{n}.a.weight" for n in range(9)), "b"]


def test_nothing_of_a_matrix_is_an_error(tmp_path: Path) -> None:
    """It is a slip of the pen: quantizing would go on without importances."""
    path = tmp_path / "imatrix.dat"
    path.write_bytes(imatrix_bytes(VALUES))
    with pytest.raises(UsageError, match="--include-weights leaves nothing of") as error:
        open_imatrix(path, use=MatrixUse(include=("atn",)))
    assert error.value.hint == "a tensor is named, for example, blk.0.ffn_up.weight"


def test_an_old_matrix(tmp_path: Path) -> None:
    """The old form divides by the calls; its trailer may be missing."""
    found = _open(tmp_path, _binary())
    up = found.of("blk.0.ffn_up.weight", (4, 100))
    assert up is not None and up.tolist() == [[1.0, 2.0, 3.0, 4.5]]
    assert (found.chunks, found.dataset) == (40, "wiki.txt")
    bare = _open(tmp_path, _binary(trailer=False))
    assert (bare.chunks, bare.dataset, len(bare.entries)) == (0, None, 2)


def test_importances_that_do_not_fit(tmp_path: Path) -> None:
    """Another model's importances are refused, except of token embeddings."""
    values = VALUES | {"token_embd.weight": ([[1.0]], [1.0])}
    found = _open(tmp_path, imatrix_bytes(values))
    with pytest.raises(FormatError, match="4 importance values for"):
        found.of("blk.0.ffn_up.weight", (5, 100))
    assert found.of("token_embd.weight", (4, 100)) is None


def test_importances_that_are_not_finite(tmp_path: Path) -> None:
    """NaN and infinity among importances are refused with the tensor's name."""
    found = _open(tmp_path, imatrix_bytes({"a.weight": ([[1.0, float("nan")]], [1.0])}))
    with pytest.raises(FormatError, match=r"importance of a\.weight is not finite"):
        found.of("a.weight", (2, 1))


def test_files_that_are_no_importance_matrix(tmp_path: Path) -> None:
    """Missing keys, halves of pairs, other types and empty files are refused."""
    lone = {"a.weight": ([[1.0]], [1.0])}
    cut = imatrix_bytes(lone).replace(b"a.weight.counts", b"a.weight.countz")
    uneven = {"a.weight": ([[1.0, 2.0, 3.0]], [1.0, 1.0])}
    for content in (
        imatrix_bytes(VALUES, keys=False),
        cut,
        imatrix_bytes(uneven),
        imatrix_bytes({}),
        imatrix_bytes(VALUES, type_=26),
        b"",
        struct.pack("<i", 0),
        struct.pack("<i", -5),
        struct.pack("<i", 2**31 - 1),
        struct.pack("<ii", 1, 2**31 - 1) + bytes(100),
        struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, 2**30),
        struct.pack("<ii", 1, 1) + b"a" + struct.pack("<ii", 1, 0),
    ):
        with pytest.raises(FormatError):
            _open(tmp_path, content)


@pytest.mark.parametrize(
    "content", [imatrix_bytes(VALUES)[:-20], _binary(trailer=False)], ids=["gguf", "binary"]
)
def test_cut_short_at_any_byte(tmp_path: Path, content: bytes) -> None:
    """A file that ends early is an error wherever it ends."""
    for end in range(len(content)):
        with pytest.raises(FormatError):
            found = _open(tmp_path, content[:end])
            for name, (sums, _) in VALUES.items():
                assert found.of(name, (len(sums[0]), 1, len(sums))) is not None


@settings(max_examples=200, deadline=None)
@given(
    start=st.sampled_from([imatrix_bytes(VALUES), _binary()]),
    at=st.integers(0, 400),
    put=st.binary(min_size=1, max_size=8),
)
def test_damaged_anywhere(tmp_path_factory: Any, start: bytes, at: int, put: bytes) -> None:
    """Any damage gives a matrix or one of our errors, never another exception."""
    folder = tmp_path_factory.getbasetemp()
    try:
        found = _open(folder, start[:at] + put + start[at + len(put) :])
        for name, (sums, _) in VALUES.items():
            found.of(name, (len(sums[0]), 1, len(sums)))
    except MbuildError:
        pass
