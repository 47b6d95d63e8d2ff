"""What numba is told: every operation on lanes has the bits that numpy has, in one instruction.

Each operation is put alone into a function of LLVM's, which takes milliseconds; no kernel is
compiled here.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from lane_probe import I64, call, compiled, lowered
from llvmlite import ir
from numba.np.arrayobj import make_array

from mbuild.gguf.types import GGMLType
from mbuild.quant.kernels import (
    lane_arrays,
    lane_bytes,
    lane_lists,
    lane_picks,
    lane_runs,
    lanes,
    measures,
    tiles,
    vectors,
)
from mbuild.quant.layouts import instructions
from mbuild.quant.layouts.instructions import Width
from mbuild.quant.layouts.rooms import KernelCall
from mbuild.quant.search import ops
from mbuild.quant.search.columns import STEPS
from mbuild.quant.search.grids import EIGHT, FOUR
from mbuild.quant.search.methods import Each, Measure, Method, OnGrid, Search, Simple
from mbuild.quant.table import TYPES, Kernel, kernel, supports

W = Width(16)

REALS = np.array(
    [0, -0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 0.49999997, 3.7, -3.7, 1e6, -8e6, 1e-40, 1e-30, 7, -7],
    np.float32,
)
OTHERS = np.array([1, 0, 0.5, 2, -2.5, 0.5, 1.5, -4, 3.7, 1, 3, 8, 1, 2e-30, 6, -6], np.float32)
WHOLES = np.array([0, 1, -1, 7, -8, 255, 256, 1 << 30, -(1 << 31), 3, 5, 9, 15, 16, 17, -17], "i4")


BINARY = [operator.add, operator.sub, operator.mul, operator.truediv]
COMPARED = [operator.lt, operator.gt, operator.le, operator.ge, operator.eq, operator.ne]
CASES: list[tuple[Any, tuple[Any, ...]]] = [
    *((function, (REALS, OTHERS)) for function in (*BINARY, *COMPARED)),
    (operator.neg, (REALS,)),
    *((function, (WHOLES, WHOLES[::-1].copy())) for function in (operator.add, operator.sub)),
    *((function, (WHOLES, WHOLES[::-1].copy())) for function in (operator.and_, operator.or_)),
    *((function, (WHOLES, WHOLES[::-1].copy())) for function in (operator.gt, operator.ne)),
    (operator.eq, (WHOLES, WHOLES[::-1].copy())),
    *((function, (WHOLES, 3)) for function in (operator.add, operator.sub, operator.and_)),
    *((function, (WHOLES, 3)) for function in (operator.lshift, operator.rshift)),
    (operator.and_, (REALS > 0, OTHERS > 0)),
    (operator.or_, (REALS > 0, OTHERS > 0)),
    (operator.invert, (REALS > 0,)),
    (ops.select, (REALS > OTHERS, REALS, OTHERS)),
    (ops.select, (REALS > OTHERS, WHOLES, WHOLES[::-1].copy())),
    *((function, (REALS,)) for function in (ops.absolute, ops.floor, ops.truncate, ops.bits)),
    *((function, (REALS,)) for function in (ops.nearest, ops.away)),
    (ops.rounded, (np.clip(REALS, -4e6, 4e6),)),
    (ops.root, (np.abs(REALS),)),
    (ops.unbits, (WHOLES & 0x7F000000,)),
    (ops.real, (WHOLES,)),
    (ops.odd4, (WHOLES,)),
    (ops.odd8, (WHOLES,)),
    (ops.confine, (REALS, -1.5, 2.0)),
    (ops.confine, (np.abs(REALS) - np.float32(3), 0.0, 2.0)),
    (ops.at_most, (WHOLES, 9)),
    (ops.clamp, (WHOLES, -4, 11)),
]
"""Operations, and arguments at the borders between two results."""


@pytest.mark.parametrize(
    ("function", "arguments"), CASES, ids=lambda value: getattr(value, "__name__", None)
)
def test_an_operation_on_lanes_has_numpys_bits(function: Any, arguments: tuple[Any, ...]) -> None:
    """Signed zeros, halves, denormal and large numbers come out of both engines alike."""
    with np.errstate(all="ignore"):
        wanted = np.asarray(function(*arguments))
    made = lowered(function, *arguments, dtype=wanted.dtype)
    assert made.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("lanes_", [8, 16, 32])
def test_one_number_fills_all_lanes(lanes_: int) -> None:
    """A filled vector has as many lanes as its width, of reals or of whole numbers."""
    made = lowered(ops.fill, Width(lanes_), -0.1, dtype=np.float32, size=lanes_)
    assert made.tolist() == [np.float32(-0.1)] * lanes_
    made = lowered(ops.whole, Width(lanes_), -7, dtype=np.int32, size=lanes_)
    assert made.tolist() == [-7] * lanes_


@pytest.mark.parametrize("where", [None, 0, 15])
def test_any_lane_looks_at_every_lane(where: int | None) -> None:
    """The first lane counts, the last one too, and none is false."""
    mask = np.zeros(16, np.bool_)
    if where is not None:
        mask[where] = True
    assert bool(lowered(ops.any_lane, mask, dtype=np.uint8, size=1)[0]) is (where is not None)


def test_every_operation_of_a_search_has_a_meaning_for_numba() -> None:
    """What :mod:`mbuild.quant.search.ops` defines in numpy, kernels can be compiled from."""
    told = {row[0] for row in lanes.INSTRUCTIONS}
    assert set(tiles.functions_of(ops)) <= told


def test_every_instruction_has_a_meaning_for_numba_and_none_in_python() -> None:
    """They are only named for Python: all but the number of lanes refuse to be called there."""
    named = set(tiles.functions_of(instructions))
    assert named == {row[0] for row in lane_bytes.INSTRUCTIONS}
    assert instructions.count(Width(8)) == 8
    for function in named - {instructions.count}:
        given = [None] * len(inspect.signature(function).parameters)
        with pytest.raises(NotImplementedError, match="only compiled kernels"):
            function(*given)


def test_vectors_of_another_kind_or_width_are_other_types() -> None:
    """numba makes code of its own for each, so a kernel of 8 lanes is never run in 16."""
    kinds = [kind(n) for kind in (lanes.Real, lanes.Whole, lanes.Mask) for n in (8, 16)]
    assert len(set(kinds)) == len(kinds)
    assert [str(kind.llvm) for kind in kinds[::2]] == ["<8 x float>", "<8 x i32>", "<8 x i1>"]
    assert lanes.Real(8) == lanes.Real(8)
    assert lanes.WidthType(8) != lanes.WidthType(16)


# --- bytes in and out, reductions ---


def test_the_largest_magnitude_has_no_sign() -> None:
    """It is found among negative values, and zeros of both signs give 0."""
    assert lowered(instructions.largest, REALS, dtype=np.float32, size=1)[0] == 8e6
    zeros = np.array([-0.0, 0.0] * 8, np.float32)
    assert lowered(instructions.largest, zeros, dtype=np.float32, size=1).tobytes() == bytes(4)


@pytest.mark.parametrize("first", [0, 5, 15])
def test_the_first_lane_of_a_mask_and_its_value(first: int) -> None:
    """Of several lanes the lowest counts; a lane's number gives its value back."""
    mask = np.arange(16) >= first
    assert lowered(instructions.first_lane, mask, dtype=np.int64, size=1)[0] == first
    value = lowered(instructions.lane_of, OTHERS, first, dtype=np.float32, size=1)
    assert value[0] == OTHERS[first]


