"""Operations of the search for the nearest grid point: small tables, halves, single bits.

As :mod:`mbuild.quant.kernels.lane_bytes`, for :mod:`mbuild.quant.kernels.lane_runs`. The vectors
have 16 lanes, of which each half of 8 belongs to one scale. A table of costs lies in a vector;
to pick from it is one instruction on x86-64 with AVX.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types

from mbuild.quant.kernels import target
from mbuild.quant.kernels.lane_bytes import exchange
from mbuild.quant.kernels.lanes import (
    F32,
    I16,
    PICKS,
    Mask,
    Real,
    Whole,
    WidthType,
    data,
    nothing,
    register,
)
from mbuild.quant.kernels.vectors import I32, call, constant, joined, shuffle, splat, split
from mbuild.quant.layouts.instructions import Width

I64 = ir.IntType(64)


def pick4(table: Any, index: Any) -> Any:
    """Per lane the entry ``index & 3`` of its block of 4 lanes of the real vector ``table``."""
    raise NotImplementedError("only compiled kernels pick from vectors")


def pick8(table: Any, index: Any) -> Any:
    """Per lane the entry ``index & 7`` of its block of 8 lanes of the real vector ``table``.

    ``index`` is of those that :func:`indexes8` gave, shifted by a multiple of 4.
    """
    raise NotImplementedError("only compiled kernels pick from vectors")


def load_both(w: Width, source: Any, index: int) -> Any:
    """Both halves of a whole vector: chunk ``index`` of the bytes' 16-bit integers."""
    raise NotImplementedError("only compiled kernels load bytes")


def load_half(source: Any, start: int) -> int:
    """The 16-bit integer at byte ``start`` of the bytes ``source``."""
    raise NotImplementedError("only compiled kernels load bytes")


def halves(w: Width, low: float, high: float) -> Any:
    """A real vector that has ``low`` in its first half and ``high`` in its second."""
    raise NotImplementedError("only compiled kernels make halves")


def cycle(w: Width, start: int, step: int, length: int) -> Any:
    """Lane j of the whole vector is ``start + step * (j % length)``; all constants."""
    raise NotImplementedError("only compiled kernels make patterns")


def indexes8(index: Any) -> Any:
    """Four indexes in each lane of a whole vector, each 3 bits of 4, made ready for :func:`pick8`.

    With AVX-512 one instruction picks from 16 lanes: there bit 3 becomes that of the lane's number.
    """
    raise NotImplementedError("only compiled kernels pick from vectors")


def least_of_half(value: Any) -> Any:
    """In every lane the least of its half of a real vector without NaN."""
    raise NotImplementedError("only compiled kernels reduce a vector")


def packed(mask: Any) -> int:
    """The mask as bits, lane 0 the lowest."""
    raise NotImplementedError("only compiled kernels pack masks")


def lowest(number: int) -> int:
    """The number of the lowest bit that is set, in a number that is not 0."""
    raise NotImplementedError("only compiled kernels count bits")


def ones(number: int) -> int:
    """How many bits of a number are set."""
    raise NotImplementedError("only compiled kernels count bits")


def take(w: Width, array: Any, start: Any) -> Any:
    """Elements ``start`` ... of an array, flat, of int32: a whole vector."""
    raise NotImplementedError("only compiled kernels load so")


def put(w: Width, array: Any, start: Any, value: Any) -> None:
    """The opposite of :func:`take`."""
    raise NotImplementedError("only compiled kernels store so")


def turn_back(columns: Any, row: int, lane: int, x: Any, start: int, stride: int) -> None:
    """Transpose 8 by 8: ``x[start + k * stride + i] = columns[row + i, lane + k]``."""
    raise NotImplementedError("only compiled kernels transpose")


def _by_halves(builder: Any, name: str, table: Any, index: Any) -> Any:
    pairs = zip(split(builder, table, 8), split(builder, index, 8), strict=True)
    return joined(builder, [call(builder, name, part.type, [part, at]) for part, at in pairs])


def _by_selects(builder: Any, table: Any, index: Any, length: int) -> Any:
    """What every processor can: each entry in all lanes of its block, chosen between by bits."""
    choices = []
    for entry in range(length):
        order = [lane - lane % length + entry for lane in range(16)]
        choices.append(shuffle(builder, table, order))
    bit = 1
    while len(choices) > 1:
        isolated = builder.and_(index, constant(16, bit))
        one = builder.icmp_signed("!=", isolated, constant(16, 0))
        pairs = zip(choices[::2], choices[1::2], strict=True)
        choices = [builder.select(one, b, a) for a, b in pairs]
        bit *= 2
    return choices[0]


