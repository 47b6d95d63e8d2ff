"""Types of one to three bits through the command line, with an importance matrix."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Run
from example_models import write_chat
from inprocess import in_process
from quant_data import Reference, imatrix_bytes

from mbuild.gguf.reader import open_gguf
from mbuild.gguf.types import GGMLType
from mbuild.quant.choose.imatrix import open_imatrix
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.recipes import plan
from mbuild.quant.choose.types import FILE_TYPES
from mbuild.quant.search.grids import CHUNK, HALF, Grid, table
from mbuild.quant.search.methods import OnGrid
from mbuild.quant.table import TYPES

G = GGMLType
LOW = [
    kind
    for kind in FILE_TYPES
    if kind.name.startswith(("IQ1", "IQ2", "IQ3")) and kind.name not in ("IQ3_S", "IQ3_M")
]
ERRORS = {
    **{G.IQ1_S: 0.7, G.IQ1_M: 0.7},
    **{G.IQ2_XXS: 0.6, G.IQ2_XS: 0.6, G.IQ2_S: 0.6, G.IQ3_XXS: 0.4},
}
"""Root mean square error, in units of the weights' deviation, that a type stays below."""


def _grids() -> dict[GGMLType, Grid]:
    """The grids of the types that have one."""
    methods = {type_: parts.method(weighted=True) for type_, parts in TYPES.items()}
    return {type_: made.grid for type_, made in methods.items() if isinstance(made, OnGrid)}


GRIDS = _grids()


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def source(mbuild: Run, tmp_path: Path) -> Path:
    """A model of two layers as a BF16 GGUF, its importance matrix and a Modelfile."""
    write_chat(tmp_path / "chat")
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    assert mbuild("-t", "chat").returncode == 0
    assert mbuild("export", "chat", "-o", "chat.gguf").returncode == 0
    (tmp_path / "Modelfile").write_text("FROM ./chat.gguf\n")
    random = np.random.default_rng(4)
    with open_gguf(tmp_path / "chat.gguf") as file:
        sums = {
            tensor.name: (random.random((1, tensor.dims[0])) ** 2, [2.0])
            for tensor in file.model().tensors
            if len(tensor.dims) > 1 and tensor.name != "token_embd.weight"
        }
    (tmp_path / "chat.imatrix").write_bytes(imatrix_bytes(sums))
    return tmp_path / "chat.gguf"


def _values(tensor: Any) -> Any:
    """A BF16 tensor's values, row by row."""
    raw = np.frombuffer(bytes(tensor.load()), "<u2").astype(np.uint32) << 16
    return raw.view(np.float32).reshape(-1, tensor.dims[0])


def _check(tensor: Any, before: Any, theirs: Any) -> None:
    """The tensor has ggml's bytes and decodes to the source within the type's error."""
    gguf = pytest.importorskip("gguf")
    x = _values(before)
    blocks = np.frombuffer(bytes(tensor.load()), np.uint8).reshape(len(x), -1)
    assert np.array_equal(theirs.reshape(blocks.shape), blocks)
    read = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(int(tensor.type)))
    error = np.sqrt(np.mean((read - x) ** 2)) / x.std()
    assert ERRORS[tensor.type] / 3 < error < ERRORS[tensor.type]


def test_every_low_bit_file_type(mbuild: Run, source: Path, tmp_path: Path) -> None:
    """All tensors have the recipe's types, ggml's bytes, and weights within the type's error."""
    reference = Reference()
    types = [f"-q{kind.name}" for kind in LOW]
    done = mbuild(*types, "--imatrix", "chat.imatrix", "-t", "m")
    assert done.returncode == 0, done.stderr
    matrix = open_imatrix(tmp_path / "chat.imatrix")
    seen = set()
    with open_gguf(source) as file:
        model = file.model()
        before = {tensor.name: tensor for tensor in model.tensors}

        @cache  # several file types give a tensor the same type
        def theirs(type_: GGMLType, name: str) -> Any:
            row, values = before[name].dims[0], _values(before[name]).reshape(-1)
            return reference(type_, values, row, matrix.of(name, before[name].dims))

        for kind in LOW:
            name = f"{kind.name}.gguf"
            assert mbuild("export", f"m:{kind.name}", "-o", name).returncode == 0
            planned = plan(model.tensors, model.get, Quantization(kind, imatrix="m"))
            with open_gguf(tmp_path / name) as made:
                after = made.model().tensors
                assert made.model().get("general.file_type", None) == kind.number
                assert [(t.name, t.type) for t in after] == [(t.name, n) for t, n in planned]
                for tensor in after:
                    if tensor.type in ERRORS:
                        seen.add(tensor.type)
                        _check(tensor, before[tensor.name], theirs(tensor.type, tensor.name))
    assert seen == set(ERRORS)