def test_pairwise_exchanges_transpose_eight_by_eight() -> None:
    """Three rounds, of lanes one, two and four apart, turn rows into columns."""
    matrix = np.arange(64, dtype=np.float32)
    module = ir.Module("probe")
    signature = ir.FunctionType(ir.VoidType(), [ir.VectorType(ir.FloatType(), 8).as_pointer()])
    probe = ir.Function(module, signature, "probe")
    builder = ir.IRBuilder(probe.append_basic_block())
    places = [builder.gep(probe.args[0], [I64(i)]) for i in range(8)]
    values = [builder.load(place, align=4) for place in places]
    for distance in (1, 2, 4):
        values = lane_bytes.exchange(builder, values, distance)
    for value, place in zip(values, places, strict=True):
        builder.store(value, place, align=4)
    builder.ret_void()
    run, _engine = compiled(module, 1)
    wanted = matrix.reshape(8, 8).T.reshape(-1).tolist()
    run(matrix.ctypes.data)
    assert matrix.tolist() == wanted


# --- neighbours of a grid ---


def test_the_least_lane_is_a_number() -> None:
    """The least of 16 costs, wherever it lies."""
    for turn in range(16):
        rolled = np.roll(OTHERS, turn)
        assert lowered(lane_lists.least, rolled, dtype=np.float32, size=1)[0] == -6