def _pick4(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    if target.has("+avx512f"):
        return call(builder, PICKS[4, 16], args[0].type, list(args))
    if target.has("+avx"):
        return _by_halves(builder, PICKS[4, 8], *args)
    return _by_selects(builder, args[0], args[1], 4)


def _pick8(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    if target.has("+avx512f"):
        return call(builder, PICKS[8, 16], args[0].type, list(args))
    if target.has("+avx2"):
        return _by_halves(builder, PICKS[8, 8], *args)
    return _by_selects(builder, args[0], args[1], 8)


def _load_both(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    base = data(builder, context, sig.args[1], args[1])
    index = context.cast(builder, args[2], sig.args[2], types.intp)
    places = builder.bitcast(base, ir.VectorType(I16, 8).as_pointer())
    eight = builder.load(builder.gep(places, [index]), align=1)
    return builder.zext(shuffle(builder, eight, [*range(8)] * 2), ir.VectorType(I32, 16))


def _load_half(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    start = context.cast(builder, args[1], sig.args[1], types.intp)
    place = builder.gep(data(builder, context, sig.args[0], args[0]), [start])
    return builder.zext(builder.load(builder.bitcast(place, I16.as_pointer()), align=1), I64)


def _halves(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    scalars = [context.cast(builder, args[i], sig.args[i], types.float32) for i in (1, 2)]
    first = ir.Constant(ir.VectorType(ir.IntType(1), 16), [1] * 8 + [0] * 8)
    return builder.select(first, *(splat(builder, scalar, 16) for scalar in scalars))


def _cycle(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    start, step, length = (kind.literal_value for kind in sig.args[1:])
    vector = ir.VectorType(I32, sig.args[0].lanes)
    return ir.Constant(vector, [start + step * (j % length) for j in range(vector.count)])


def _indexes8(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    if not target.has("+avx512f"):
        return args[0]
    upper = ir.Constant(ir.VectorType(I32, 16), [0] * 8 + [0x8888] * 8)
    return builder.or_(args[0], upper)


def _least_of_half(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    value = args[0]
    for apart in (4, 2, 1):
        other = shuffle(builder, value, [lane ^ apart for lane in range(16)])
        value = builder.select(builder.fcmp_ordered("<", value, other), value, other)
    return value


def _packed(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    return builder.zext(builder.bitcast(args[0], ir.IntType(sig.args[0].lanes)), I64)


def _lowest(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    number = context.cast(builder, args[0], sig.args[0], types.int64)
    return builder.cttz(number, ir.IntType(1)(1))


def _ones(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    return builder.ctpop(context.cast(builder, args[0], sig.args[0], types.int64))


def _place(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    start = context.cast(builder, args[2], sig.args[2], types.intp)
    place = builder.gep(data(builder, context, sig.args[1], args[1]), [start])
    return builder.bitcast(place, ir.VectorType(I32, sig.args[0].lanes).as_pointer())


def _take(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    return builder.load(_place(builder, args, sig, context), align=4)


def _put(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    builder.store(args[3], _place(builder, args, sig, context), align=4)
    return context.get_dummy_value()


def _turn_back(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    array = context.make_array(sig.args[0])(context, builder, args[0])
    flat = data(builder, context, sig.args[3], args[3])
    row, lane, start, stride = (
        context.cast(builder, args[i], sig.args[i], types.intp) for i in (1, 2, 4, 5)
    )
    lanes = builder.extract_value(array.shape, 1)
    vector = ir.VectorType(F32, 8).as_pointer()
    values = []
    for i in range(8):
        at = builder.add(builder.mul(builder.add(row, I64(i)), lanes), lane)
        values.append(builder.load(builder.bitcast(builder.gep(array.data, [at]), vector), align=4))
    for distance in (1, 2, 4):
        values = exchange(builder, values, distance)
    for k in range(8):
        at = builder.add(start, builder.mul(stride, I64(k)))
        builder.store(values[k], builder.bitcast(builder.gep(flat, [at]), vector), align=4)
    return context.get_dummy_value()


def _whole_of(width: Any, *args: Any) -> Any:
    return Whole(width.lanes)


_WORDS = (WidthType, types.Array, types.Integer)
INSTRUCTIONS: tuple[tuple[Any, tuple[Any, ...], Any, Any], ...] = (
    (pick4, (Real, Whole), lambda t, i: t, _pick4),
    (pick8, (Real, Whole), lambda t, i: t, _pick8),
    (load_both, _WORDS, _whole_of, _load_both),
    (load_half, (types.Array, types.Integer), lambda *_: types.int64, _load_half),
    (halves, (WidthType, *[types.Number] * 2), lambda w, *_: Real(w.lanes), _halves),
    (cycle, (WidthType, *[types.IntegerLiteral] * 3), _whole_of, _cycle),
    (indexes8, (Whole,), lambda i: i, _indexes8),
    (least_of_half, (Real,), lambda v: v, _least_of_half),
    (packed, (Mask,), lambda m: types.int64, _packed),
    (lowest, (types.Integer,), lambda n: types.int64, _lowest),
    (ones, (types.Integer,), lambda n: types.int64, _ones),
    (take, _WORDS, _whole_of, _take),
    (put, (*_WORDS, Whole), nothing, _put),
    (
        turn_back,
        (types.Array, *[types.Integer] * 2, types.Array, *[types.Integer] * 2),
        nothing,
        _turn_back,
    ),
)
for _row in INSTRUCTIONS:
    register(*_row)
