"""Scales of blocks by themselves: what is stored, and what the levels follow from, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from quant_columns import W, column, half, of_zeros

from mbuild.gguf.types import GGMLType
from mbuild.quant.search import (
    columns,
    findings,
    points,
    simple,
    ternary,
)
from mbuild.quant.search.columns import DMIN, WHOLE_HEAD, D
from mbuild.quant.search.grids import EIGHT, FOUR, MOVED
from mbuild.quant.search.methods import OnGrid
from mbuild.quant.table import TYPES
from mbuild.quant.types import iq1, iq2, iq3, q, qk_affine, qk_symmetric, tq

RANDOM = np.random.default_rng(17)


# --- scales of a block ---


def test_scales_and_minima_of_q4_k_are_counted_against_the_largest() -> None:
    """The largest of eight is 63; each final step is the float16 step times the six bits."""
    c = of_zeros(found=findings.REAL_ROWS * 8, whole=WHOLE_HEAD + 16)
    scales = np.arange(8) * np.float32(0.9)
    c.found[findings.SCALE * 8 : findings.SCALE * 8 + 8, 0] = scales
    c.found[findings.LOW * 8 : findings.LOW * 8 + 8, 0] = scales[::-1]
    qk_affine.settle_k(W, c)
    assert c.whole[WHOLE_HEAD:, 0].tolist() == [*range(0, 64, 9), *range(63, -1, -9)]
    assert c.whole[[D, DMIN], 0].tolist() == [half(0.1)] * 2
    step = np.float32(np.float16(0.1))
    assert c.found[findings.STEP * 8 + 7].tolist() == [step * 63]
    assert c.found[findings.BASE * 8 + 7].tolist() == [0]


def test_scales_of_q6_k_keep_their_sign() -> None:
    """The extreme scale is -128, whatever its sign; a block of nothing has no scale at all."""
    c = of_zeros(2, found=findings.REAL_ROWS * 16, whole=WHOLE_HEAD + 32)
    c.found[:4, 0] = [0.5, -2.0, 1.0, 0.0]
    c.found[findings.INVERSE * 16, :] = 7
    with np.errstate(all="ignore"):
        qk_symmetric.settle_q6_k(W, c)
    assert c.whole[WHOLE_HEAD : WHOLE_HEAD + 4, 0].tolist() == [32, -128, 64, 0]
    assert c.whole[D].tolist() == [half(2 / 128), 0]
    assert c.found[findings.INVERSE * 16].tolist() == [7, 0]


def test_a_single_scale_and_minimum_are_stored_as_found() -> None:
    """Q4_1 with importances: both in float16, the minimum with its sign, and no final step."""
    c = of_zeros(found=findings.REAL_ROWS, whole=WHOLE_HEAD + 2)
    c.found[[findings.SCALE, findings.LOW, findings.STEP], 0] = [0.25, 1.5, 9]
    q.settle_single(W, c)
    assert (c.whole[[D, DMIN], 0] & 0xFFFF).tolist() == [half(0.25), half(-1.5)]
    assert c.found[findings.STEP].tolist() == [0]


# --- types without a search ---


@pytest.mark.parametrize(
    ("scale", "extreme", "d", "inverse", "shift", "nothing"),
    [
        (q.scale_q8_0, 254.0, 2.0, 0.5, 0.0, 0.0),
        (tq.scale_ternary, 4.0, 4.0, 0.25, 0.0, 0.0),
        (q.scale_q4_0, -16.0, 2.0, 0.5, 8.5, -0.0),
        (q.scale_q5_0, 16.0, -1.0, -1.0, 16.5, -0.0),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_scale_follows_from_the_extreme_value(
    scale: Any, extreme: float, d: float, inverse: float, shift: float, nothing: float
) -> None:
    """The extreme over the greatest level, which for zeros is a zero of that level's sign."""
    st, it = np.zeros((simple.ROWS, 2), np.float32), np.zeros((WHOLE_HEAD, 2), np.int32)
    st[simple.TOP], st[simple.VALUE] = [abs(extreme), 0], [extreme, -0.0]
    with np.errstate(all="ignore"):
        scale(W, st, it)
    assert (it[D] & 0xFFFF).tolist() == [half(d), half(nothing)]
    assert st[[simple.INVERSE, simple.SHIFT], 0].tolist() == [inverse, shift]
    assert st[simple.INVERSE, 1] == 0


@pytest.mark.parametrize(("scale", "levels"), [(q.scale_q4_1, 15), (q.scale_q5_1, 31)])
def test_a_range_has_a_scale_and_a_minimum(scale: Any, levels: int) -> None:
    """(greatest - least) / levels and the least; equal values have no scale, of either zero."""
    st, it = np.zeros((simple.ROWS, 2), np.float32), np.zeros((WHOLE_HEAD, 2), np.int32)
    st[simple.TOP], st[simple.VALUE] = [levels / 2 - 3, 0.0], [-3, -0.0]
    with np.errstate(all="ignore"):
        scale(W, st, it)
    assert (it[D] & 0xFFFF).tolist() == [half(0.5), 0]
    assert (it[DMIN] & 0xFFFF).tolist() == [half(-3), 0x8000]
    assert st[[simple.INVERSE, simple.LOW, simple.SHIFT], 0].tolist() == [2, -3, 0.5]


