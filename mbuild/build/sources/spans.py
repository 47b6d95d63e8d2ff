"""A file's BLAKE3 made of what is read of it anyway, in whatever order and on any threads.

Whoever reads weights hands the very bytes on, so that nobody has to read the file a second
time. What nobody read is read in the end.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from mbuild.core.digest import BLAKE3, Digest
from mbuild.core.values import NamedTuple
from mbuild.quant.compiled.chunks import (
    CHUNK,
    VALUE,
    chunks,
    last_chunk,
    parents,
    why_unavailable,
)
from mbuild.quant.engine import Bytes
from mbuild.store.copying import OpenFile
from mbuild.work.spread import Part, spread

_GAP = 8 << 20
_PAIRS = 16  # neighbours that are left to be put together with others
_FEW = 4096  # subtrees that wait for others, and for being put together with them in one go


def digest_of(file: OpenFile, progress: Callable[[int, int], None]) -> Digest | None:
    """A large file's BLAKE3, made on all cores; None where that cannot be done."""
    if not hasattr(os, "preadv") or why_unavailable() is not None:
        return None
    spans = Spans(file.size)
    read_missing({file.name: (file, spans)}, progress)
    return spans.digest()


def read_missing(
    files: Mapping[str, tuple[OpenFile, Spans]], progress: Callable[[int, int], None]
) -> None:
    """Read what nobody brought, on all cores; ``progress``: bytes done, bytes in all."""

    def read(rest: tuple[OpenFile, Spans, int, int], part: Part) -> None:
        file, spans, start, stop = rest
        part.at(0)
        data = memoryview(bytearray(stop - start))
        file.fill(data, start)
        spans.add(start, data)
        part.at(len(data))

    rest = [(*pair, *place) for pair in files.values() for place in pair[1].missing()]
    if rest:
        total = sum(stop - start for *_, start, stop in rest)
        spread(read, rest, total, progress, name="mbuild-hash")


class SpanPart(NamedTuple):
    """What a part of a file adds to its digest, made by whoever has read it, perhaps elsewhere.

    ``nodes`` are complete subtrees: level, place, value; ``odd`` are the bytes at its ends that
    are no whole chunk, and where they begin.
    """

    start: int
    stop: int
    nodes: tuple[tuple[int, int, Bytes], ...]
    odd: tuple[tuple[int, bytes], ...]


