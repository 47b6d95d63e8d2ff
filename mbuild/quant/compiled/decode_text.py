"""LLVM's text of a function that makes numbers of rows of codes: (code - zero point) times scale.

Each step rounds once in F32, and the product once more to the type that is asked for, both to
nearest and to even. Importing this module imports llvmlite.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from mbuild.gguf.types import GGMLType
from mbuild.quant.compiled.row_text import BYTE, LONG, REAL, SHORT, SIZE, WORD, RowText, same

LANES = 32
"""Values that are made side by side. Groups of a row are made of them."""

_BYTES, _WORDS, _SHORTS, _REALS = (ir.VectorType(each, LANES) for each in (BYTE, WORD, SHORT, REAL))

ARRAYS = ("codes", "factors", "points", "out")
COUNTS = ("rows", "width", "group")

E4M3, I8, U8, U4 = "e4m3", "i8", "u8", "u4"
"""Kinds of codes: floats of 8 bits with four for the exponent, whole numbers with a sign and
without, and two of 4 bits in a byte, the first in its lower half."""


class DecodeText(RowText):
    """The function's text in LLVM's words, for one kind of codes that become F32, F16 or BF16.

    Its parameters, arrays as an address and a number of elements: the codes (rows, width); factors
    and, with ``points``, zero points (rows, groups) in F32; the values that come out; rows,
    width, and the values of a group, of which a row's last one may have fewer. It returns the bits,
    as an F32, of the largest magnitude that came out, and 2**32 - 1 where a code is no number.
    """

    def __init__(self, name: str, kind: str, points: bool, made: GGMLType) -> None:
        self.kind, self.points, self.made = kind, points, made
        super().__init__(name, ARRAYS, COUNTS)

    def write(self) -> str:
        """The whole text."""
        at, width, group = self.at, self.counts["width"], self.counts["group"]
        groups = at.sdiv(at.sub(at.add(width, group), LONG(1)), group)
        top = same(_WORDS, 0)
        with self.loop(LONG(0), self.counts["rows"], 1, [top]) as (row, (most,), end_row):
            start, own = at.mul(row, width), at.mul(row, groups)
            with self.loop(LONG(0), groups, 1, [most]) as (number, (more,), end_group):
                first = at.mul(number, group)
                last = at.add(first, group)
                last = at.select(at.icmp_signed("<", last, width), last, width)
                numbers = self.of_group(at.add(own, number))
                with self.loop(first, last, LANES, [more]) as (column, (largest,), end):
                    index = at.add(start, column)
                    end([self.larger(largest, self.made_of(index, *numbers))])
                end_group(self.results)
            end_row(self.results)
        at.ret(self.largest(self.results[0]))
        return str(self.module)

    def of_group(self, index: Any) -> list[Any]:
        """A group's factor, and its zero point, in every lane."""
        names = ("factors", "points")[: 1 + self.points]
        loaded = (self.at.load(self.place(name, index, 2, REAL), align=1) for name in names)
        return [self.spread(value, _REALS) for value in loaded]

    def made_of(self, index: Any, factor: Any, point: Any = None) -> Any:
        """Some values from an index on, stored; returns their magnitudes' bits."""
        at = self.at
        values, wrong = self.numbers(index)
        if point is not None:
            values = at.fsub(values, point)
        bits = at.bitcast(at.fmul(values, factor), _WORDS)
        size = at.and_(bits, same(_WORDS, SIZE))
        if self.made is GGMLType.F32:
            at.store(bits, self.place("out", index, 2, _WORDS), align=1)
        else:
            half = self.made is GGMLType.F16
            short = self.to_half(bits, size) if half else self.to_bfloat(bits)
            at.store(at.trunc(short, _SHORTS), self.place("out", index, 1, _SHORTS), align=1)
        return size if wrong is None else at.or_(size, at.sext(wrong, _WORDS))

    def numbers(self, index: Any) -> tuple[Any, Any]:
        """Some codes as F32, and which are none; None where every code is one."""
        at = self.at
        if self.kind == U4:
            return at.uitofp(self.halves(index), _REALS), None
        codes = at.load(self.place("codes", index, 0, _BYTES), align=1)
        if self.kind == U8:
            return at.uitofp(codes, _REALS), None
        if self.kind == I8:
            return at.sitofp(codes, _REALS), None
        return self.floats(at.zext(codes, _WORDS)), at.icmp_unsigned(
            "==", at.or_(codes, same(_BYTES, 0x80)), same(_BYTES, 0xFF)
        )

    def floats(self, codes: Any) -> Any:
        """E4M3 as F32: bits in other places, with 120 more on the exponent.

        Below the least exponent a value is what is above one with that exponent. No number of F32
        is so small on the way that a processor would take a hundred times as long for it.
        """
        at, least = self.at, 121 << 23
        size = at.shl(at.and_(codes, same(_WORDS, 0x7F)), same(_WORDS, 20))
        sign = at.shl(at.and_(codes, same(_WORDS, 0x80)), same(_WORDS, 24))
        above = at.bitcast(at.add(size, same(_WORDS, least)), _REALS)
        small = at.fsub(above, same(_REALS, 2.0**-6))
        values = at.select(
            at.icmp_unsigned("<", size, same(_WORDS, 1 << 23)),
            at.bitcast(small, _WORDS),
            at.add(size, same(_WORDS, 120 << 23)),
        )
        return at.bitcast(at.or_(values, sign), _REALS)

    def halves(self, index: Any) -> Any:
        """The two codes of each of some bytes, one behind the other."""
        at, few = self.at, ir.VectorType(BYTE, LANES // 2)
        place = self.place("codes", at.lshr(index, LONG(1)), 0, few)
        both = at.load(place, align=1)
        lower, upper = at.and_(both, same(few, 15)), at.lshr(both, same(few, 4))
        order = [n // 2 + n % 2 * (LANES // 2) for n in range(LANES)]
        return at.shuffle_vector(lower, upper, ir.Constant(ir.VectorType(WORD, LANES), order))
