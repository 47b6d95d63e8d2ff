"""Layouts by themselves: where each level, scale and sign comes to lie in a block's bytes.

Levels are drawn, and read back by the ``gguf`` package, which is not ours, or bit by bit. The
compiled twins of these functions are held to the same bytes in :mod:`test_quant_kernels`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from quant_columns import of_zeros

from mbuild.gguf.types import BLOCKS, GGMLType
from mbuild.quant.layouts import checks, direct, emit, packing, point_emit, point_packing
from mbuild.quant.layouts.levels import AFFINE, SYMMETRIC
from mbuild.quant.layouts.rooms import DirectBlock, KernelCall, Room, SearchedShape
from mbuild.quant.search import columns, findings
from mbuild.quant.search.columns import DMIN, WHOLE_HEAD, Columns, D
from mbuild.quant.search.fitting import place
from mbuild.quant.search.grids import GridTable
from mbuild.quant.search.methods import Search
from mbuild.quant.search.ops import lookup, truncate
from mbuild.quant.table import TYPES
from mbuild.quant.types import fp4, iq1, iq3, iq4, plain, q, q1, qk_symmetric, tq
from mbuild.quant.types.iq4 import IQ4_VALUES

G = GGMLType
RANDOM = np.random.default_rng(23)


def _half(value: float) -> int:
    return int(np.float16(value).view(np.uint16))


def _whole(scales: int, high: int, low: int = 0) -> Any:
    """Whole columns of three blocks: d = 1, dmin = 0.5, drawn scales or minima."""
    it = np.zeros((WHOLE_HEAD + scales, 3), np.int32)
    it[D], it[DMIN] = _half(1), _half(0.5)
    it[WHOLE_HEAD:] = RANDOM.integers(low, high, (scales, 3))
    return it


def _read(type_: GGMLType, packed: Any) -> Any:
    """What the blocks stand for, as the ``gguf`` package reads them: (blocks, weights)."""
    gguf = pytest.importorskip("gguf")
    assert packed.shape == (len(packed), BLOCKS[type_].size)
    assert packed.dtype == np.uint8
    kind = gguf.GGMLQuantizationType(int(type_))
    return gguf.quants.dequantize(np.ascontiguousarray(packed), kind)


def _levels(type_: GGMLType, high: int) -> Any:
    return RANDOM.integers(0, high, (3, BLOCKS[type_].weights)).astype(np.uint8)


def _spread(rows: Any, n: int) -> Any:
    """(sub-blocks, blocks) as a number for every value: (blocks, weights)."""
    return np.repeat(rows.T, n, axis=1)


@pytest.mark.parametrize(
    ("type_", "bits", "subs", "six"),
    [(G.Q2_K, 2, 16, 16), (G.Q4_K, 4, 8, 64), (G.Q5_K, 5, 8, 64)],
    ids=lambda value: getattr(value, "name", None),
)
def test_levels_above_a_minimum_are_read_back(
    type_: GGMLType, bits: int, subs: int, six: int
) -> None:
    """d * scale * level - dmin * minimum, each sub-block with its own."""
    levels, it = _levels(type_, 1 << bits), _whole(2 * subs, six)
    layout = TYPES[type_].layout
    assert layout is not None
    n = BLOCKS[type_].weights // subs
    scale, least = (_spread(it[WHOLE_HEAD + i * subs :][:subs], n) for i in range(2))
    assert np.array_equal(_read(type_, layout.pack(levels, it)), scale * levels - 0.5 * least)


def test_levels_around_zero_are_read_back() -> None:
    """Q3_K's scales are stored plus 32, Q6_K's with their sign; levels lie around 0."""
    levels, it = _levels(G.Q3_K, 8), _whole(16, 64)
    scale = _spread(it[WHOLE_HEAD:] - 32, 16)
    assert np.array_equal(_read(G.Q3_K, qk_symmetric.pack_q3_k(levels, it)), scale * (levels - 4.0))
    levels, it = _levels(G.Q6_K, 64), _whole(16, 128, -128)
    scale = _spread(it[WHOLE_HEAD:], 16)
    assert np.array_equal(
        _read(G.Q6_K, qk_symmetric.pack_q6_k(levels, it)), scale * (levels - 32.0)
    )


@pytest.mark.parametrize(
    ("type_", "pack", "high", "middle", "least"),
    [
        (G.Q4_0, packing.scale_and_nibbles, 16, 8, 0.0),
        (G.Q4_1, q.pack_q4_1, 16, 0, 0.5),
        (G.Q5_0, q.pack_q5_0, 32, 16, 0.0),
        (G.Q5_1, q.pack_q5_1, 32, 0, 0.5),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_blocks_of_32_are_read_back(
    type_: GGMLType, pack: Any, high: int, middle: int, least: float
) -> None:
    """Levels less the middle, or above the minimum; the fifth bit lies apart."""
    levels = _levels(type_, high)
    read = _read(type_, pack(levels, _whole(0, 1)))
    assert np.array_equal(read, levels.astype(np.float32) - middle + least)


def test_non_linear_ternary_and_whole_levels_are_read_back() -> None:
    """IQ4_NL and IQ4_XS name a level of their table, TQ one of -1, 0, 1, Q8_0 the value."""
    table = np.array(IQ4_VALUES, np.float32)
    levels = _levels(G.IQ4_NL, 16)
    read = _read(G.IQ4_NL, packing.scale_and_nibbles(levels, _whole(0, 1)))
    assert np.array_equal(read, table[levels])
    levels, it = _levels(G.IQ4_XS, 16), _whole(8, 64)
    scale = _spread(it[WHOLE_HEAD:] - 32, 32)
    assert np.array_equal(_read(G.IQ4_XS, iq4.pack_iq4_xs(levels, it)), scale * table[levels])
    for type_, pack in ((G.TQ1_0, tq.pack_tq1_0), (G.TQ2_0, tq.pack_tq2_0)):
        trits = RANDOM.integers(-1, 2, (3, 256)).astype(np.int8)
        assert np.array_equal(_read(type_, pack(trits.view(np.uint8), _whole(0, 1))), trits)
    eight = RANDOM.integers(-127, 128, (3, 32)).astype(np.int8)
    read = _read(G.Q8_0, q.pack_q8_0(eight.view(np.uint8), _whole(0, 1)))
    assert np.array_equal(read, eight)


def test_bits_lie_lowest_first() -> None:
    """Value i is bit i, of a sign or of what lies above a nibble; nibbles share by halves."""
    levels = np.zeros((1, 32), np.uint8)
    levels[0, [0, 9]] = 0x10
    assert q.pack_high_bits(levels, 4).tolist() == [[1, 2, 0, 0]]
    assert packing.nibbles(np.array([[1, 2, 3, 4]], np.uint8), 4).tolist() == [[0x31, 0x42]]
    assert packing.half(np.array([0x3C01, -1], np.int32)).tolist() == [[1, 0x3C], [255, 255]]
    signs = np.zeros((1, 128), np.uint8)
    signs[0, [0, 127]] = 1
    it = np.full((WHOLE_HEAD, 1), _half(1), np.int32)
    assert q1.pack_q1_0(signs, it).tolist() == [[0, 0x3C, 1, *[0] * 14, 128]]


# --- types on grids ---


def _points(count: int, numbers: int, signs: int, scales: int) -> tuple[Columns, Any, Any, Any]:
    """Columns of two blocks, with the points, signs and scales that were drawn for them."""
    point = RANDOM.integers(0, numbers, (count, 2))
    sign = RANDOM.integers(0, signs, (32, 2))
    scratch = np.zeros((columns.ROWS, 2), np.float32)
    # A code is not its point's number: here it is as far from the other end.
    scratch[columns.CODE : columns.CODE + count] = numbers - 1 - point
    scratch[columns.SIGN : columns.SIGN + 32] = sign
    whole = np.zeros((WHOLE_HEAD + scales, 2), np.int32)
    whole[D] = _half(1)
    whole[WHOLE_HEAD:] = RANDOM.integers(0, 16, (scales, 2))
    empty = np.zeros(0, np.int32)
    grid = GridTable(empty, empty.view(np.uint8), np.arange(numbers)[::-1].astype(np.uint16))
    none = np.zeros((1, 2), np.float32)
    made = Columns(none, none, none, scratch, none, whole, empty, grid)
    return made, point, sign, whole[WHOLE_HEAD:]


def _grid(name: str) -> Any:
    quants = pytest.importorskip("gguf").quants
    known = getattr(quants, name)
    known.init_grid()
    return known.grid.reshape(-1, known.grid_shape[1])


def _signed(sign: Any, even: bool) -> Any:
    """(32, blocks) numbers of eight signs as -1 and 1: (blocks, 256)."""
    if even:  # The eighth makes their number even.
        parity = np.array([int(n).bit_count() & 1 for n in sign.reshape(-1)]).reshape(sign.shape)
        sign = sign | (parity << 7)
    bits = (sign.T[:, :, None] >> np.arange(8)) & 1
    return 1.0 - 2.0 * bits.reshape(2, -1)


@pytest.mark.parametrize(
    ("name", "numbers", "even", "scales", "factor"),
    [
        ("IQ2_XXS", 256, True, 8, 0.25),
        ("IQ2_XS", 512, True, 16, 0.25),
        ("IQ2_S", 1024, False, 16, 0.25),
        ("IQ3_XXS", 256, True, 8, 0.5),
    ],
)
def test_points_signs_and_scales_are_read_back(
    name: str, numbers: int, even: bool, scales: int, factor: float
) -> None:
    """A value is its point's, with its sign, times half a step more than the scale."""
    grid = _grid(name)
    groups = 256 // grid.shape[1]
    c, point, sign, scale = _points(groups, numbers, 128 if even else 256, scales)
    step = _spread((scale + 0.5) * factor, 256 // scales)
    wanted = grid[point.T].reshape(2, -1) * _signed(sign, even) * step
    layout = TYPES[GGMLType[name]].layout
    assert layout is not None
    packed = layout.pack(c)
    assert np.allclose(_read(GGMLType[name], packed), wanted, rtol=1e-6)


def test_an_empty_sub_block_of_iq3_s_takes_no_place() -> None:
    """The points and signs of those after it move up, and the places at the end are zero."""
    c, point, sign, _ = _points(64, 512, 256, 8)
    c.scratch[columns.CODE + 8 : columns.CODE + 16, 0] = -1
    packed = iq3.pack_iq3_s(c)
    assert packed.shape == (2, BLOCKS[G.IQ3_S].size)
    low, high, signs = packed[:, 2:66], packed[:, 66:74], packed[:, 74:106]
    full = [g for g in range(8) if g != 1]
    kept = np.concatenate([point[8 * g : 8 * g + 8, 0] for g in full])
    assert low[0].tolist() == [*(kept & 0xFF), *[0] * 8]
    assert low[1].tolist() == (point[:, 1] & 0xFF).tolist()
    kept = np.concatenate([sign[4 * g : 4 * g + 4, 0] for g in full])
    assert signs[0].tolist() == [*kept, *[0] * 4]
    upper = ((point >> 8).reshape(8, 8, 2) << np.arange(8)[None, :, None]).sum(axis=1)
    upper[1, 0] = 0
    assert high.tolist() == upper.T.tolist()


def test_iq1_keeps_three_high_bits_and_a_shift() -> None:
    """Of 2,048 points the low bytes come first; IQ1_M spreads its float16 over four words."""
    c, point, sign, scale = _points(32, 2048, 2, 8)
    scale &= 7
    packed = iq1.pack_iq1_s(c)
    assert packed[:, 2:34].tolist() == (point.T & 0xFF).tolist()
    words = np.ascontiguousarray(packed[:, 34:]).view("<u2").astype(int)
    for g in range(8):
        for k in range(4):
            assert (words[:, g] >> 3 * k & 7).tolist() == (point[4 * g + k] >> 8).tolist()
        assert (words[:, g] >> 12 & 7).tolist() == scale[g].tolist()
        assert (words[:, g] >> 15).tolist() == sign[g].tolist()
    c, point, sign, scale = _points(32, 2048, 2, 16)
    scale &= 7
    c.whole[D] = [0x3C12, 0x1234]
    packed = iq1.pack_iq1_m(c)
    nibbles = [packed[:, 32 + k // 2] >> 4 * (k & 1) & 15 for k in range(32)]
    assert np.array_equal(nibbles, (point >> 8) | (sign << 3))
    words = np.ascontiguousarray(packed[:, 48:]).view("<u2").astype(int)
    assert (words >> 12 << np.arange(0, 16, 4)).sum(axis=1).tolist() == [0x3C12, 0x1234]
    assert [(words[:, g // 4] >> 3 * (g % 4) & 7).tolist() for g in range(16)] == scale.tolist()


def test_a_compiled_layout_reads_the_same_points() -> None:
    """The number of a group's point comes from its code, in the block's own lane."""
    c, point, sign, scale = _points(32, 512, 128, 16)
    assert np.array_equal(point_packing.points(c, 32), point.T)
    assert np.array_equal(point_packing.signs(c), sign.T)
    assert np.array_equal(point_packing.scales(c, 16), scale.T)
    for lane in range(2):
        assert [point_emit.point(c, k, lane) for k in range(32)] == point[:, lane].tolist()


def test_both_engines_layouts_of_a_type_are_twins() -> None:
    """Each type's numpy layout and its compiled one have one name, and stand in one module."""
    modules = {packing.__name__: emit.__name__}
    for parts in TYPES.values():
        if parts.layout is not None:
            pack, written = parts.layout.pack, parts.layout.emit
            assert pack.__name__.removeprefix("pack_") == written.__name__.removeprefix("emit_")
            assert modules.get(pack.__module__, pack.__module__) == written.__module__


def test_a_level_is_the_nearest_one_or_that_of_the_search() -> None:
    """Where the final step is 0 the search's own scale and offset count; levels are limited."""
    method = Search(2, 2, 3, AFFINE, print, print)
    c = of_zeros(found=findings.REAL_ROWS * 2)
    c.found[[findings.STEP * 2, findings.BASE * 2], 0] = 0.5, 1.0
    c.found[[findings.INVERSE * 2 + 1, findings.OFFSET * 2 + 1], 0] = 4.0, 0.25
    x = np.array([[[-0.5, 9.0], [0.75, -1.0]]], np.float32)
    with np.errstate(all="ignore"):
        assert AFFINE.choose(method, x, c).tolist() == [[[1, 3], [2, 0]]]
        # Around zero the offset is what is added to a level: here 0 of 0.25.
        assert SYMMETRIC.choose(method, x, c).tolist() == [[[2, 5], [2, -3]]]


def test_the_compiled_table_of_levels_gives_the_nearest_one() -> None:
    """As the numpy engine's index does; it is one of reals, which a kernel can look up."""
    values = RANDOM.uniform(-130, 130, 1000).astype(np.float32)
    index = truncate(lookup(emit.W, iq4.PLACES, place(emit.W, values + values)))
    table = np.array(IQ4_VALUES, np.float32)
    nearest = np.abs(values[:, None] - table).min(axis=1)
    assert np.array_equal(np.abs(values - table[index]), nearest)
    assert emit.W.lanes == 16


# --- casts and checks ---


def test_every_infinite_and_undefined_float16_is_beyond() -> None:
    """All 65,536 patterns, against numpy's own idea of what is finite."""
    patterns = np.arange(1 << 16, dtype=np.int32)
    finite = np.isfinite(patterns.astype(np.uint16).view(np.float16))
    assert np.array_equal(direct.beyond(patterns) == 0, finite)
    blocks = patterns.astype("<u2").view(np.uint8).reshape(-1, 2)
    assert np.array_equal(plain.bad_f16(blocks), ~finite)
    bad, scales = checks.at(0)
    assert scales == 1
    assert np.array_equal(bad(blocks), ~finite)


def test_either_of_two_scales_makes_a_block_bad() -> None:
    """One infinite scale is enough, whichever; other types have exponents or spread scales."""
    bad, scales = checks.at(0, 2)
    blocks = np.zeros((3, 4), np.uint8)
    blocks[1, 1], blocks[2, 3] = 0x7C, 0xFC
    assert scales == 2
    assert bad(blocks).tolist() == [False, True, True]
    assert checks.nothing(blocks).tolist() == [False] * 3
    exponents = np.zeros((2, 17), np.uint8)
    exponents[1, 0] = 255
    assert fp4.bad_mxfp4(exponents).tolist() == [False, True]
    c, *_ = _points(32, 2048, 2, 16)
    c.whole[WHOLE_HEAD:] &= 7
    c.whole[D] = [_half(np.inf), _half(65504)]
    assert iq1.bad_iq1_m(iq1.pack_iq1_m(c)).tolist() == [True, False]


def test_bfloat16_rounds_to_the_even_neighbour() -> None:
    """A half goes to the even one, what is above it up; the largest float32 becomes infinite."""
    patterns = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7FFFFF], np.uint32)
    made = plain.cast_bf16(patterns.view(np.float32))
    assert made.view("<u2").tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F80, 0x7F80]
    assert plain.bad_bf16(made.reshape(-1, 2)).tolist() == [False] * 4 + [True]


def test_casts_are_numpys_or_the_bytes_themselves() -> None:
    """float16 rounds as numpy does and overflows without a warning; float32 stays as it is."""
    values = np.array([[1.0, 1e9], [-2.5, 6e-8]], np.float32)
    with np.errstate(over="ignore"):
        wanted = values.astype(np.float16)
    assert plain.cast_f16(values).tobytes() == wanted.tobytes()
    assert plain.cast_f32(values).tobytes() == values.tobytes()


def test_mxfp4_has_one_exponent_and_the_nearest_of_15_values() -> None:
    """The largest value's exponent less two; levels of both signs, 0 for nothing but zeros."""
    values = np.zeros((2, 32), np.float32)
    values[0, :8] = [6, -6, 4, 3, 2, -1.5, 1, 0.5]
    packed = fp4.pack_mxfp4(values)
    assert packed.shape == (2, 17)
    assert packed[:, 0].tolist() == [127, 0]
    assert packed[0, 1:9].tolist() == [7, 15, 6, 5, 4, 11, 2, 1]
    assert not packed[0, 9:].any()
    assert not packed[1].any()


def test_an_exponent_just_below_a_power_of_two_rounds_up() -> None:
    """float32 has no logarithm just below 8: 256 less one unit has that of 256, as log2f has it."""
    below = np.nextafter(np.float32(256), np.float32(0))
    values = np.array([1.0, 1.5, 255.0, below, 256.0], np.float32)
    assert fp4.mxfp4_exponent(values).tolist() == [125, 125, 132, 133, 133]


# --- what a kernel works in ---


def test_what_a_kernel_gets_is_named() -> None:
    """Values are taken by name; numba needs them to be tuples, in the order of the C call."""
    call = KernelCall("source", 0, "importances", "means", "out")
    assert tuple(call) == ("source", 0, "importances", "means", "out")
    assert call._replace(out="other").out == "other"
    assert SearchedShape(16, 16, 3).nmax == 3
    assert DirectBlock("values", 1, 2, "out", 3)[-1] == 3
    assert Room._fields == ("values", "rows", "levels", "columns")
