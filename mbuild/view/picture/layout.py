"""A layered layout: inputs above their users, few crossings, edges as straight as they go.

After Sugiyama, Tagawa and Toda (1981): ranks by the longest way, long edges
split where they pass a rank, the order within ranks by repeated medians, places
by least squares. Pure functions of numbers, with one result for one graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from mbuild.build.network import BuildGraph
from mbuild.core.values import NamedTuple
from mbuild.view.picture.model import neighbours

_ROUNDS = 12
_LARGE = 4000
"""Graphs with more nodes and bends than this get fewer rounds."""

_STRAIGHT = {0: 1.0, 1: 2.0, 2: 8.0}
"""How much an edge's piece wants to be upright, by how many of its ends are bends."""


class Box(NamedTuple):
    """Where a node is: left, top, width and height."""

    x: float
    y: float
    width: float
    height: float


class Layout(NamedTuple):
    """Boxes by node, points by edge (from the lower side of one box to the upper of the other).

    The points of an edge come in pairs: between two of a pair the edge is in the
    gap between two ranks, between two pairs it passes a rank upright.
    """

    boxes: tuple[Box, ...]
    routes: tuple[tuple[tuple[float, float], ...], ...]
    width: float
    height: float


class Spacing(NamedTuple):
    """Room between boxes of a rank, beside an edge that passes, and between ranks."""

    between: float = 22
    edge: float = 14
    ranks: float = 52


SPACING = Spacing()