class Spans:
    """One file of ``size`` bytes, more than a chunk of 1024; any thread may call it.

    ``_nodes`` are the values of complete subtrees by their level and their place in it. What
    neighbours give is made of many at once now and then, because a call costs more than a
    pair does. ``_odd`` are the bytes of chunks of which a part was read, and how many they are.
    """

    def __init__(self, size: int) -> None:
        assert size > CHUNK
        self._size = size
        self._chunks = -(-size // CHUNK)
        self._lock = threading.Lock()
        self._taken: list[tuple[int, int]] = []
        self._nodes: dict[tuple[int, int], Bytes] = {}
        self._most = _FEW
        self._odd: dict[int, tuple[bytearray, int]] = {}

    def add(self, start: int, data: memoryview) -> None:
        """Bytes of the file from ``start`` on; those that somebody brought before do not count."""
        for first, stop in self._claimed(start, start + len(data)):
            self._digest(first, data[first - start : stop - start])

    def part(self, start: int, data: memoryview) -> SpanPart:
        """What bytes of the file from ``start`` on add to the digest; nothing is changed."""
        first = -(-start // CHUNK)
        count = max((start + len(data)) // CHUNK - first, 0)
        head = min(first * CHUNK - start, len(data))
        nodes: tuple[tuple[int, int, Bytes], ...] = ()
        if count:
            whole = np.frombuffer(data[head : head + count * CHUNK], np.uint8)
            nodes = tuple(self._merged(chunks(whole, first), first))
        end = head + count * CHUNK
        odd = ((start, bytes(data[:head])), (start + end, bytes(data[end:])))
        return SpanPart(start, start + len(data), nodes, tuple(row for row in odd if row[1]))

    def absorb(self, part: SpanPart) -> None:
        """Take a part that somebody else has read; one of which some was brought before is left.

        What is left of it is missing, and will be read.
        """
        with self._lock:
            low = bisect_left(self._taken, part.start, key=lambda taken: taken[1])
            for start, stop in self._taken[low : low + 2]:
                if start < part.stop and stop > part.start:
                    return
        if self._claimed(part.start, part.stop) == [(part.start, part.stop)]:
            self._enter(part)

    def parts(self) -> Iterator[SpanPart]:
        """What was brought so far, in as few parts as can be, for somebody else's digest."""
        with self._lock:
            self._put_together()
            for start, stop in self._taken:
                nodes = tuple(
                    (level, place, value)
                    for (level, place), value in self._nodes.items()
                    if start <= (place << level) * CHUNK < stop
                )
                edges = {start // CHUNK, stop // CHUNK} & self._odd.keys()
                yield SpanPart(start, stop, nodes, tuple(self._edge(n, start, stop) for n in edges))

    def _edge(self, number: int, start: int, stop: int) -> tuple[int, bytes]:
        """What a range of bytes has of a chunk that nobody has brought whole."""
        first = number * CHUNK
        low, high = max(start, first), min(stop, first + CHUNK)
        return low, bytes(self._odd[number][0][low - first : high - first])

    def missing(self) -> Iterator[tuple[int, int]]:
        """Where the bytes lie that nobody brought, in pieces: from, to."""
        at = 0
        for start, stop in [*self._taken, (self._size, self._size)]:
            for first in range(at, start, _GAP):
                yield first, min(first + _GAP, start)
            at = stop

    def digest(self) -> Digest:
        """The file's digest, once all its bytes were brought."""
        with self._lock:
            self._put_together()
        return Digest(self._value(0, self._chunks, root=True).tobytes().hex(), BLAKE3)

    def _claimed(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Which parts of a range nobody has brought; from now on they count as brought."""
        with self._lock:
            low = bisect_left(self._taken, start, key=lambda taken: taken[1])
            high, at, free = low, start, []
            while high < len(self._taken) and self._taken[high][0] <= stop:
                if at < self._taken[high][0]:
                    free.append((at, self._taken[high][0]))
                at = self._taken[high][1]
                high += 1
            if at < stop:
                free.append((at, stop))
            around = self._taken[low:high]
            if around:
                start, stop = min(start, around[0][0]), max(stop, around[-1][1])
            self._taken[low:high] = [(start, stop)]
            return free

    def _digest(self, start: int, data: memoryview) -> None:
        """Put a part of the file into the tree: whole chunks, and what is odd at its ends."""
        self._enter(self.part(start, data))

    def _enter(self, part: SpanPart) -> None:
        with self._lock:
            for level, place, value in part.nodes:
                self._nodes[level, place] = value
            if len(self._nodes) > self._most:
                self._put_together()
                self._most = max(_FEW, 2 * len(self._nodes))
        for start, odd in part.odd:
            self._keep(start, odd)

    def _merged(self, values: Bytes, first: int) -> Iterator[tuple[int, int, Bytes]]:
        """The few complete subtrees that neighbouring chunks are: level, place, value."""
        level, last = 0, first + values.size // VALUE
        while last - first > _PAIRS:
            top = self._is_top(level)
            if top or first % 2:
                yield level, first, values[:VALUE].copy()
                first, values = first + 1, values[VALUE:]
            if first < last and (top or last % 2):
                yield level, last - 1, values[-VALUE:].copy()
                last, values = last - 1, values[:-VALUE]
            if first < last and not top:
                values = parents(values)
                level, first, last = level + 1, first // 2, last // 2
        for place in range(first, last):
            yield level, place, values[(place - first) * VALUE :][:VALUE].copy()

    def _is_top(self, level: int) -> bool:
        """Whether the parent of two nodes of a level is the root, which is made in the end."""
        return 2 << level >= self._chunks

    def _put_together(self) -> None:
        """Make one subtree of each two neighbours, level by level; the lock is held."""
        levels: list[dict[int, Bytes]] = [{} for _ in range(self._chunks.bit_length())]
        for (level, place), value in self._nodes.items():
            levels[level][place] = value
        for level, nodes in enumerate(levels):
            pairs = [place for place in nodes if not place % 2 and place + 1 in nodes]
            if not pairs or self._is_top(level):
                continue
            made = parents(
                np.concatenate([nodes.pop(place + n) for place in pairs for n in (0, 1)])
            )
            for number, place in enumerate(pairs):
                value = made[number * VALUE : (number + 1) * VALUE].copy()
                levels[level + 1][place // 2] = value
        self._nodes = {
            (level, place): value
            for level, nodes in enumerate(levels)
            for place, value in nodes.items()
        }

    def _keep(self, start: int, data: bytes) -> None:
        """Remember a part of one chunk until the rest of it is there."""
        if not data:
            return
        number = start // CHUNK
        whole = min(CHUNK, self._size - number * CHUNK)
        with self._lock:
            held, count = self._odd.pop(number, (bytearray(whole), 0))
            at = start - number * CHUNK
            held[at : at + len(data)] = data
            if count + len(data) < whole:
                self._odd[number] = held, count + len(data)
            else:
                self._nodes[0, number] = last_chunk(bytes(held), number)

    def _value(self, first: int, last: int, *, root: bool = False) -> Bytes:
        """The value of the subtree of some chunks: the largest power of two that is less, left."""
        count = last - first
        level = (count - 1).bit_length()
        found = None if root else self._nodes.get((level, first >> level))
        if found is not None:
            return found
        middle = first + (1 << (level - 1))
        pair = np.concatenate((self._value(first, middle), self._value(middle, last)))
        return parents(pair, root=root)
