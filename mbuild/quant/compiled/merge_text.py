"""LLVM's text of a function that adds a product of two factors to rows of weights, as BF16.

It computes in F32, and knows by how much each sum can be wrong. Where that leaves two values to
choose from, the sum is computed again in double precision. So what comes out is the sum in double
precision, rounded once, to nearest and to even. Importing this module imports llvmlite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

LANES = 8
GROUP = 32
"""Columns that are computed side by side: four registers of 256 bits. Rows are made of them."""

TILE = 256
"""Columns of the right factor that stay in the nearest cache while all rows meet them."""

_WORD, _LONG, _SHORT, _BIT = (ir.IntType(size) for size in (32, 64, 16, 1))
_REAL, _DOUBLE = ir.FloatType(), ir.DoubleType()
_WORDS, _REALS = ir.VectorType(_WORD, LANES), ir.VectorType(_REAL, LANES)
_SHORTS, _BITS = ir.VectorType(_SHORT, LANES), ir.VectorType(_BIT, LANES)
_PLACE = ir.IntType(8).as_pointer()
_PARTS = GROUP // LANES

ARRAYS = ("source", "left", "scaled", "right", "scale", "fixed", "per", "apart", "out")
COUNTS = ("rows", "rank", "columns")


class MergeText:
    """The function's text in LLVM's words; ``item`` is 2 for weights in BF16, 4 in F32.

    Its parameters, arrays as an address and a number of elements: the weights (rows, columns); the
    left factor (rows, rank) in F32, and once more times the scale; the right factor (rank,
    columns) in F32; the scale, one F64; what a row's sums can be wrong by, apart from what their
    size adds (rows), in F32; how much that is, as a part of the largest weight, one F32; room
    for so many F32 as there are rows; the BF16 that come out; rows, rank, columns. It returns
    the bits of the largest magnitude among the weights.
    """

    def __init__(self, name: str, item: int) -> None:
        self.item = item
        self.module = ir.Module(name)
        add = ir.FunctionType(_REALS, [_REALS] * 3)
        self.add = ir.Function(self.module, add, f"llvm.fmuladd.v{LANES}f32")
        first = ir.FunctionType(_WORD, [_WORD, _BIT])
        self.first = ir.Function(self.module, first, "llvm.cttz.i32")
        words = [word for _ in ARRAYS for word in (_PLACE, _LONG)] + [_LONG] * len(COUNTS)
        self.function = ir.Function(self.module, ir.FunctionType(_LONG, words), name)
        arguments = self.function.args
        self.arrays = dict(zip(ARRAYS, arguments[: 2 * len(ARRAYS) : 2], strict=True))
        self.counts = dict(zip(COUNTS, arguments[2 * len(ARRAYS) :], strict=True))
        self.at = ir.IRBuilder(self.function.append_basic_block("begin"))
        self.results: list[Any] = []

    def write(self) -> str:
        """The whole text."""
        rows, columns = self.counts["rows"], self.counts["columns"]
        with self.loop(_LONG(0), rows, 1, [_WORD(0)]) as (row, (top,), end):
            largest = self.largest(row)
            self.store("apart", row, self.wrong(row, largest))
            end([self.larger(top, largest)])
        top = self.results[0]
        with self.loop(_LONG(0), columns, TILE, []) as (tile, _, end_tile):
            last = self.at.add(tile, _LONG(TILE))
            last = self.at.select(self.at.icmp_signed("<", last, columns), last, columns)
            with self.loop(_LONG(0), rows, 1, []) as (row, _, end_row):
                with self.loop(tile, last, GROUP, []) as (column, _, end_group):
                    self.group(row, column)
                    end_group([])
                end_row([])
            end_tile([])
        self.at.ret(self.at.zext(top, _LONG))
        return str(self.module)

    # The parts.

    def largest(self, row: Any) -> Any:
        """The bits of the largest magnitude in a row."""
        start = self.at.mul(row, self.counts["columns"])
        zero = ir.Constant(_WORDS, [0] * LANES)
        with self.loop(_LONG(0), self.counts["columns"], GROUP, [zero]) as (column, (most,), end):
            for part in range(_PARTS):
                index = self.at.add(self.at.add(start, column), _LONG(part * LANES))
                bits = self.at.bitcast(self.weights(index), _WORDS)
                bits = self.at.and_(bits, ir.Constant(_WORDS, [0x7FFFFFFF] * LANES))
                most = self.larger(most, bits)
            end([most])
        found = self.results[0]
        lanes = [self.at.extract_element(found, _WORD(lane)) for lane in range(LANES)]
        while len(lanes) > 1:
            lanes = [self.larger(*pair) for pair in zip(lanes[::2], lanes[1::2], strict=True)]
        return lanes[0]

    def wrong(self, row: Any, largest: Any) -> Any:
        """By how much a row's sums can be wrong."""
        size = self.at.fmul(self.at.bitcast(largest, _REAL), self.number("per", _LONG(0)))
        return self.at.fadd(size, self.number("fixed", row))

    def group(self, row: Any, column: Any) -> None:
        """The values of some columns of a row."""
        at, columns = self.at, self.counts["columns"]
        start = at.mul(row, self.counts["rank"])
        zeros = [ir.Constant(_REALS, [0.0] * LANES)] * _PARTS
        with self.loop(_LONG(0), self.counts["rank"], 1, zeros) as (term, sums, end):
            factor = self.everywhere(self.number("scaled", at.add(start, term)))
            index = at.add(at.mul(term, columns), column)
            right = [self.vector("right", index, part) for part in range(_PARTS)]
            end([at.call(self.add, [factor, *pair]) for pair in zip(right, sums, strict=True)])
        products = self.results
        index = at.add(at.mul(row, columns), column)
        apart = self.everywhere(self.number("apart", row))
        doubtful: Any = _WORD(0)
        for part, product in enumerate(products):
            own = at.add(index, _LONG(part * LANES))
            total = at.fadd(self.weights(own), product)
            low, high = (self.halved(each(total, apart)) for each in (at.fsub, at.fadd))
            place = at.gep(self.arrays["out"], [at.shl(own, _LONG(1))])
            at.store(at.trunc(low, _SHORTS), at.bitcast(place, _SHORTS.as_pointer()), align=1)
            mask = at.bitcast(at.icmp_unsigned("!=", low, high), ir.IntType(LANES))
            doubtful = at.or_(doubtful, at.shl(at.zext(mask, _WORD), _WORD(part * LANES)))
        self.settle(row, column, doubtful)

    def settle(self, row: Any, column: Any, doubtful: Any) -> None:
        """Compute in doubles what one bit each says of."""
        at = self.at
        before = at.block
        head, body, after = (self.function.append_basic_block() for _ in range(3))
        at.branch(head)
        at.position_at_end(head)
        rest = at.phi(_WORD)
        rest.add_incoming(doubtful, before)
        at.cbranch(at.icmp_unsigned("!=", rest, _WORD(0)), body, after)
        at.position_at_end(body)
        lane = at.call(self.first, [rest, _BIT(1)])
        self.exact(row, at.add(column, at.zext(lane, _LONG)))
        rest.add_incoming(at.and_(rest, at.sub(rest, _WORD(1))), at.block)
        at.branch(head)
        at.position_at_end(after)

    def exact(self, row: Any, column: Any) -> None:
        """One value: products of F32 are exact in F64, and are added there term by term."""
        at, columns = self.at, self.counts["columns"]
        start = at.mul(row, self.counts["rank"])
        with self.loop(_LONG(0), self.counts["rank"], 1, [_DOUBLE(0.0)]) as (term, (sum_,), end):
            left = at.fpext(self.number("left", at.add(start, term)), _DOUBLE)
            index = at.add(at.mul(term, columns), column)
            right = at.fpext(self.number("right", index), _DOUBLE)
            end([at.fadd(sum_, at.fmul(left, right))])
        index = at.add(at.mul(row, columns), column)
        change = at.fmul(self.results[0], self.number("scale", _LONG(0), _DOUBLE))
        value = at.fadd(at.fpext(self.weight(index), _DOUBLE), change)
        place = at.gep(self.arrays["out"], [at.shl(index, _LONG(1))])
        at.store(self.short(value), at.bitcast(place, _SHORT.as_pointer()), align=1)

    def short(self, value: Any) -> Any:
        """A double rounded once: by way of an F32 that is cut off, its last bit set for a rest."""
        at = self.at
        single = at.fptrunc(value, _REAL)
        back, bits = at.fpext(single, _DOUBLE), at.bitcast(single, _WORD)
        sizes = [at.and_(at.bitcast(each, _LONG), _LONG((1 << 63) - 1)) for each in (back, value)]
        beyond = at.zext(at.icmp_unsigned(">", *sizes), _WORD)
        inexact = at.zext(at.fcmp_ordered("!=", back, value), _WORD)
        bits = at.or_(at.sub(bits, beyond), inexact)
        odd = at.and_(at.lshr(bits, _WORD(16)), _WORD(1))
        bits = at.add(at.add(bits, _WORD(0x7FFF)), odd)
        return at.trunc(at.lshr(bits, _WORD(16)), _SHORT)

    # Words.

    def halved(self, value: Any) -> Any:
        """F32 to the nearest BF16, halves away from zero: the values are off the halves."""
        half = ir.Constant(_WORDS, [0x8000] * LANES)
        bits = self.at.add(self.at.bitcast(value, _WORDS), half)
        return self.at.lshr(bits, ir.Constant(_WORDS, [16] * LANES))

    def larger(self, one: Any, two: Any) -> Any:
        """The larger of two unsigned numbers, lane by lane."""
        return self.at.select(self.at.icmp_unsigned(">", one, two), one, two)

    def everywhere(self, value: Any) -> Any:
        """A number in every lane."""
        one = self.at.insert_element(ir.Constant(_REALS, ir.Undefined), value, _WORD(0))
        return self.at.shuffle_vector(one, one, ir.Constant(_WORDS, [0] * LANES))

    def number(self, array: str, index: Any, kind: Any = _REAL) -> Any:
        """An element of an array."""
        size = 3 if kind is _DOUBLE else 2
        place = self.at.gep(self.arrays[array], [self.at.shl(index, _LONG(size))])
        return self.at.load(self.at.bitcast(place, kind.as_pointer()), align=1)

    def vector(self, array: str, index: Any, part: int) -> Any:
        """Elements of an array in F32, ``part`` vectors behind an index."""
        start = self.at.shl(self.at.add(index, _LONG(part * LANES)), _LONG(2))
        place = self.at.gep(self.arrays[array], [start])
        return self.at.load(self.at.bitcast(place, _REALS.as_pointer()), align=1)

    def weights(self, index: Any) -> Any:
        """A vector of weights, in F32."""
        if self.item == 4:
            return self.vector("source", index, 0)
        place = self.at.gep(self.arrays["source"], [self.at.shl(index, _LONG(1))])
        shorts = self.at.load(self.at.bitcast(place, _SHORTS.as_pointer()), align=1)
        wide = self.at.shl(self.at.zext(shorts, _WORDS), ir.Constant(_WORDS, [16] * LANES))
        return self.at.bitcast(wide, _REALS)

    def weight(self, index: Any) -> Any:
        """One weight, in F32."""
        if self.item == 4:
            return self.number("source", index)
        place = self.at.gep(self.arrays["source"], [self.at.shl(index, _LONG(1))])
        short = self.at.load(self.at.bitcast(place, _SHORT.as_pointer()), align=1)
        return self.at.bitcast(self.at.shl(self.at.zext(short, _WORD), _WORD(16)), _REAL)

    def store(self, array: str, index: Any, value: Any) -> None:
        """Put an F32 into an array."""
        place = self.at.gep(self.arrays[array], [self.at.shl(index, _LONG(2))])
        self.at.store(value, self.at.bitcast(place, _REAL.as_pointer()), align=1)

    @contextmanager
    def loop(
        self, first: Any, stop: Any, step: int, values: list[Any]
    ) -> Iterator[tuple[Any, list[Any], Callable[[list[Any]], None]]]:
        """A loop over at least one index: the index, the carried values, what ends its body.

        Behind it :attr:`results` has the values of the last round.
        """
        at = self.at
        before, body = at.block, self.function.append_basic_block()
        after = self.function.append_basic_block()
        at.branch(body)
        at.position_at_end(body)
        index, *carried = [at.phi(value.type) for value in (first, *values)]
        for phi, value in zip((index, *carried), (first, *values), strict=True):
            phi.add_incoming(value, before)
        made: list[Any] = []

        def end(results: list[Any]) -> None:
            further = at.add(index, _LONG(step))
            for phi, result in zip((index, *carried), (further, *results), strict=True):
                phi.add_incoming(result, at.block)
            at.cbranch(at.icmp_signed("<", further, stop), body, after)
            made.extend(results)

        yield index, carried, end
        at.position_at_end(after)
        self.results = made
