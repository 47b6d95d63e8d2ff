"""Machine code for merging: the bits of the sum in double precision, rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mbuild.core.environment import HOME_VARIABLE
from mbuild.quant.compiled import elf, llvm, merge_text, merges, needs
from mbuild.quant.engine import Unavailable

Array = np.ndarray[Any, Any]


def reference(data: Array, left: Array, right: Array, scale: float) -> Array:
    """The same with numpy, term by term in float64, rounded by the bits of the double itself."""
    wide = data.astype(np.uint32) << 16 if data.itemsize == 2 else None
    values = (data if wide is None else wide.view(np.float32)).astype(np.float64)
    total = np.zeros(values.shape)
    for term in range(right.shape[0]):
        total += left[:, term, None].astype(np.float64) * right[None, term].astype(np.float64)
    bits = np.ascontiguousarray(values + total * scale).view(np.uint64)
    half = np.uint64((1 << 44) - 1) + ((bits >> np.uint64(45)) & np.uint64(1))
    cut = (bits + half) >> np.uint64(45) << np.uint64(45)
    return (cut.view(np.float64).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def drawn(seed: int, rows: int, columns: int, rank: int, item: int) -> tuple[Array, Array, Array]:
    """Weights and factors, some of them zeros, some in steps that make ties."""
    random = np.random.default_rng(seed)
    values = random.normal(0, 0.02, (rows, columns)).astype(np.float32)
    values[::3, ::5] = 0
    left = random.normal(0, 0.05, (rows, rank)).astype(np.float32)
    right = random.normal(0, 0.05, (rank, columns)).astype(np.float32)
    if seed % 2:  # halves of BF16's steps: every other sum is a tie
        values = np.float32(1) + random.integers(0, 128, values.shape).astype(np.float32) / 128
        left = random.integers(-2, 3, left.shape).astype(np.float32)
        right = random.integers(-2, 3, right.shape).astype(np.float32) / 256
    if item == 2:
        return (values.view(np.uint32) >> 16).astype(np.uint16), left, right
    return values, left, right


@pytest.mark.parametrize("item", merges.ITEMS)
@pytest.mark.parametrize(
    ("rows", "columns", "rank"), [(1, 32, 1), (7, 96, 3), (65, 320, 16), (3, 4096, 64), (2, 288, 5)]
)
@pytest.mark.parametrize("seed", [2, 3])
def test_the_sum_is_that_of_doubles(
    item: int, rows: int, columns: int, rank: int, seed: int
) -> None:
    """For every shape, of weights in BF16 and in F32, also where all sums are ties."""
    data, left, right = drawn(seed, rows, columns, rank, item)
    longest = float(np.sqrt(np.square(right, dtype=np.float64).sum(axis=0).max()))
    out = np.empty((rows, columns), np.uint16)
    for scale in (2.0, -0.37, 1e-30, 0.0):
        assert merges.merge(data, left, right, scale, longest, out)
        assert np.array_equal(out, reference(data, left, right, scale)), scale


def test_small_weights_and_large_ones_keep_their_bits() -> None:
    """Denormals, both zeros, and values next to the largest that BF16 holds."""
    bits = np.array([0, 0x8000, 1, 0x8001, 0x7F, 0x80, 0x7F00, 0xFF00] * 8, np.uint16)
    data = bits.reshape(2, 32)
    left, right = np.zeros((2, 1), np.float32), np.ones((1, 32), np.float32)
    out = np.empty_like(data)
    assert merges.merge(data, left, right, 1.0, 1.0, out)
    assert np.array_equal(out & 0x7FFF, data & 0x7FFF)
    assert np.array_equal(out, reference(data, left, right, 1.0))


@pytest.mark.parametrize("wrong", [0x7F80, 0xFF80, 0x7FC0, 0x7F7F])
def test_what_bf16_may_not_hold_is_left_to_others(wrong: int) -> None:
    """Infinities, NaN, and a sum that could become too large."""
    data = np.zeros((2, 64), np.uint16)
    data[1, 33] = wrong
    left, right = np.ones((2, 1), np.float32), np.ones((1, 64), np.float32)
    assert not merges.merge(data, left, right, 1e38, 1.0, np.empty_like(data))


def test_columns_that_fill_no_group_are_left_to_others() -> None:
    """And a product of nothing."""
    for columns, rank in ((31, 2), (64, 0)):
        data = np.zeros((2, columns), np.uint16)
        left, right = np.ones((2, rank), np.float32), np.ones((rank, columns), np.float32)
        assert not merges.merge(data, left, right, 1.0, 1.0, np.empty_like(data))


@pytest.mark.parametrize("item", merges.ITEMS)
def test_the_code_is_laid_out_without_llvm(item: int) -> None:
    """It has few sections and calls nothing: mbuild's own loader takes it."""
    code = llvm.compiled(merge_text.MergeText(merges.NAME, item).write())
    assert elf.ObjectFile(code).image(0)
    assert merges.GROUP == merge_text.GROUP


def test_without_llvm_numpy_does_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    """Nothing is compiled where llvmlite is missing, and nothing fails."""

    def missing() -> None:
        raise Unavailable("llvmlite is not installed", "pip install llvmlite")

    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.setattr(merges, "_loaded", {})
    monkeypatch.setattr(needs, "need_llvmlite", missing)
    data, left, right = drawn(2, 2, 32, 1, 2)
    assert not merges.merge(data, left, right, 1.0, 1.0, np.empty_like(data))
