"""Machine code for merging: the bits of the sum in double precision, rounded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mbuild.core.environment import HOME_VARIABLE
from mbuild.quant.compiled import elf, llvm, merge_text, merges, needs
from mbuild.quant.compiled.merges import BF16, F16, F32, Factors, Pair
from mbuild.quant.engine import Unavailable

Array = np.ndarray[Any, Any]

VIEWS = {F32: np.dtype("<f4"), F16: np.dtype("<f2"), BF16: np.dtype("<u2")}


def doubles(data: Array, stored: Any) -> Array:
    """Weights as float64."""
    if stored is BF16:
        return (data.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return data.astype(np.float64)


def reference(data: Array, pair: Pair, factors: Sequence[Factors]) -> Array:
    """The same with numpy, term by term in float64; BF16 is rounded by the bits of the double."""
    parts = []
    for left, right, scale in factors:
        total = np.zeros(data.shape)
        for term in range(right.shape[0]):
            total += left[:, term, None].astype(np.float64) * right[None, term].astype(np.float64)
        parts.append(total * scale)
    if len(parts) > 2:
        parts = list(np.sort(np.stack(parts), axis=0))
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    values = np.ascontiguousarray(doubles(data, pair[0]) + total)
    if pair[1] is not BF16:
        return values.astype(VIEWS[pair[1]])
    bits = values.view(np.uint64)
    half = np.uint64((1 << 44) - 1) + ((bits >> np.uint64(45)) & np.uint64(1))
    cut = (bits + half) >> np.uint64(45) << np.uint64(45)
    return (cut.view(np.float64).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def of_type(values: Array, stored: Any) -> Array:
    """F32 as weights of a type, BF16 cut off."""
    if stored is BF16:
        return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(VIEWS[stored])


def drawn(seed: int, rows: int, columns: int, ranks: Sequence[int]) -> tuple[Array, list[Factors]]:
    """Weights in F32 and factors, some of them zeros, some in steps that make ties."""
    random = np.random.default_rng(seed)
    values = random.normal(0, 0.02, (rows, columns)).astype(np.float32)
    values[::3, ::5] = 0
    values[1::3, ::7] *= 2.0**-18  # beside F16's least
    factors = []
    for number, rank in enumerate(ranks):
        left = random.normal(0, 0.05, (rows, rank)).astype(np.float32)
        right = random.normal(0, 0.05, (rank, columns)).astype(np.float32)
        if seed % 2:  # halves of BF16's steps: every other sum is a tie
            left = random.integers(-2, 3, left.shape).astype(np.float32)
            right = random.integers(-2, 3, right.shape).astype(np.float32) / 256
        factors.append((left, right, (2.0, -0.37, 1e-30, 0.0, 1.0)[(seed + number) % 5]))
    if seed % 2:
        values = np.float32(1) + random.integers(0, 128, values.shape).astype(np.float32) / 128
    return values, factors


def made(data: Array, pair: Pair, factors: Sequence[Factors]) -> Array:
    """What machine code makes, which there has to be."""
    out = np.empty(data.shape, VIEWS[pair[1]])
    assert merges.merge(data, pair, factors, out)
    return out


@pytest.mark.parametrize("pair", merges.PAIRS, ids=lambda pair: f"{pair[0].name}-{pair[1].name}")
@pytest.mark.parametrize(
    ("rows", "columns", "ranks"),
    [(1, 32, [1]), (7, 96, [3]), (65, 320, [16]), (3, 4096, [64]), (2, 288, [5, 2]),
     (5, 160, [4, 1, 7]), (3, 64, [2, 2, 2, 3, 1])],
)  # fmt: skip
def test_the_sum_is_that_of_doubles(
    pair: Pair, rows: int, columns: int, ranks: Sequence[int]
) -> None:
    """For every pair of types, every shape and any number of adapters, also where sums are ties."""
    for seed in (2, 3, 4, 5):
        values, factors = drawn(seed, rows, columns, ranks)
        data = of_type(values, pair[0])
        wanted = reference(data, pair, factors)
        for order in (factors, factors[::-1]):
            assert made(data, pair, order).tobytes() == wanted.tobytes(), seed


@pytest.mark.parametrize("pair", [(F16, F16), (BF16, BF16)], ids=["F16", "BF16"])
def test_every_weight_keeps_its_bits(pair: Pair) -> None:
    """Each number of 16 bits that is finite, denormals and both zeros too, plus nothing."""
    every = np.arange(1 << 16, dtype=np.uint16)
    exponent = 0x7F80 if pair[0] is BF16 else 0x7C00
    finite = (every & exponent) != exponent
    data = every[finite].reshape(-1, 256).view(VIEWS[pair[0]])
    factors = [(np.zeros((len(data), 1), np.float32), -np.ones((1, 256), np.float32), 1.0)]
    wanted = reference(data, pair, factors)
    assert made(data, pair, factors).tobytes() == wanted.tobytes()
    assert np.count_nonzero(wanted.view(np.uint16) != data.view(np.uint16)) <= 1  # -0 plus 0


@pytest.mark.parametrize("seed", range(4))
def test_sums_around_the_least_of_f16_are_rounded_once(seed: int) -> None:
    """Its denormals, and those that fall to nothing, from weights in F32."""
    random = np.random.default_rng(seed)
    values = (random.normal(0, 1, (16, 256)) * 2.0 ** random.integers(-30, -12, (16, 256))).astype(
        np.float32
    )
    factors = [(np.ones((16, 1), np.float32), np.full((1, 256), 2.0**-25, np.float32), 1.0)]
    wanted = reference(values, (F32, F16), factors)
    assert made(values, (F32, F16), factors).tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("pair", "weight", "change", "good"),
    [
        ((BF16, BF16), 0x7F80, 0, False), ((BF16, BF16), 0xFF80, 0, False),
        ((BF16, BF16), 0x7FC0, 0, False), ((BF16, BF16), 0x7F7F, 0, True),
        ((BF16, BF16), 0x7F7F, 1e38, False), ((F16, F16), 0x7C00, 0, False),
        ((F16, F16), 0xFE00, 0, False), ((F16, F16), 0xFBFF, 0, True),
        ((F16, F16), 0x7BFF, 15.9, True), ((F16, F16), 0x7BFF, 16, False),
        ((F32, F16), 0x477FEFFF, 0, True), ((F32, F16), 0xC77FF000, 0, False),
        ((F32, BF16), 0x7F7F7FFF, 0, True), ((F32, BF16), 0x7F7F8000, 0, False),
        ((F32, F32), 0x7F7FFFFF, 0, True), ((F32, F32), 0xFF7FFFFF, -1e38, False),
        ((F32, F32), 0x7FC00000, 0, False),
    ],
)  # fmt: skip
def test_what_a_type_cannot_hold_is_left_to_others(
    pair: Pair, weight: int, change: float, good: bool
) -> None:
    """Infinities, NaN, and sums that are rounded to one; the largest that are not are made."""
    item = VIEWS[pair[0]].itemsize
    data = np.zeros((2, 64), np.uint16 if item == 2 else np.uint32)
    data[1, 33] = weight
    factors = [(np.ones((2, 1), np.float32), np.full((1, 64), change, np.float32), 1.0)]
    out = np.empty((2, 64), VIEWS[pair[1]])
    data = data.view(VIEWS[pair[0]])
    assert merges.merge(data, pair, factors, out) is good
    if good:
        assert out.tobytes() == reference(data, pair, factors).tobytes()


def test_columns_that_fill_no_group_are_left_to_others() -> None:
    """And a product of nothing, no product, and types that no merge asks for."""
    for columns, rank, pair, count in (
        (31, 2, (BF16, BF16), 1), (64, 0, (BF16, BF16), 1), (64, 2, (BF16, F32), 1),
        (64, 2, (BF16, BF16), 0),
    ):  # fmt: skip
        data = np.zeros((2, columns), np.uint16)
        one = (np.ones((2, rank), np.float32), np.ones((rank, columns), np.float32), 1.0)
        assert not merges.merge(data, pair, [one] * count, np.empty_like(data))


@pytest.mark.parametrize("pair", merges.PAIRS, ids=lambda pair: f"{pair[0].name}-{pair[1].name}")
def test_the_code_is_laid_out_without_llvm(pair: Pair) -> None:
    """It has few sections and calls nothing: mbuild's own loader takes it."""
    code = llvm.compiled(merge_text.MergeText(merges.NAME, *pair).write())
    assert elf.ObjectFile(code).image(0)
    assert (merges.GROUP, merges.TILE) == (merge_text.GROUP, merge_text.TILE)


def test_without_llvm_numpy_does_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    """Nothing is compiled where llvmlite is missing, and nothing fails."""

    def missing() -> None:
        raise Unavailable("llvmlite is not installed", "pip install llvmlite")

    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.setattr(merges, "_loaded", {})
    monkeypatch.setattr(needs, "need_llvmlite", missing)
    data, factors = drawn(2, 2, 32, [1])
    assert not merges.merge(data, (F32, F32), factors, np.empty_like(data))
