"""numba's meaning of :mod:`mbuild.quant.layouts.instructions`.

Importing this module imports numba and registers the operations with it.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from mbuild.quant.kernels.lanes import (
    F32,
    I1,
    I8,
    I16,
    Mask,
    Real,
    Whole,
    WidthType,
    data,
    nothing,
    register,
)
from mbuild.quant.kernels.vectors import I32, call, constant
from mbuild.quant.layouts.instructions import (
    count,
    first_lane,
    lane_of,
    largest,
    load_bf16,
    load_bytes,
    load_f32,
    load_u16,
    magnitudes,
    prefetch,
    ranges,
    store_bits,
    store_bytes,
    store_half,
    store_halves,
    store_nibbles,
    store_words,
    turn,
)


def _turn(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    source = data(builder, context, sig.args[0], args[0])
    target = data(builder, context, sig.args[3], args[3])
    start, stride, row, lane = (
        context.cast(builder, args[i], sig.args[i], types.intp) for i in (1, 2, 4, 5)
    )
    lanes = builder.extract_value(
        context.make_array(sig.args[3])(context, builder, args[3]).shape, 1
    )
    vector = ir.VectorType(F32, 8)
    size = ir.IntType(64)
    values = []
    for k in range(8):
        at = builder.add(start, builder.mul(stride, size(k)))
        place = builder.bitcast(builder.gep(source, [at]), vector.as_pointer())
        values.append(builder.load(place, align=4))
    # Three rounds of pairwise exchange: neighbours, neighbours' pairs, halves.
    for distance in (1, 2, 4):
        values = exchange(builder, values, distance)
    for i in range(8):
        at = builder.add(builder.mul(builder.add(row, size(i)), lanes), lane)
        place = builder.bitcast(builder.gep(target, [at]), vector.as_pointer())
        builder.store(values[i], place, align=4)
    return context.get_dummy_value()


def exchange(builder: Any, values: list[Any], distance: int) -> list[Any]:
    """Swap, between vectors ``distance`` apart, the lanes that differ in that bit."""
    turned = list(values)
    for i in range(8):
        if i & distance:
            continue
        first, second = values[i], values[i + distance]
        low = [k if not k & distance else 8 + k - distance for k in range(8)]
        high = [k + distance if not k & distance else 8 + k for k in range(8)]
        for place, order in ((i, low), (i + distance, high)):
            index = ir.Constant(ir.VectorType(I32, 8), order)
            turned[place] = builder.shuffle_vector(first, second, index)
    return turned


def _take(builder: Any, args: Any, sig: Any, context: Any, element: Any) -> Any:
    """Load a vector of ``element`` that need not be aligned."""
    lanes = sig.args[0].lanes
    base = data(builder, context, sig.args[1], args[1])
    index = context.cast(builder, args[2], sig.args[2], types.intp)
    vector = ir.VectorType(element, lanes)
    places = builder.bitcast(base, vector.as_pointer())
    return builder.load(builder.gep(places, [index]), align=1)


def _load_f32(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    return _take(builder, args, sig, context, F32)


def _load_u16(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    lanes = sig.args[0].lanes
    return builder.zext(_take(builder, args, sig, context, I16), ir.VectorType(I32, lanes))


def _load_bf16(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    lanes = sig.args[0].lanes
    pattern = builder.shl(_load_u16(builder, args, sig, context), constant(lanes, 16))
    return builder.bitcast(pattern, ir.VectorType(F32, lanes))


def _byte(builder: Any, args: Any, sig: Any, context: Any, number: int) -> Any:
    """The address of byte ``args[number + 1]`` of the array ``args[number]``."""
    base = data(builder, context, sig.args[number], args[number])
    start = context.cast(builder, args[number + 1], sig.args[number + 1], types.intp)
    return builder.gep(base, [start])


def _put(builder: Any, args: Any, sig: Any, context: Any, value: Any) -> Any:
    """Store ``value`` at byte ``args[2]`` of the array ``args[1]``."""
    place = _byte(builder, args, sig, context, 1)
    builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=1)
    return context.get_dummy_value()


def _store_half(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    pattern = builder.trunc(context.cast(builder, args[2], sig.args[2], types.int64), I16)
    place = builder.bitcast(_byte(builder, args, sig, context, 0), I16.as_pointer())
    builder.store(pattern, place, align=1)
    return context.get_dummy_value()


def _load_bytes(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    lanes = sig.args[0].lanes
    small = ir.VectorType(I8, lanes)
    place = builder.bitcast(_byte(builder, args, sig, context, 1), small.as_pointer())
    return builder.zext(builder.load(place, align=1), ir.VectorType(I32, lanes))


def _prefetch(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    place = _byte(builder, args, sig, context, 0)
    kind = ir.FunctionType(ir.VoidType(), [place.type, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
    # For reading, into the second level: the first is full of what is worked on.
    builder.call(function, [place, I32(0), I32(2), I32(1)])
    return context.get_dummy_value()


def _bytes(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    small = builder.trunc(args[3], ir.VectorType(I8, sig.args[0].lanes))
    return _put(builder, args, sig, context, small)


def _halves(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    small = builder.trunc(args[3], ir.VectorType(I16, sig.args[0].lanes))
    return _put(builder, args, sig, context, small)


def _words(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    return _put(builder, args, sig, context, args[3])


def _lanes_from(builder: Any, value: Any, start: int, count: int) -> Any:
    """Lanes ``start`` ... ``start + count - 1`` as a vector of their own."""
    index = ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), index)


def _nibbles(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    half = sig.args[0].lanes // 2
    low = builder.and_(_lanes_from(builder, args[3], 0, half), constant(half, 0x0F))
    high = builder.shl(_lanes_from(builder, args[3], half, half), constant(half, 4))
    small = builder.trunc(builder.or_(low, high), ir.VectorType(I8, half))
    return _put(builder, args, sig, context, small)


def _bits(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    packed = builder.bitcast(args[3], ir.IntType(sig.args[0].lanes))
    return _put(builder, args, sig, context, packed)


def _largest(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    lanes = sig.args[0].lanes
    pattern = builder.bitcast(args[0], ir.VectorType(I32, lanes))
    magnitude = builder.and_(pattern, constant(lanes, 0x7FFFFFFF))
    top = call(builder, f"llvm.vector.reduce.smax.v{lanes}i32", I32, [magnitude])
    return builder.bitcast(top, F32)


def _first_lane(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    packed = builder.bitcast(args[0], ir.IntType(sig.args[0].lanes))
    return builder.zext(builder.cttz(packed, I1(1)), ir.IntType(64))


_EIGHT = ir.VectorType(F32, 8)
_WHOLE_EIGHT = ir.VectorType(I32, 8)


def _quarters(builder: Any, args: Any, sig: Any, context: Any) -> list[list[Any]]:
    """Of each of 8 rows its 32 values as four vectors."""
    base = data(builder, context, sig.args[0], args[0])
    first = context.cast(builder, args[1], sig.args[1], types.intp)
    places = builder.bitcast(base, _EIGHT.as_pointer())
    start = builder.shl(first, first.type(2))
    at = [builder.add(start, first.type(i)) for i in range(32)]
    values = [builder.load(builder.gep(places, [i]), align=1) for i in at]
    return [values[i : i + 4] for i in range(0, 32, 4)]


def _fold(builder: Any, rows: list[Any], best: Any) -> Any:
    """8 vectors of 8 lanes to one: lane i is what ``best`` leaves of vector i."""
    # Three rounds that halve the number of vectors, by pairs of lanes, of 64 and 128 bits.
    for low in ([0, 8, 1, 9, 4, 12, 5, 13], [0, 1, 8, 9, 4, 5, 12, 13], [0, 1, 2, 3, 8, 9, 10, 11]):
        step = 4 if low[2] == 2 else 2
        index = [ir.Constant(_WHOLE_EIGHT, [k + more for k in low]) for more in (0, step)]
        pairs = zip(rows[::2], rows[1::2], strict=True)
        rows = [best(*(builder.shuffle_vector(a, b, i) for i in index)) for a, b in pairs]
    return rows[0]


def _put_lanes(builder: Any, args: Any, sig: Any, context: Any, further: int, value: Any) -> None:
    """Store 8 lanes to the columns ``args[2]`` at row ``args[3] + further``, lane ``args[4]``."""
    array = context.make_array(sig.args[2])(context, builder, args[2])
    row, lane = (context.cast(builder, args[i], sig.args[i], types.intp) for i in (3, 4))
    row = builder.add(row, row.type(further))
    at = builder.add(builder.mul(row, builder.extract_value(array.shape, 1)), lane)
    place = builder.bitcast(builder.gep(array.data, [at]), value.type.as_pointer())
    builder.store(value, place, align=4)


def _magnitudes(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    def best(a: Any, b: Any) -> Any:
        return call(builder, "llvm.smax.v8i32", _WHOLE_EIGHT, [a, b])

    rows = []
    for quarters in _quarters(builder, args, sig, context):
        patterns = [builder.bitcast(value, _WHOLE_EIGHT) for value in quarters]
        a, b, c, d = (builder.and_(p, constant(8, 0x7FFFFFFF)) for p in patterns)
        rows.append(best(best(a, b), best(c, d)))
    top = builder.bitcast(_fold(builder, rows, best), _EIGHT)
    _put_lanes(builder, args, sig, context, 0, top)
    return context.get_dummy_value()


def _ranges(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    def chooser(sign: str) -> Any:
        return lambda a, b: builder.select(builder.fcmp_ordered(sign, a, b), a, b)

    rows = _quarters(builder, args, sig, context)
    for further, sign in enumerate("><"):
        best = chooser(sign)
        found = [best(best(a, b), best(c, d)) for a, b, c, d in rows]
        _put_lanes(builder, args, sig, context, further, _fold(builder, found, best))
    total = ir.Constant(_EIGHT, [0.0] * 8)
    for value in (value for row in rows for value in row):
        total = builder.fadd(total, value)
    return total


def _lane_of(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    return builder.extract_element(
        args[0], context.cast(builder, args[1], sig.args[1], types.int32)
    )


def _count(builder: Any, args: Any, sig: Any, context: Any) -> Any:
    return context.get_constant(types.intp, sig.args[0].lanes)


def _real_of(width: Any, *args: Any) -> Any:
    return Real(width.lanes)


_ROWS = (types.Array, types.Integer, types.Array, types.Integer, types.Integer)
_AT = (WidthType, types.Array, types.Integer)
INSTRUCTIONS: tuple[tuple[Any, tuple[Any, ...], Any, Any], ...] = (
    (largest, (Real,), lambda v: types.float32, _largest),
    (first_lane, (Mask,), lambda m: types.intp, _first_lane),
    (lane_of, (Real, types.Integer), lambda *_: types.float32, _lane_of),
    (magnitudes, _ROWS, nothing, _magnitudes),
    (ranges, _ROWS, lambda *_: Real(8), _ranges),
    (count, (WidthType,), lambda w: types.intp, _count),
    (store_bytes, (*_AT, Whole), nothing, _bytes),
    (store_halves, (*_AT, Whole), nothing, _halves),
    (store_words, (*_AT, Whole), nothing, _words),
    (store_nibbles, (*_AT, Whole), nothing, _nibbles),
    (store_bits, (*_AT, Mask), nothing, _bits),
    (store_half, (types.Array, types.Integer, types.Integer), nothing, _store_half),
    (load_bytes, _AT, lambda w, *_: Whole(w.lanes), _load_bytes),
    (prefetch, (types.Array, types.Integer), nothing, _prefetch),
    (load_f32, _AT, _real_of, _load_f32),
    (load_bf16, _AT, _real_of, _load_bf16),
    (load_u16, _AT, lambda w, *_: Whole(w.lanes), _load_u16),
    (
        turn,
        (types.Array, types.Integer, types.Integer, types.Array, *[types.Integer] * 2),
        nothing,
        _turn,
    ),
)
for _row in INSTRUCTIONS:
    register(*_row)
