"""LLVM's text of a function that digests many chunks of BLAKE3, or many parents, at once.

One input is in each lane of a register. Source: the BLAKE3 specification,
https://github.com/BLAKE3-team/BLAKE3-specs. Importing this module imports llvmlite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

LANES = 8
"""Words in a register of 256 bits; with 16 it is slower on Zen 4, where registers run out."""

IV = (
    *(0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A),
    *(0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19),
)
"""The specification's initial words, which are SHA-256's."""

ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
"""Which word of a block the next round has at each place."""

COLUMNS = ((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15))
DIAGONALS = ((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))
"""The words of the state that are mixed with two words of the block each, column by column."""

_VALUE, _BLOCK = 32, 64
_WORD, _LONG = ir.IntType(32), ir.IntType(64)
_WORDS, _LONGS = ir.VectorType(_WORD, LANES), ir.VectorType(_LONG, LANES)
_PLACE = ir.IntType(8).as_pointer()


class ChunksText:
    """The function's text in LLVM's words.

    Its parameters: the inputs, one behind the other, and their bytes; how many blocks of 64
    bytes an input has; the number of the first, and what is added for each further one; flags of
    all blocks, of an input's first and of its last; the bytes of the last block that count; the
    memory for what comes out, 32 bytes each, which may be that of the inputs, and its size.
    """

    def __init__(self, name: str) -> None:
        self.module = ir.Module(name)
        turn = ir.FunctionType(_WORDS, [_WORDS] * 3)
        self.turn = ir.Function(self.module, turn, f"llvm.fshr.v{LANES}i32")
        kind = ir.FunctionType(_LONG, [_PLACE, *[_LONG] * 8, _PLACE, _LONG])
        self.function = ir.Function(self.module, kind, name)
        self.at = ir.IRBuilder(self.function.append_basic_block("begin"))

    def everywhere(self, value: Any) -> Any:
        """A number in every lane."""
        if isinstance(value, int):
            return ir.Constant(_WORDS, [value] * LANES)
        kind = ir.VectorType(value.type, LANES)
        one = self.at.insert_element(ir.Constant(kind, ir.Undefined), value, _WORD(0))
        return self.at.shuffle_vector(one, one, ir.Constant(_WORDS, [0] * LANES))

    def loop(self, count: Any, values: list[Any]) -> tuple[Any, list[Any], Callable[..., None]]:
        """Begin a loop from 0 to ``count``; its index, its values, and what ends its body."""
        at = self.at
        before, body = at.block, self.function.append_basic_block()
        after = self.function.append_basic_block()
        at.branch(body)
        at.position_at_end(body)
        carried = [at.phi(value.type) for value in (_LONG(0), *values)]
        for phi, value in zip(carried, (_LONG(0), *values), strict=True):
            phi.add_incoming(value, before)

        def end(step: int, results: list[Any]) -> None:
            further = at.add(carried[0], _LONG(step))
            for phi, result in zip(carried, (further, *results), strict=True):
                phi.add_incoming(result, at.block)
            at.cbranch(at.icmp_signed("<", further, count), body, after)
            at.position_at_end(after)

        return carried[0], carried[1:], end

    def transposed(self, rows: list[Any]) -> list[Any]:
        """As many vectors as there are lanes, their lanes exchanged with their places."""
        lanes, step = range(LANES), 1
        while step < LANES:
            first = [n - step + LANES if n & step else n for n in lanes]
            second = [n + LANES if n & step else n + step for n in lanes]
            for low in (n for n in lanes if not n & step):
                pair = rows[low], rows[low + step]
                for number, order in ((low, first), (low + step, second)):
                    rows[number] = self.at.shuffle_vector(*pair, ir.Constant(_WORDS, order))
            step *= 2
        return rows

    def block(self, places: list[Any], offset: Any) -> list[Any]:
        """A block's sixteen words, each a vector of what the lanes have at its place."""
        words = []
        for part in range(0, _BLOCK, 4 * LANES):
            rows = []
            for place in places:
                there = self.at.gep(place, [self.at.add(offset, _LONG(part))])
                pointer = self.at.bitcast(there, _WORDS.as_pointer())
                rows.append(self.at.load(pointer, align=1))
            words += self.transposed(rows)
        return words

    def mix(self, state: list[Any], words: list[Any]) -> None:
        """The specification's G on four columns or diagonals, which are mixed side by side."""
        at = self.at

        def turn(place: int, other: int, count: int) -> None:
            value = at.xor(state[place], state[other])
            state[place] = at.call(self.turn, [value, value, self.everywhere(count)])

        places = DIAGONALS if len(words) < 16 else COLUMNS
        for number, (first, second) in enumerate(((16, 12), (8, 7))):
            for place, (a, b, _, _) in enumerate(places):
                state[a] = at.add(at.add(state[a], words[2 * place + number]), state[b])
            for a, _, _, d in places:
                turn(d, a, first)
            for _, _, c, d in places:
                state[c] = at.add(state[c], state[d])
            for _, b, c, _ in places:
                turn(b, c, second)

    def compress(self, chain: list[Any], words: list[Any], others: list[Any]) -> list[Any]:
        """What eight words become after one more block; ``others`` are the state's last four."""
        state = [*chain, *map(self.everywhere, IV[:4]), *others]
        for number in range(7):
            self.mix(state, words)
            self.mix(state, words[8:])
            if number < 6:
                words = [words[n] for n in ORDER]
        return [self.at.xor(state[n], state[n + 8]) for n in range(8)]

    def write(self) -> str:
        """The whole function: a loop over inputs, as many at once as there are lanes."""
        at = self.at
        source, size, blocks, counter, step, always, first, last, length, out, _ = (
            self.function.args
        )
        inputs = at.sdiv(size, at.mul(blocks, _LONG(_BLOCK)))
        index, _, next_inputs = self.loop(inputs, [])
        # Lanes beyond the last input do that one again, and write the same in the same place.
        own = at.add(self.everywhere(index), ir.Constant(_LONGS, list(range(LANES))))
        most = self.everywhere(at.sub(inputs, _LONG(1)))
        own = at.select(at.icmp_signed("<", own, most), own, most)
        counters = at.add(self.everywhere(counter), at.mul(own, self.everywhere(step)))
        upper = at.lshr(counters, ir.Constant(_LONGS, [32] * LANES))
        numbers = [at.extract_element(own, _WORD(n)) for n in range(LANES)]
        places = [at.gep(source, [at.mul(at.mul(n, blocks), _LONG(_BLOCK))]) for n in numbers]
        number, chain, next_block = self.loop(blocks, [self.everywhere(value) for value in IV])
        is_first = at.icmp_signed("==", number, _LONG(0))
        is_last = at.icmp_signed("==", at.add(number, _LONG(1)), blocks)
        flags = at.or_(always, at.select(is_first, first, _LONG(0)))
        flags = at.or_(flags, at.select(is_last, last, _LONG(0)))
        sizes = at.select(is_last, length, _LONG(_BLOCK))
        others = [at.trunc(counters, _WORDS), at.trunc(upper, _WORDS)]
        others += [self.everywhere(at.trunc(value, _WORD)) for value in (sizes, flags)]
        words = self.block(places, at.mul(number, _LONG(_BLOCK)))
        chain = self.compress(chain, words, others)
        next_block(1, chain)
        for n, value in zip(numbers, self.transposed(chain), strict=True):
            there = at.gep(out, [at.mul(n, _LONG(_VALUE))])
            at.store(value, at.bitcast(there, _WORDS.as_pointer()), align=1)
        next_inputs(LANES, [])
        at.ret(_LONG(0))
        return str(self.module)