def ranks(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """A rank for each node, from 0, above those of all its users.

    By the longest way from the top; then what has more edges below it than
    above it moves down to its users, so that edges become shorter.
    """
    before, after = neighbours(count, edges)
    order = BuildGraph(range(count), edges).order()
    rank = [0] * count
    for node in order:
        rank[node] = max((rank[start] + 1 for start in before[node]), default=0)
    for node in reversed(order):
        if after[node] and len(after[node]) > len(before[node]):
            rank[node] = min(rank[user] for user in after[node]) - 1
    lowest = min(rank, default=0)
    return [number - lowest for number in rank]


class _Layers:
    """The graph with a bend for each rank that an edge passes; bends are numbered after nodes."""

    def __init__(self, count: int, edges: Sequence[tuple[int, int]]) -> None:
        self.count = count
        rank = ranks(count, edges)
        self.pieces: list[tuple[int, int]] = []
        self.chains: list[list[int]] = []
        for start, end in edges:
            chain = [start]
            for passed in range(rank[start] + 1, rank[end]):
                rank.append(passed)
                chain.append(len(rank) - 1)
            chain.append(end)
            self.chains.append(chain)
            self.pieces += pairwise(chain)
        self.rank = rank
        self.before, self.after = neighbours(len(rank), self.pieces)
        self.layers: list[list[int]] = [[] for _ in range(max(rank, default=-1) + 1)]
        for node in self._first_order():
            self.layers[rank[node]].append(node)

    def _first_order(self) -> list[int]:
        """Depth first from the top, so that what belongs together starts side by side."""
        seen: dict[int, None] = {}
        for root in (node for node in range(len(self.rank)) if not self.before[node]):
            stack = [root]
            while stack:
                node = stack.pop()
                if node not in seen:
                    seen[node] = None
                    stack.extend(reversed(self.after[node]))
        return list(seen)

    def is_bend(self, node: int) -> bool:
        """Whether it is a place where an edge passes a rank."""
        return node >= self.count


def lay_out(
    sizes: Sequence[tuple[float, float]],
    edges: Sequence[tuple[int, int]],
    spacing: Spacing = SPACING,
) -> Layout:
    """Place boxes of these widths and heights; boxes of one rank get one height.

    Raises ValueError for a graph with a cycle.
    """
    graph = _Layers(len(sizes), edges)
    _order(graph)
    widths = [width for width, _ in sizes] + [0.0] * (len(graph.rank) - len(sizes))
    middles = _places(graph, widths, spacing)
    heights = [
        max((sizes[node][1] for node in layer if not graph.is_bend(node)), default=0.0)
        for layer in graph.layers
    ]
    tops = [0.0]
    for height in heights:
        tops.append(tops[-1] + height + spacing.ranks)
    left = min((middles[n] - widths[n] / 2 for n in range(len(widths))), default=0.0)
    middles = [round(middle - left, 1) for middle in middles]
    boxes = tuple(
        Box(
            round(middles[node] - widths[node] / 2, 1),
            tops[graph.rank[node]],
            widths[node],
            heights[graph.rank[node]],
        )
        for node in range(len(sizes))
    )
    right = max((middles[n] + widths[n] / 2 for n in range(len(widths))), default=0.0)
    bottom = max(tops[-1] - spacing.ranks, 0.0)
    return Layout(boxes, _routes(graph, boxes, middles, tops, heights), right, bottom)


def _order(graph: _Layers) -> None:
    """Order each rank for few crossings: medians down and up, the best order seen counts."""
    rounds = _ROUNDS if len(graph.rank) <= _LARGE else 3
    best, fewest = [list(layer) for layer in graph.layers], _crossings(graph)
    for number in range(rounds):
        if not fewest:
            break
        down = number % 2 == 0
        last = len(graph.layers)
        for place in range(1, last) if down else range(last - 2, -1, -1):
            _sort_layer(graph, place, graph.before if down else graph.after)
        if len(graph.rank) <= _LARGE:
            _swap_neighbours(graph)
        crossings = _crossings(graph)
        if crossings < fewest:
            best, fewest = [list(layer) for layer in graph.layers], crossings
    graph.layers = best


def _sort_layer(graph: _Layers, place: int, fixed: Sequence[Sequence[int]]) -> None:
    """Sort a rank by the middles of its neighbours in the rank above, or below."""
    layer = graph.layers[place]
    at = {node: number for other in graph.layers for number, node in enumerate(other)}

    def middle(node: int) -> float:
        places = sorted(at[other] for other in fixed[node])
        if not places:
            return at[node]
        half = len(places) // 2
        return places[half] if len(places) % 2 else (places[half - 1] + places[half]) / 2

    keys = {node: (middle(node), at[node]) for node in layer}
    layer.sort(key=keys.__getitem__)


def _swap_neighbours(graph: _Layers) -> None:
    """Swap two that stand side by side where that saves crossings."""
    at = {node: number for layer in graph.layers for number, node in enumerate(layer)}
    for layer in graph.layers:
        for number in range(len(layer) - 1):
            a, b = layer[number], layer[number + 1]
            gain = 0
            for sides in (graph.before, graph.after):
                left, right = [at[n] for n in sides[a]], [at[n] for n in sides[b]]
                gain += sum((x > y) - (x < y) for x in left for y in right)
            if gain > 0:
                layer[number], layer[number + 1] = b, a
                at[a], at[b] = number + 1, number


def _crossings(graph: _Layers) -> int:
    """How many pairs of edge pieces cross."""
    from bisect import bisect_right, insort

    at = {node: number for layer in graph.layers for number, node in enumerate(layer)}
    total = 0
    for layer in graph.layers:
        ends: list[int] = []
        for node in layer:
            places = sorted(at[user] for user in graph.after[node])
            total += sum(len(ends) - bisect_right(ends, place) for place in places)
            for place in places:
                insort(ends, place)
    return total


def _places(graph: _Layers, widths: Sequence[float], spacing: Spacing) -> list[float]:
    """The middle of each node: near the mean of its neighbours, in order, never too near."""
    middles = [0.0] * len(widths)
    for layer in graph.layers:
        at = 0.0
        for number, node in enumerate(layer):
            at += _distance(graph, layer, number, widths, spacing)
            middles[node] = at
    for number in range(2 * _ROUNDS):
        last = number >= 2 * _ROUNDS - 2
        sides = [graph.before, graph.after] if last else [[graph.before, graph.after][number % 2]]
        for layer in graph.layers if number % 2 == 0 else reversed(graph.layers):
            wanted, weights = [], []
            for node in layer:
                pulls = [
                    (middles[other], _STRAIGHT[graph.is_bend(node) + graph.is_bend(other)])
                    for side in sides
                    for other in side[node]
                ] or [(middles[node], 0.1)]
                weight = sum(w for _, w in pulls)
                wanted.append(sum(x * w for x, w in pulls) / weight)
                weights.append(weight)
            gaps = [_distance(graph, layer, n, widths, spacing) for n in range(len(layer))]
            for node, x in zip(layer, _apart(wanted, weights, gaps), strict=True):
                middles[node] = x
    return middles


def _distance(
    graph: _Layers, layer: Sequence[int], number: int, widths: Sequence[float], spacing: Spacing
) -> float:
    """The least distance of a node's middle from that of the one to its left."""
    if number == 0:
        return 0.0
    a, b = layer[number - 1], layer[number]
    bend = graph.is_bend(a) or graph.is_bend(b)
    return (widths[a] + widths[b]) / 2 + (spacing.edge if bend else spacing.between)


def _apart(wanted: Sequence[float], weights: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """The places nearest to those wanted, in order and at least the gaps apart.

    Least squares under ``x[i] - x[i-1] >= gaps[i]``: an isotonic regression,
    solved by pooling neighbours that want to pass each other.
    """
    offsets, offset = [], 0.0
    for gap in gaps:
        offset += gap
        offsets.append(offset)
    pools: list[tuple[float, float, int]] = []  # mean, weight, how many
    for want, weight, offset in zip(wanted, weights, offsets, strict=True):
        pool = (want - offset, weight, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, other, count = pools.pop()
            both = other + pool[1]
            pool = ((mean * other + pool[0] * pool[1]) / both, both, count + pool[2])
        pools.append(pool)
    means = [mean for mean, _, count in pools for _ in range(count)]
    return [mean + offset for mean, offset in zip(means, offsets, strict=True)]


def _routes(
    graph: _Layers,
    boxes: Sequence[Box],
    middles: Sequence[float],
    tops: Sequence[float],
    heights: Sequence[float],
) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Each edge's points, from rank to rank; edges of one box part along its side."""
    starts = _ports(graph, boxes, middles, 0)
    ends = _ports(graph, boxes, middles, -1)
    routes = []
    for number, chain in enumerate(graph.chains):
        points = []
        for node in chain:
            rank = graph.rank[node]
            top, bottom = tops[rank], tops[rank] + heights[rank]
            if node == chain[0]:
                points.append((starts[number], bottom))
            elif node == chain[-1]:
                points.append((ends[number], top))
            else:
                points += [(middles[node], top), (middles[node], bottom)]
        routes.append(tuple(points))
    return tuple(routes)


def _ports(graph: _Layers, boxes: Sequence[Box], middles: Sequence[float], end: int) -> list[float]:
    """Where each edge leaves (``end`` 0) or meets (-1) its box, in the order of where it goes."""
    step = 1 if end == 0 else -2
    at: dict[int, list[int]] = {}
    for number, chain in enumerate(graph.chains):
        at.setdefault(chain[end], []).append(number)
    ports = [0.0] * len(graph.chains)
    for node, numbers in at.items():
        numbers.sort(key=lambda number: (middles[graph.chains[number][step]], number))
        box = boxes[node]
        apart = min(16.0, (box.width - 24) / len(numbers))
        for place, number in enumerate(numbers):
            x = box.x + box.width / 2 + (place - (len(numbers) - 1) / 2) * apart
            ports[number] = round(x, 1)
    return ports