@pytest.mark.parametrize("kind", LOW, ids=str)
def test_without_an_importance_matrix(kind: Any, mbuild: Run, source: Path, tmp_path: Path) -> None:
    """Refused with the tensor's name and the remedy, before anything is written."""
    done = mbuild("-q", kind.name, "-t", "m")
    assert done.returncode == 1
    first, hint = done.stderr.strip().splitlines()[-2:]
    assert first.startswith("error: blk.0.")
    assert "needs an importance matrix" in first
    assert hint == "  hint: give one with --imatrix FILE"


def test_a_tensor_without_importances_is_named(mbuild: Run, source: Path, tmp_path: Path) -> None:
    """A matrix that leaves a tensor out is refused where the tensor's type needs it."""
    sums = {"blk.0.ffn_up.weight": (np.ones((1, 256)), [1.0])}
    (tmp_path / "part.imatrix").write_bytes(imatrix_bytes(sums))
    done = mbuild("-q", "iq2_xs", "--imatrix", "part.imatrix", "-t", "m")
    assert done.returncode == 1
    words = "blk.0.attn_k.weight: part.imatrix has no values for it, which IQ2_XS needs"
    assert f"error: {words}" in done.stderr
    assert mbuild("-q", "q4_K_M", "--imatrix", "part.imatrix", "-t", "m").returncode == 0
    # llama-quantize asks for none for embeddings, and then stops with an assertion.
    done = mbuild("-q", "q4_K_M", "--token-embedding-type", "iq2_xs", "-t", "m")
    assert "error: token_embd.weight: IQ2_XS needs an importance matrix" in done.stderr
    done = mbuild("-q", "q4_K_M", "--token-embedding-type", "iq2_s", "-t", "m")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("type_", GRIDS, ids=lambda t: t.name)
def test_neighbours_are_the_nearest_points(type_: GGMLType) -> None:
    """A point has no neighbours; any other combination has all points of the least distances."""
    grid = table(GRIDS[type_])
    size, levels, bits = GRIDS[type_].shape
    shifts = bits * np.arange(size)
    codes = np.flatnonzero(grid.numbers)
    codes = np.concatenate([[0], codes])
    assert len(codes) in (256, 512, 1024, 2048)
    assert sorted(grid.numbers[codes]) == list(range(len(codes)))
    points = (codes[:, None] >> shifts) & ((1 << bits) - 1)
    chunk, lists = (CHUNK, 0) if type_ in (G.IQ1_S, G.IQ1_M) else (HALF, levels**size)
    near = grid.codes.view("<u2")
    for spot in np.random.default_rng(0).integers(0, levels**size, 50):
        combination = spot // levels ** np.arange(size) % levels
        distances = ((points - combination) ** 2).sum(axis=1)
        limit = np.unique(distances)[: GRIDS[type_].rings].max()
        first = (grid.lists[lists + spot] >> 6) * chunk
        count = (grid.lists[lists + spot] & 63) * chunk
        found = near[first : first + count]
        if distances.min() == 0:
            assert count == 0
            assert near[first] == codes[distances.argmin()]
        else:
            assert set(found) == set(codes[distances <= limit])
            of = dict(zip(codes, distances, strict=True))
            listed = [of[code] for code in found[: len(set(found))]]
            assert listed == sorted(listed)


SHORT = [type_ for type_ in GRIDS if type_ not in (G.IQ1_S, G.IQ1_M)]


@pytest.mark.parametrize("type_", SHORT, ids=lambda t: t.name)
def test_shortened_lists_hold_the_nearest_points(type_: GGMLType) -> None:
    """Whatever values a combination stands for and their weights: its short list has the nearest.

    What fills a list up costs more than its nearest neighbour.
    """
    grid = table(GRIDS[type_])
    size, levels, bits = GRIDS[type_].shape
    near, shifts = grid.codes.view("<u2").astype(np.int64), bits * np.arange(size)
    random = np.random.default_rng(0)
    off = np.flatnonzero(grid.lists[: levels**size] & 63)
    lengths = []

    def costs(spot: int, values: Any, weights: Any) -> tuple[Any, Any]:
        first, count = (grid.lists[spot] >> 6) * HALF, (grid.lists[spot] & 63) * HALF
        codes = near[first : first + count]
        found = (codes[:, None] >> shifts) & ((1 << bits) - 1)
        distances = (weights * (2 * found + 1 - values) ** 2).sum(axis=1)
        return codes, np.where((found < levels).all(axis=1), distances, np.inf)

    for spot in random.choice(off, 300, replace=False):
        combination = spot // levels ** np.arange(size) % levels
        for _ in range(5):
            values = 2 * combination + 1 + random.uniform(-0.999, 0.999, size)
            # The first and the last level stand for all that lies beyond, too.
            values = np.where(combination == levels - 1, values + random.random(size), values)
            weights = random.random(size) ** 3
            codes, short = costs(spot, values, weights)
            all_codes, whole = costs(levels**size + spot, values, weights)
            assert short.min() == whole.min()
            assert codes[short.argmin()] == all_codes[whole.argmin()]
            assert (short == short.min()).sum() == 1
        lengths.append((len(codes), len(all_codes)))
    assert (np.mean(lengths, axis=0) @ [1, -1]) <= 0
