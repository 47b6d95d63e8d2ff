"""The searches by themselves: operations, scales, levels, on columns of a few blocks in numpy.

What is expected is worked out here by other means: numpy's own types, exhaustive search, or
values that lie on a scale exactly.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from quant_columns import W, column, half, of_zeros, sub

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.search import columns, findings, fitting, ops
from mbuild.quant.search.columns import WHOLE_HEAD, D
from mbuild.quant.search.forms import Form
from mbuild.quant.search.halves import half_bits, half_value
from mbuild.quant.search.methods import OnGrid
from mbuild.quant.table import TYPES
from mbuild.quant.types import fp4, iq2, iq3, iq4, q1, qk_affine

RANDOM = np.random.default_rng(17)


# --- operations ---


def test_rounding_goes_to_the_even_number_or_away_from_zero() -> None:
    """``nearest`` and ``rounded`` take the even neighbour of a half, ``away`` the outer one."""
    halves = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 0.49999997], np.float32)
    assert ops.nearest(halves).tolist() == [0, 2, 2, 0, -2, -2, 0]
    assert ops.rounded(halves).tolist() == [0, 2, 2, 0, -2, -2, 0]
    assert ops.away(halves).tolist() == [1, 2, 3, -1, -2, -3, 0]
    assert ops.truncate(halves).tolist() == [0, 1, 2, 0, -1, -2, 0]
    assert ops.floor(halves).tolist() == [0, 1, 2, -1, -2, -3, 0]


def test_values_beyond_the_mantissa_wrap_as_they_do_in_ggml() -> None:
    """``nearest`` reads bits: 2**22 and NaN give what the reference's pointer cast gives."""
    values = np.array([2.0**22 - 1, 2.0**22, np.nan], np.float32)
    assert ops.nearest(values).tolist() == [4194303, -4194304, 0]


def test_limits_include_their_ends() -> None:
    """A value on a limit stays, one beyond it becomes the limit."""
    assert ops.clamp(np.arange(-3, 4), -1, 2).tolist() == [-1, -1, -1, 0, 1, 2, 2]
    assert ops.at_most(np.arange(3), 1).tolist() == [0, 1, 1]
    assert ops.confine(np.array([-2, 0.5, 9], np.float32), -1, 1).tolist() == [-1, 0.5, 1]


def test_bits_of_a_real_are_a_whole_number_and_back() -> None:
    """Patterns keep the sign of a zero, and selections take whole lanes."""
    assert ops.bits(np.array([1.0, -0.0])).tolist() == [0x3F800000, -(1 << 31)]
    assert ops.unbits(np.array([0x40490FDB])).tolist() == [np.float32(np.pi)]
    assert ops.select(np.array([True, False]), np.arange(2), np.arange(5, 7)).tolist() == [0, 6]
    assert ops.lookup(W, np.arange(9, dtype=np.uint8), np.array([8, 0])).dtype == np.float32


# --- float16 ---