@pytest.mark.parametrize(("function", "length"), [(lane_picks.pick4, 4), (lane_picks.pick8, 8)])
def test_each_lane_picks_from_its_own_block(function: Any, length: int) -> None:
    """A table of costs lies in a block of lanes; bits of the index above its own do not count."""
    table = np.arange(16, dtype=np.float32) * 1.5
    lane = np.arange(16)
    block = lane - lane % length
    for turn in range(length):
        index = (lane * 5 + turn) % length
        # The bits above an index are another value's.
        given = (index | 0x50 if length == 8 else index | 0x54).astype(np.int32)
        if length == 8:
            given = lowered(lane_picks.indexes8, given, dtype=np.int32)
        made = lowered(function, table, given, dtype=np.float32)
        assert made.tolist() == table[block + index].tolist()


def test_halves_of_a_vector_belong_to_two_scales() -> None:
    """Each half has its own number, its own least value."""
    made = lowered(lane_picks.halves, W, 0.25, -2.0, dtype=np.float32)
    assert made.tolist() == [0.25] * 8 + [-2.0] * 8
    made = lowered(lane_picks.least_of_half, OTHERS, dtype=np.float32)
    assert made.tolist() == [min(OTHERS[:8])] * 8 + [min(OTHERS[8:])] * 8
    made = lowered(lane_picks.cycle, W, 1, 2, 8, dtype=np.int32)
    assert made.tolist() == [1, 3, 5, 7, 9, 11, 13, 15] * 2


@pytest.mark.parametrize("number", [1, 0x8001, 0xFFFF, 0x0A50])
def test_a_mask_is_a_number(number: int) -> None:
    """Lane 0 is the lowest bit; bits are counted and the lowest one is found."""
    mask = np.array([number >> lane & 1 for lane in range(16)], np.bool_)
    assert lowered(lane_picks.packed, mask, dtype=np.int64, size=1)[0] == number
    assert lowered(lane_picks.ones, number, dtype=np.int64, size=1)[0] == number.bit_count()
    lowest = (number & -number).bit_length() - 1
    assert lowered(lane_picks.lowest, number, dtype=np.int64, size=1)[0] == lowest


def test_what_is_only_named_for_kernels_refuses_in_python() -> None:
    """Operations of the search for neighbours give no number outside of a kernel."""
    for function in {row[0] for row in lane_picks.INSTRUCTIONS}:
        with pytest.raises(NotImplementedError, match="only compiled kernels"):
            function(*[None] * len(inspect.signature(function).parameters))


# --- arrays on the stack ---


def _kept(context: Any, builder: Any, kind: Any, made: Any, target: Any) -> None:
    """Address, number of elements, then lengths and strides of an array."""
    array = make_array(kind)(context, builder, made)
    numbers = [builder.ptrtoint(array.data, I64), array.nitems]
    for held in (array.shape, array.strides):
        numbers += [builder.extract_value(held, i) for i in range(kind.ndim)]
    place = builder.bitcast(target, I64.as_pointer())
    for i, number in enumerate(numbers):
        builder.store(number, builder.gep(place, [I64(i)]))


