"""LLVM's text of a function that moves codes of four bits to where ggml's blocks have them.

A byte of the source holds two values of a run that lie side by side, a byte of a block two that
lie half a run apart. Importing this module imports llvmlite.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from mbuild.quant.compiled.row_text import BYTE, LONG, WORD, RowText, same

ARRAYS = ("codes", "scales", "out")
COUNTS = ("blocks",)


class RepackText(RowText):
    """The function's text in LLVM's words, for blocks of ``scales`` bytes of scales and as many
    runs of ``half`` bytes of codes.

    Its parameters, arrays as an address and a number of elements: the codes; the scales; the blocks
    that come out, each its scales and then its codes; how many there are. It returns 0.
    """

    def __init__(self, name: str, scales: int, half: int) -> None:
        self.scales, self.half = scales, half
        super().__init__(name, ARRAYS, COUNTS)

    def write(self) -> str:
        """The whole text."""
        at, count = self.at, self.scales * self.half
        codes, scales = ir.VectorType(BYTE, count), ir.VectorType(BYTE, self.scales)
        with self.loop(LONG(0), self.counts["blocks"], 1, []) as (block, _, end):
            own = at.mul(block, LONG(self.scales + count))
            place = self.place("scales", at.mul(block, LONG(self.scales)), 0, scales)
            at.store(at.load(place, align=1), self.place("out", own, 0, scales), align=1)
            place = self.place("codes", at.mul(block, LONG(count)), 0, codes)
            moved = self.moved(at.load(place, align=1))
            at.store(moved, self.place("out", at.add(own, LONG(self.scales)), 0, codes), align=1)
            end([])
        at.ret(LONG(0))
        return str(self.module)

    def moved(self, codes: Any) -> Any:
        """A block's codes: of each byte the lower half is of a run's first half, the other of its
        second."""
        at, kind = self.at, codes.type
        places = range(kind.count)
        first = [place // self.half * self.half + place % self.half // 2 for place in places]
        lower, upper = (
            at.shuffle_vector(codes, codes, ir.Constant(ir.VectorType(WORD, kind.count), order))
            for order in (first, [place + self.half // 2 for place in first])
        )
        four, low, high = same(kind, 4), same(kind, 0x0F), same(kind, 0xF0)
        even = at.or_(at.and_(lower, low), at.shl(upper, four))
        odd = at.or_(at.lshr(lower, four), at.and_(upper, high))
        is_odd = ir.Constant(ir.VectorType(ir.IntType(1), kind.count), [n % 2 for n in places])
        return at.select(is_odd, odd, even)
