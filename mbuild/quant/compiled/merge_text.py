"""LLVM's text of a function that adds products of two factors to rows of weights.

It computes in double precision, where a product of two F32 is exact: terms are added one after
another, so that it is all the same whether a processor adds and multiplies at once. The changes
of several adapters are added from the least to the largest, as
:mod:`mbuild.convert.lora.merging` does, and the sum is rounded once, to nearest and to even.
Importing this module imports llvmlite.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from mbuild.gguf.types import GGMLType
from mbuild.quant.compiled.row_text import DOUBLE, LONG, REAL, SHORT, SIZE, WORD, RowText, same

LANES = 8
GROUP = 32
"""Columns that are computed side by side. Rows are made of them."""

TILE = 128
"""Columns of the right factors that stay in the nearest cache while all rows meet them."""

_WORDS, _LONGS, _SHORTS = (ir.VectorType(each, LANES) for each in (WORD, LONG, SHORT))
_REALS, _DOUBLES = (ir.VectorType(each, LANES) for each in (REAL, DOUBLE))
_PARTS = GROUP // LANES

ARRAYS = ("source", "left", "right", "ends", "scales", "tile", "parts", "out")
COUNTS = ("rows", "rank", "columns", "changes")


class MergeText(RowText):
    """The function's text in LLVM's words, for weights of one type that become another's.

    Both are F32, F16 or BF16. Its parameters, arrays as an address and a number of elements: the
    weights (rows, columns); the left factors of all changes beside each other (rows, rank) in
    F64; the right factors below each other (rank, columns) in F32; of each change the rank at
    which it ends (I64), and its scale (F64); room for rank x :data:`TILE` F64, and for changes x
    :data:`GROUP` F64; the weights that come out (rows, columns); rows, rank, columns, changes. It
    returns the bits, as an F32, of the largest magnitude that came out, or somewhat more where
    the type cannot hold it.
    """

    def __init__(self, name: str, stored: GGMLType, made: GGMLType) -> None:
        self.stored, self.made = stored, made
        super().__init__(name, ARRAYS, COUNTS)
        add = ir.FunctionType(_DOUBLES, [_DOUBLES] * 3)
        self.add = ir.Function(self.module, add, f"llvm.fmuladd.v{LANES}f64")

    def write(self) -> str:
        """The whole text."""
        at, rows, columns = self.at, self.counts["rows"], self.counts["columns"]
        with self.loop(LONG(0), columns, TILE, [same(_WORDS, 0)]) as (tile, (top,), end_tile):
            last = at.add(tile, LONG(TILE))
            last = at.select(at.icmp_signed("<", last, columns), last, columns)
            self.widen(tile, last)
            with self.loop(LONG(0), rows, 1, [top]) as (row, (most,), end_row):
                with self.loop(tile, last, GROUP, [most]) as (column, (more,), end_group):
                    end_group([self.group(row, column, tile, more)])
                end_row(self.results)
            end_tile(self.results)
        at.ret(self.largest(self.results[0]))
        return str(self.module)

    # The parts.

    def widen(self, tile: Any, last: Any) -> None:
        """Put some columns of the right factors into ``tile``, as doubles."""
        at, columns = self.at, self.counts["columns"]
        with self.loop(LONG(0), self.counts["rank"], 1, []) as (term, _, end_term):
            with self.loop(tile, last, LANES, []) as (column, _, end):
                index = at.add(at.mul(term, columns), column)
                single = at.load(self.place("right", index, 2, _REALS), align=1)
                own = at.add(at.mul(term, LONG(TILE)), at.sub(column, tile))
                at.store(at.fpext(single, _DOUBLES), self.doubles("tile", own), align=1)
                end([])
            end_term([])

    def group(self, row: Any, column: Any, tile: Any, top: Any) -> Any:
        """Some columns of a row; returns the largest magnitudes so far."""
        at = self.at
        self.products(row, at.sub(column, tile))
        self.order()
        zeros = [same(_DOUBLES, -0.0)] * _PARTS  # what adds nothing, not even to a sign
        with self.loop(LONG(0), self.counts["changes"], 1, zeros) as (change, sums, end):
            index = at.mul(change, LONG(GROUP))
            end([at.fadd(each, self.part(index, part)) for part, each in enumerate(sums)])
        sums = self.results
        index = at.add(at.mul(row, self.counts["columns"]), column)
        for part, total in enumerate(sums):
            own = at.add(index, LONG(part * LANES))
            top = self.larger(top, self.put(own, at.fadd(self.weights(own), total)))
        return top

    def products(self, row: Any, column: Any) -> None:
        """Put into ``parts`` what each change adds to some columns of the tile."""
        at = self.at
        start = at.mul(row, self.counts["rank"])
        zeros = [same(_DOUBLES, 0.0)] * _PARTS
        with self.loop(LONG(0), self.counts["changes"], 1, [LONG(0)]) as (change, (first,), done):
            stop = at.load(self.place("ends", change, 3, LONG), align=1)
            with self.loop(first, stop, 1, zeros) as (term, sums, end):
                factor = self.everywhere("left", at.add(start, term))
                index = at.add(at.mul(term, LONG(TILE)), column)
                right = [self.part(index, part, "tile") for part in range(_PARTS)]
                end([at.call(self.add, [factor, *pair]) for pair in zip(right, sums, strict=True)])
            scale, index = self.everywhere("scales", change), at.mul(change, LONG(GROUP))
            for part, total in enumerate(self.results):
                own = at.add(index, LONG(part * LANES))
                at.store(at.fmul(total, scale), self.doubles("parts", own), align=1)
            done([stop])

    def order(self) -> None:
        """Sort what more than two changes add, of every column for itself."""
        at, changes = self.at, self.counts["changes"]
        several, after = (self.function.append_basic_block() for _ in range(2))
        at.cbranch(at.icmp_signed(">", changes, LONG(2)), several, after)
        at.position_at_end(several)
        last = at.sub(changes, LONG(1))
        with self.loop(LONG(0), last, 1, []) as (_, _, end_round):
            with self.loop(LONG(0), last, 1, []) as (change, _, end):
                lower = at.mul(change, LONG(GROUP))
                upper = at.add(lower, LONG(GROUP))
                for part in range(_PARTS):
                    one, two = self.part(lower, part), self.part(upper, part)
                    wrong = at.fcmp_ordered(">", one, two)
                    for index, values in ((lower, (two, one)), (upper, (one, two))):
                        place = self.doubles("parts", at.add(index, LONG(part * LANES)))
                        at.store(at.select(wrong, *values), place, align=1)
                end([])
            end_round([])
        at.branch(after)
        at.position_at_end(after)

    # Types.

    def weights(self, index: Any) -> Any:
        """A vector of weights, as doubles."""
        at = self.at
        if self.stored is GGMLType.F32:
            single = at.load(self.place("source", index, 2, _REALS), align=1)
            return at.fpext(single, _DOUBLES)
        shorts = at.load(self.place("source", index, 1, _SHORTS), align=1)
        words = at.zext(shorts, _WORDS)
        if self.stored is GGMLType.BF16:
            bits = at.shl(words, same(_WORDS, 16))
        else:
            bits = self.of_half(words)
        return at.fpext(at.bitcast(bits, _REALS), _DOUBLES)

    def of_half(self, words: Any) -> Any:
        """The bits of F16 as those of F32; processors do it, but not all have an instruction."""
        at = self.at
        sign = at.shl(at.and_(words, same(_WORDS, 0x8000)), same(_WORDS, 16))
        size = at.and_(words, same(_WORDS, 0x7FFF))
        moved = at.shl(size, same(_WORDS, 13))
        tiny = at.fmul(at.sitofp(size, _REALS), same(_REALS, 2.0**-24))
        bits = at.select(
            at.icmp_signed("<", size, same(_WORDS, 0x400)),
            at.bitcast(tiny, _WORDS),
            at.add(moved, same(_WORDS, 112 << 23)),
        )
        endless = at.icmp_signed(">=", size, same(_WORDS, 0x7C00))
        bits = at.select(endless, at.or_(moved, same(_WORDS, 0x7F800000)), bits)
        return at.or_(bits, sign)

    def put(self, index: Any, values: Any) -> Any:
        """Round doubles and store them; returns the bits of their magnitudes as F32."""
        at = self.at
        if self.made is GGMLType.F32:
            single = at.fptrunc(values, _REALS)
            at.store(single, self.place("out", index, 2, _REALS), align=1)
            return at.and_(at.bitcast(single, _WORDS), same(_WORDS, SIZE))
        bits = self.cut(values)
        size = at.and_(bits, same(_WORDS, SIZE))
        short = self.to_bfloat(bits) if self.made is GGMLType.BF16 else self.to_half(bits, size)
        at.store(at.trunc(short, _SHORTS), self.place("out", index, 1, _SHORTS), align=1)
        return size

    def cut(self, values: Any) -> Any:
        """Doubles as the bits of F32 that are cut off, the last bit set where there is a rest.

        So a second rounding to fewer bits comes to the same as one of the doubles themselves.
        """
        at = self.at
        single = at.fptrunc(values, _REALS)
        back = at.fpext(single, _DOUBLES)
        sizes = [
            at.and_(at.bitcast(each, _LONGS), same(_LONGS, (1 << 63) - 1))
            for each in (back, values)
        ]
        beyond = at.sext(at.icmp_signed(">", *sizes), _WORDS)
        inexact = at.zext(at.fcmp_unordered("!=", back, values), _WORDS)
        return at.or_(at.add(at.bitcast(single, _WORDS), beyond), inexact)

    # Words.

    def everywhere(self, array: str, index: Any) -> Any:
        """A double of an array in every lane."""
        value = self.at.load(self.place(array, index, 3, DOUBLE), align=1)
        return self.spread(value, _DOUBLES)

    def part(self, index: Any, part: int, array: str = "parts") -> Any:
        """Doubles of an array, ``part`` vectors behind an index."""
        own = self.at.add(index, LONG(part * LANES))
        return self.at.load(self.doubles(array, own), align=1)

    def doubles(self, array: str, index: Any) -> Any:
        """Where a vector of doubles lies."""
        return self.place(array, index, 3, _DOUBLES)