@pytest.mark.parametrize(
    ("function", "arguments", "wanted"),
    [
        (lane_arrays.reals, (W, 3), [48, 3, 16, 64, 4]),
        (lane_arrays.wholes, (Width(8), 5), [40, 5, 8, 32, 4]),
        (lane_arrays.flat_reals, (W, 3), [48, 48, 4]),
        (lane_arrays.flat_wholes, (W, 3), [48, 48, 4]),
        (lane_arrays.flat_longs, (W, 3), [48, 48, 8]),
        (lane_arrays.octets, (100,), [100, 100, 1]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_an_array_on_the_stack_has_rows_of_lanes(
    function: Any, arguments: tuple[Any, ...], wanted: list[int]
) -> None:
    """Elements, lengths and strides in bytes follow from the width; it begins on a cache line."""
    out = np.zeros(8, np.int64)
    call(function, arguments, out, keep=_kept)
    assert out[1 : 1 + len(wanted)].tolist() == wanted
    assert out[0] % lane_arrays.ALIGNMENT == 0


# --- runs of scales ---


def test_a_lead_outweighs_the_rounding_of_sums() -> None:
    """Sums of float32 differ from real numbers by less than 15 units; four times 80 are asked."""
    unit = 2.0**-24
    assert 4 * 80 * unit <= lane_runs.MARGIN
    r = np.random.default_rng(2)
    for form in (EIGHT, FOUR):
        roots = r.random((2000, form.size)).astype(np.float32)
        values = r.standard_normal((2000, form.size)).astype(np.float32)
        scales = r.random((2000, 1)).astype(np.float32)
        odd = (2 * r.integers(0, form.levels, values.shape) + 1).astype(np.float32)
        total = np.zeros(2000, np.float32)
        for i in range(form.size):
            difference = scales[:, 0] * odd[:, i] - values[:, i]
            total = total + roots[:, i] * difference * difference
        wide, far = scales.astype(np.float64) * odd, scales * (2.0 * form.levels) + np.abs(values)
        exact = (roots * (wide - values) ** 2).sum(axis=1)
        assert (np.abs(total - exact) < 15 * unit * (roots * far**2).sum(axis=1)).all()


def test_an_item_of_the_queue_has_room_for_its_parts() -> None:
    """First step, last step, middle, lane and spot lie one above the other in 64 bits."""
    step = lane_runs.STEP.bit_length()
    assert lane_runs.STEP == STEPS - 1
    assert step <= lane_runs.LAST
    assert lane_runs.LAST + step <= lane_runs.CUT
    assert lane_runs.CUT + step <= lane_runs.LANE
    assert lane_runs.LANE + (32 - 1).bit_length() <= lane_runs.SPOT
    assert 2 * max(EIGHT.spots, FOUR.spots) << lane_runs.SPOT < 1 << 63


# --- what kernels are made of ---


def _methods() -> Iterator[tuple[GGMLType, Method]]:
    for type_, parts in TYPES.items():
        for method in (parts.plain, parts.weighted):
            if method is not None:
                yield type_, method


def test_every_part_of_a_type_may_become_part_of_a_kernel() -> None:
    """A row of the table names only functions that numba is told of."""
    told = {function for text in tiles.TEXTS for function in tiles.functions_of(text)}
    for type_, method in _methods():
        layout = TYPES[type_].layout
        named = {
            Search: lambda m, layout: (m.fit, m.settle, m.levels.put, layout.emit),
            OnGrid: lambda m, layout: (m.fit, m.settle, layout.emit),
            Simple: lambda m, layout: (m.scale, m.write),
            Each: lambda m, layout: (m.put,),
        }[type(method)](method, layout)
        assert told.issuperset(named), type_


def test_functions_of_a_module_are_those_that_it_defines() -> None:
    """What a text imports is another module's, which is listed itself."""
    found = {function.__name__ for function in tiles.functions_of(measures)}
    assert {"settle_sign", "measure_range", "finite"} <= found
    assert not {"load_f32", "select"} & found


def test_every_kind_of_method_and_measure_has_its_compiled_text() -> None:
    """A new kind without one would fail only when its first kernel is compiled."""
    assert tiles.MAKERS.keys() == {type(method) for _, method in _methods()}
    assert measures.MEASURES.keys() == set(Measure)
    assert len(set(measures.MEASURES.values())) == len(Measure)


@pytest.mark.parametrize(("type_", "weighted"), [(GGMLType.Q8_0, False), (GGMLType.Q4_K, True)])
def test_a_kernels_text_takes_the_parts_of_a_call_in_order(type_: GGMLType, weighted: bool) -> None:
    """After two widths come a call's fields; the same kernel has one text, and is not run yet."""
    assert supports(type_, weighted)
    asked: Kernel = kernel(type_, weighted, 16)
    text = tiles.text(asked)
    assert [*inspect.signature(text).parameters] == ["w", "e", *KernelCall._fields]
    assert tiles.text(kernel(type_, weighted, 16)) is text
    assert tiles.text(kernel(type_, weighted, 8)) is not text or type_ is GGMLType.Q8_0


@pytest.mark.parametrize("lanes_", [4, 8, 16, 32])
def test_a_vector_cut_into_parts_and_joined_is_itself(lanes_: int) -> None:
    """Parts of eight lanes, of which a vector that is no longer makes one."""
    module = ir.Module()
    pointer = ir.IntType(8).as_pointer()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 2), "probe")
    builder = ir.IRBuilder(function.append_basic_block())
    kind = ir.VectorType(vectors.I32, lanes_).as_pointer()
    given, target_ = (builder.bitcast(argument, kind) for argument in function.args)
    parts = vectors.split(builder, builder.load(given, align=4), 8)
    assert len(parts) == max(1, lanes_ // 8)
    turned = [vectors.shuffle(builder, part, [*range(part.type.count)][::-1]) for part in parts]
    builder.store(vectors.joined(builder, turned[::-1]), target_, align=4)
    builder.ret_void()
    run, engine_ = compiled(module, 2)
    before, after = np.arange(lanes_, dtype=np.int32), np.zeros(lanes_, np.int32)
    run(before.ctypes.data, after.ctypes.data)
    assert after.tolist() == before[::-1].tolist()
    assert engine_ is not None