def test_a_scale_too_small_to_invert_has_ordinary_numbers() -> None:
    """Where 1 / d is infinite, levels follow from 0 and not from NaN."""
    st, it = np.zeros((simple.ROWS, 1), np.float32), np.zeros((WHOLE_HEAD, 1), np.int32)
    st[[simple.TOP, simple.VALUE]] = 1e-39
    with np.errstate(all="ignore"):
        q.scale_q4_0(W, st, it)
    assert st[[simple.INVERSE, simple.SHIFT], 0].tolist() == [0, 0]


# --- types on grids ---


def test_odd_scales_are_odd_multiples_of_one_step() -> None:
    """Scale level stands for 2 * level + 1 steps; a lane without scales is told."""
    c = of_zeros(2, found=4, whole=WHOLE_HEAD + 4)
    c.found[:, 0] = [31.0, 1.0, 15.0, 0.0]
    with np.errstate(all="ignore"):
        nothing = points.odd_scales(W, c, 4, 15, 1.0)
    assert nothing.tolist() == [False, True]
    assert c.whole[WHOLE_HEAD:, 0].tolist() == [15, 0, 7, 0]
    assert c.whole[D].tolist() == [half(1.0), 0]
    assert not c.whole[WHOLE_HEAD:, 1].any()


@pytest.mark.parametrize(("settle", "kept"), [(iq2.settle_iq2_xxs, 0), (iq3.settle_iq3_s, 9)])
def test_points_of_a_block_without_scales(settle: Any, kept: int) -> None:
    """IQ2_XXS clears points and signs, IQ3_S leaves them, as ggml does."""
    c = of_zeros(found=8, whole=WHOLE_HEAD + 8, scratch=columns.ROWS)
    c.scratch[:] = 9
    with np.errstate(all="ignore"):
        settle(W, c)
    assert set(c.scratch[columns.CODE : columns.SIGN + 32, 0].tolist()) == {kept}
    assert c.scratch[columns.VALUE].tolist() == [9]


def test_values_on_the_grid_of_iq3_s_are_found_again() -> None:
    """Odd multiples of a scale whose combinations are points keep scale, levels and signs."""
    from mbuild.quant.search.grids import table

    method = TYPES[GGMLType.IQ3_S].plain
    assert isinstance(method, OnGrid)
    grid = table(method.grid)
    code = next(c for c in np.flatnonzero(grid.numbers).tolist() if c & 0xF == 7)
    levels = [code >> (4 * i) & 7 for i in range(4)]
    signs = RANDOM.integers(0, 2, 32)
    values = np.array([2 * level + 1 for level in levels] * 8) * np.where(signs, -0.25, 0.25)
    c = of_zeros(found=8, whole=WHOLE_HEAD + 8, scratch=columns.ROWS, grid=grid)
    c = c._replace(values=column(*values), weights=c.scratch[columns.WEIGHT :])
    with np.errstate(all="ignore"):
        iq3.fit_iq3_s(W, c, 2, 0.0)
    assert c.found[:, 0].tolist() == [0, 0, 0.25, 0, 0, 0, 0, 0]
    first = columns.CODE + 2 * 8
    assert c.scratch[first : first + 8, 0].tolist() == [code] * 8
    wanted = np.packbits(signs, bitorder="little").tolist()
    first = columns.SIGN + 2 * 4
    assert c.scratch[first : first + 4, 0].tolist() == wanted
    assert code < MOVED


def test_shifts_of_a_block_without_scales_are_cleared() -> None:
    """IQ1_S keeps a shift only beside a scale; three bits count odd multiples of the step."""
    c = of_zeros(2, found=8, whole=WHOLE_HEAD + 8, scratch=columns.ROWS_S)
    c.scratch[columns.SIGN : columns.SIGN + 8] = 1
    c.found[:, 0] = np.arange(1, 16, 2)
    with np.errstate(all="ignore"):
        iq1.settle_iq1_s(W, c)
    assert c.whole[WHOLE_HEAD:, 0].tolist() == [*range(8)]
    assert c.whole[D].tolist() == [half(1.125), 0]
    shifts = c.scratch[columns.SIGN : columns.SIGN + 8]
    assert shifts.sum(axis=0).tolist() == [8, 0]


def test_the_step_of_iq1_m_comes_from_least_squares() -> None:
    """Values that are level plus an eighth, times one scale, give it back, enlarged by 1.1125."""
    c = of_zeros(found=16, whole=WHOLE_HEAD + 16, scratch=columns.ROWS_M)
    c.found[:] = 0.5
    c.scratch[columns.CODE : columns.CODE + 32] = 0b1010101010101010  # level 2, which is 1
    c.scratch[columns.ALL_W : columns.ALL_W + 256] = 1
    c.scratch[columns.ALL_X : columns.ALL_X + 256] = 0.5 * (1 + ternary.DELTA)
    with np.errstate(all="ignore"):
        iq1.settle_iq1_m(W, c)
    assert c.whole[WHOLE_HEAD:, 0].tolist() == [7] * 16
    assert c.whole[D].tolist() == [half(0.5 / 15 * 1.1125)]


def test_groups_have_the_size_that_a_code_has_room_for() -> None:
    """Eight values of two bits or four of four: 16 bits, below what marks a moved group."""
    for shape in (EIGHT, FOUR):
        assert shape.size * shape.bits == 16
        assert shape.levels <= 1 << shape.bits
    assert MOVED == 1 << 16