def test_every_float16_has_its_value_and_its_pattern() -> None:
    """All 65,536 patterns are numpy's numbers; finite and infinite ones come back unchanged."""
    patterns = np.arange(1 << 16, dtype=np.int32)
    wanted = patterns.astype(np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(all="ignore"):
        made = half_value(W, patterns)
        assert np.array_equal(made, wanted, equal_nan=True)
        assert np.signbit(made).tolist() == (patterns >= 0x8000).tolist()
        real = ~np.isnan(wanted)
        assert np.array_equal(half_bits(W, wanted[real]) & 0xFFFF, patterns[real])
        assert np.isnan(half_value(W, half_bits(W, np.array([np.nan], np.float32)))).all()


def test_reals_become_the_nearest_float16() -> None:
    """Values of every exponent, halfway ones included, round to even as numpy rounds them."""
    drawn = RANDOM.standard_normal(5000) * 10.0 ** RANDOM.integers(-9, 6, 5000)
    exact = np.arange(0x3C00, 0x3C40, dtype=np.uint16).view(np.float16).astype(np.float32)
    values = np.concatenate([drawn.astype(np.float32), (exact[1:] + exact[:-1]) / 2])
    with np.errstate(all="ignore"):
        wanted = values.astype(np.float16).view(np.uint16)
        assert np.array_equal(half_bits(W, values) & 0xFFFF, wanted)


# --- columns and forms ---


def test_named_rows_of_scratch_columns_do_not_overlap() -> None:
    """Parts that live at the same time lie one behind the other, and the last one fits."""
    grid = [
        (columns.CODE, 64), (columns.SIGN, 32), (columns.VALUE, 32), (columns.WEIGHT, 32),
        (columns.ROOT, 32), (columns.PRODUCT, 32), (columns.SCALES, columns.STEPS),
        (columns.REACH, 1),
    ]  # fmt: skip
    ones = [
        (columns.CODE, 64), (columns.SIGN, 32), (columns.KEY, 32), (columns.WEIGHT, 32),
        (columns.INDEX, 33), (columns.SORTED, 32), (columns.SUM_X, 33), (columns.SUM_W, 33),
        (columns.COST, 24), (columns.SPOT, 1),
    ]  # fmt: skip
    halved = [
        *ones, (columns.HALF_X, 34), (columns.HALF_W, 34), (columns.ALL_X, 256),
        (columns.ALL_W, 256),
    ]  # fmt: skip
    for rows, end in ((grid, columns.ROWS), (ones, columns.ROWS_S), (halved, columns.ROWS_M)):
        for (first, count), (following, _) in pairwise(rows):
            assert first + count <= following
        assert sum(rows[-1]) == end


FORMS: dict[str, Form] = {
    "IQ2_XXS": iq2.IQ2_XXS, "IQ2_XS": iq2.IQ2_XS, "IQ2_S": iq2.IQ2_S,
    "IQ3_XXS": iq3.IQ3_XXS, "IQ3_S": iq3.IQ3_S,
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_that_of_its_types_grid(name: str) -> None:
    """Sub-blocks, groups and levels agree with the table of types, and the steps have room."""
    form, method = FORMS[name], TYPES[GGMLType[name]].weighted
    assert isinstance(method, OnGrid)
    assert (form.size, form.levels, form.bits) == tuple(method.grid.shape)
    assert form.spots == method.grid.shape.spots == form.levels**form.size
    assert form.n == method.n
    assert method.subs * method.n == BLOCKS[GGMLType[name]].weights
    assert 2 * form.steps + 1 <= columns.STEPS
    assert form.n // form.size <= columns.SPOT_ROWS // columns.STEPS


# --- searches for a scale ---


def test_an_affine_search_finds_a_scale_that_fits_exactly() -> None:
    """Values on 16 even steps above a minimum get that step, that minimum, and their levels."""
    levels = RANDOM.permutation(np.r_[np.arange(16), RANDOM.integers(0, 16, 16)])
    values = column(*(np.float32(0.25) * levels - np.float32(2.0)))
    with np.errstate(all="ignore"):
        scale, low, inverse, offset = fitting.fit_affine(
            W, sub(values, np.ones_like(values), 15), (-1.0, 0.1, 20), False
        )
    assert np.allclose([scale, low], [[0.25], [2.0]], rtol=1e-5)
    assert ops.nearest((values - offset) * inverse)[:, 0].tolist() == levels.tolist()


def test_an_affine_search_of_equal_values_has_no_scale() -> None:
    """The value is the minimum if it is negative; no level is lost in a division by zero."""
    values = column(*[[-0.5, 0.5]] * 32)
    with np.errstate(all="ignore"):
        scale, low, inverse, _ = fitting.fit_affine(
            W, sub(values, np.ones_like(values), 15), (-1.0, 0.1, 20), False
        )
    assert low.tolist()[0] == 0.5
    assert scale.tolist()[0] == inverse.tolist()[0] == 0
    assert np.isfinite([scale, low, inverse]).all()


def _error(values: Any, weights: Any, scale: Any, low: int, high: int) -> Any:
    with np.errstate(all="ignore"):
        levels = np.clip(np.rint(values / scale), low, high)
    return (weights * (values - scale * levels) ** 2).sum(axis=0)


def test_a_symmetric_search_is_no_worse_than_the_first_guess() -> None:
    """The error is not above that of -nmax / extreme, and mostly below it."""
    values = RANDOM.standard_normal((16, 200)).astype(np.float32)
    weights = values * values
    with np.errstate(all="ignore"):
        scale, inverse, shift = fitting.fit_symmetric(W, sub(values, weights, 32), True)
    extreme = np.take_along_axis(values, np.abs(values).argmax(axis=0)[None], 0)[0]
    levels = np.clip(np.rint(values * inverse), -32, 31)
    made = (weights * (values - scale * levels) ** 2).sum(axis=0)
    guess = _error(values, weights, extreme / -32, -32, 31)
    assert (made <= guess * (1 + 1e-4)).all()
    assert (made < guess).mean() > 0.8
    assert (shift == 32).all()


@pytest.mark.parametrize("size", [0.0, 1e-16])
def test_a_sub_block_of_almost_nothing_has_no_scale(size: float) -> None:
    """Below 1e-15 all searches give 0, and levels that mean 0."""
    values = np.full((16, 1), size, np.float32)
    weights = np.ones_like(values)
    with np.errstate(all="ignore"):
        assert [float(x[0]) for x in fitting.fit_symmetric(W, sub(values, weights, 32), True)] == [
            0, 0, 0,
        ]  # fmt: skip
        assert fitting.fit_descent(W, sub(values, weights, 4))[0] == 0
        positive = sub(values, weights, 15, np.int32)
        assert fitting.fit_positive(W, positive)[0] == 0
        assert not positive.levels.any()
        assert fitting.fit_table(W, sub(values, weights, 0), iq4.IQ4_TABLE, -127.0)[0] == 0


def test_coordinate_descent_leaves_levels_that_fit_exactly() -> None:
    """Values on eight even steps around zero: their steps, shifted by ``nmax``."""
    levels = np.r_[-4, RANDOM.integers(-4, 4, 15)]
    s = sub(column(*(levels * np.float32(0.5))), column(*np.ones(16)), 4)
    with np.errstate(all="ignore"):
        assert fitting.fit_descent(W, s).tolist() == [0.5]
    assert s.levels[:, 0].tolist() == (levels + 4).tolist()


def test_positive_values_get_levels_from_zero_on() -> None:
    """Values on steps of a third up to 15 steps: that scale and those steps."""
    levels = np.r_[15, RANDOM.integers(0, 16, 15)]
    s = sub(column(*(levels * np.float32(1 / 3))), column(*np.ones(16)), 15, np.int32)
    with np.errstate(all="ignore"):
        assert np.allclose(fitting.fit_positive(W, s), 1 / 3, rtol=1e-6)
    assert s.levels[:, 0].tolist() == levels.tolist()


def test_non_linear_levels_get_their_own_scale() -> None:
    """Values that are the 16 levels themselves, times a number, give that number."""
    values = column(*(np.float32(0.01) * np.array([*iq4.IQ4_VALUES] * 2, np.float32)))
    with np.errstate(all="ignore"):
        scale = fitting.fit_table(
            W, sub(values, np.ones_like(values), 0), iq4.IQ4_TABLE, iq4.IQ4_VALUES[0]
        )
    assert np.allclose(scale, 0.01, rtol=1e-6)


def test_the_place_in_the_table_is_that_of_the_nearest_level() -> None:
    """Of the 16 non-linear levels none is nearer; what is beyond both ends gets the last ones."""
    values = np.r_[RANDOM.uniform(-130, 130, 2000), -1e9, 1e9].astype(np.float32)
    index = iq4.IQ4_INDEX[fitting.place(W, values + values)]
    table = np.array(iq4.IQ4_VALUES, np.float32)
    assert np.array_equal(
        np.abs(values - table[index]), np.abs(values[:, None] - table).min(axis=1)
    )
    assert index[-2:].tolist() == [0, 15]


def test_importances_are_combined_with_the_mean_square() -> None:
    """A weight is importance * sqrt(mean + x * x); the sum of them comes back."""
    c = of_zeros(values=column(3.0, 0.0), importances=column(2.0, 5.0), weights=column(0.0, 0.0))
    total = fitting.importance_weights(W, c, 2, np.float32(16))
    assert c.weights[:, 0].tolist() == [10.0, 20.0]
    assert total.tolist() == [30.0]
    assert fitting.sum_of_squares(W, c.values, 2, np.float32(1)).tolist() == [10.0]


# --- what a type's fit keeps ---


def test_magnitudes_of_q1_0_are_summed_over_sub_blocks() -> None:
    """The first sub-block begins the sum, later ones go on with it; the mean is the scale."""
    c = of_zeros(
        found=findings.REAL_ROWS * 4, whole=WHOLE_HEAD + 8, values=np.full((32, 1), -0.5, "f4")
    )
    for g in range(4):
        q1.fit_q1_0(W, c, g, 0.0)
    assert c.found[0].tolist() == [64.0]
    q1.settle_q1_0(W, c)
    assert c.whole[D].tolist() == [half(0.5)]


def test_a_fit_keeps_its_findings_at_its_sub_blocks_rows() -> None:
    """Sub-block 3 of 8 writes row 3 of each kind of finding, and no other."""
    values = column(*(np.arange(32) % 16 * 0.5 - 1))
    c = of_zeros(found=findings.REAL_ROWS * 8, scratch=256, values=values)
    with np.errstate(all="ignore"):
        qk_affine.fit_q4_k(W, c, 3, 0.0)
    kinds = (findings.SCALE, findings.LOW, findings.INVERSE, findings.OFFSET)
    assert np.flatnonzero(c.found[:, 0]).tolist() == [kind * 8 + 3 for kind in kinds]
    assert np.allclose(c.found[findings.SCALE * 8 + 3], 0.5, rtol=1e-4)
    assert np.allclose(c.found[findings.LOW * 8 + 3], 1.0, rtol=1e-4)


def test_the_table_of_half_steps_lists_every_level_in_order() -> None:
    """512 half steps name all 16 levels, ascending, and the table holds their values."""
    assert sorted(set(iq4.IQ4_INDEX.tolist())) == [*range(16)]
    assert (np.diff(iq4.IQ4_INDEX.astype(int)) >= 0).all()
    assert iq4.IQ4_TABLE.tolist() == [iq4.IQ4_VALUES[i] for i in iq4.IQ4_INDEX]
    assert fp4.FP4_VALUES[8:] == tuple(-value for value in fp4.FP4_VALUES[:8])
