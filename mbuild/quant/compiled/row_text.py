"""What LLVM's texts of functions over rows of weights have in common: loops, places, roundings.

Importing this module imports llvmlite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

WORD, LONG, SHORT, BYTE, BIT = (ir.IntType(size) for size in (32, 64, 16, 8, 1))
REAL, DOUBLE = ir.FloatType(), ir.DoubleType()
PLACE = BYTE.as_pointer()
SIGN, SIZE = 1 << 31, (1 << 31) - 1


class RowText:
    """A function whose parameters are arrays, each an address and a number of elements, and counts.

    It returns a number of 64 bits.
    """

    def __init__(self, name: str, arrays: Sequence[str], counts: Sequence[str]) -> None:
        self.module = ir.Module(name)
        words = [word for _ in arrays for word in (PLACE, LONG)] + [LONG] * len(counts)
        self.function = ir.Function(self.module, ir.FunctionType(LONG, words), name)
        arguments = self.function.args
        self.arrays = dict(zip(arrays, arguments[: 2 * len(arrays) : 2], strict=True))
        self.counts = dict(zip(counts, arguments[2 * len(arrays) :], strict=True))
        self.at = ir.IRBuilder(self.function.append_basic_block("begin"))
        self.results: list[Any] = []

    def to_bfloat(self, bits: Any) -> Any:
        """The bits of F32 as those of BF16, to nearest and to even."""
        at = self.at
        odd = at.and_(at.lshr(bits, same(bits.type, 16)), same(bits.type, 1))
        bits = at.add(at.add(bits, same(bits.type, 0x7FFF)), odd)
        return at.lshr(bits, same(bits.type, 16))

    def to_half(self, bits: Any, size: Any) -> Any:
        """The bits of F32 as those of F16; ``size`` is without the sign. Too large ones are wrong.

        Small ones are added to one half, whose last bit is the unit of F16's small ones.
        """
        at, words = self.at, bits.type
        reals = ir.VectorType(REAL, words.count)
        sign = at.lshr(at.and_(bits, same(words, SIGN)), same(words, 16))
        odd = at.and_(at.lshr(size, same(words, 13)), same(words, 1))
        moved = at.add(at.add(size, same(words, 0xFFF - (112 << 23))), odd)
        tiny = at.bitcast(at.fadd(at.bitcast(size, reals), same(reals, 0.5)), words)
        short = at.select(
            at.icmp_signed("<", size, same(words, 113 << 23)),
            at.sub(tiny, same(words, 0x3F000000)),
            at.lshr(moved, same(words, 13)),
        )
        return at.or_(short, sign)

    def larger(self, one: Any, two: Any) -> Any:
        """The larger of two unsigned numbers, lane by lane."""
        return self.at.select(self.at.icmp_unsigned(">", one, two), one, two)

    def largest(self, values: Any) -> Any:
        """The largest of a vector's unsigned numbers, with 64 bits."""
        at = self.at
        lanes = [at.extract_element(values, WORD(lane)) for lane in range(values.type.count)]
        while len(lanes) > 1:
            lanes = [self.larger(*pair) for pair in zip(lanes[::2], lanes[1::2], strict=True)]
        return at.zext(lanes[0], LONG)

    def spread(self, value: Any, kind: Any) -> Any:
        """A number in every lane of a vector."""
        one = self.at.insert_element(ir.Constant(kind, ir.Undefined), value, WORD(0))
        return self.at.shuffle_vector(one, one, same(ir.VectorType(WORD, kind.count), 0))

    def place(self, array: str, index: Any, shift: int, kind: Any) -> Any:
        """Where an element lies, or what begins with it, in an array of 2**shift bytes each."""
        place = self.at.gep(self.arrays[array], [self.at.shl(index, LONG(shift))])
        return self.at.bitcast(place, kind.as_pointer())

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
            further = at.add(index, LONG(step))
            for phi, result in zip((index, *carried), (further, *results), strict=True):
                phi.add_incoming(result, at.block)
            at.cbranch(at.icmp_signed("<", further, stop), body, after)
            made.extend(results)

        yield index, carried, end
        at.position_at_end(after)
        self.results = made


def same(kind: Any, value: float) -> Any:
    """A vector of one number."""
    return ir.Constant(kind, [value] * kind.count)
