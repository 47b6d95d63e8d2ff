"""Which types lose least within a size: each tensor's types by what they cost and lose.

What a tensor loses is the square of its relative error, times what it counts for. For each
tensor only those types are of use that lie on the lower hull of that over bytes; along the
hulls the next step of all tensors is the one that gains most for each byte, as long as there
is room. That is the best choice for the size that it comes to, and what is left of the room
goes to single tensors that gain most from it.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from mbuild.core.values import NamedTuple
from mbuild.gguf.types import GGMLType


class TypeChoice(NamedTuple):
    """A type that a tensor may get: the tensor's bytes in it, and what it loses."""

    type: GGMLType
    size: int
    loss: float


def choose(tensors: Sequence[Sequence[TypeChoice]], room: int) -> list[TypeChoice] | None:
    """For each tensor the choice of its own; all together take at most ``room`` bytes.

    None where not even the smallest of each fit.
    """
    hulls = [_hull(choices) for choices in tensors]
    taken = [0] * len(hulls)
    left = room - sum(hull[0].size for hull in hulls)
    if left < 0:
        return None
    heap = [_gain(hull, 0, number) for number, hull in enumerate(hulls) if len(hull) > 1]
    heapq.heapify(heap)
    while heap:
        _, number = heapq.heappop(heap)
        hull, at = hulls[number], taken[number]
        cost = hull[at + 1].size - hull[at].size
        if cost > left:
            continue
        left -= cost
        taken[number] += 1
        if taken[number] + 1 < len(hull):
            heapq.heappush(heap, _gain(hull, taken[number], number))
    found = [hull[at] for hull, at in zip(hulls, taken, strict=True)]
    return _filled(tensors, found, left)


def least(tensors: Sequence[Sequence[TypeChoice]]) -> int:
    """The bytes of the smallest choice of all tensors."""
    return sum(min(choice.size for choice in choices) for choices in tensors)


def _hull(choices: Sequence[TypeChoice]) -> list[TypeChoice]:
    """The choices on the lower hull of loss over size, the smallest first, losing less each."""
    hull: list[TypeChoice] = []
    for choice in sorted(choices, key=lambda each: (each.size, each.loss)):
        if hull and choice.loss >= hull[-1].loss:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-2], choice):
            hull.pop()
        hull.append(choice)
    return hull


def _slope(a: TypeChoice, b: TypeChoice) -> float:
    """What the way from one to the other gains for each byte."""
    return (a.loss - b.loss) / (b.size - a.size) if b.size > a.size else 0.0


def _gain(hull: Sequence[TypeChoice], at: int, number: int) -> tuple[float, int]:
    return -_slope(hull[at], hull[at + 1]), number


def _filled(
    tensors: Sequence[Sequence[TypeChoice]], found: list[TypeChoice], left: int
) -> list[TypeChoice]:
    """What is left of the room, spent where it gains most: types off the hull count, too."""
    while True:
        best, where = 0.0, -1
        better: TypeChoice | None = None
        for number, (choices, own) in enumerate(zip(tensors, found, strict=True)):
            for choice in choices:
                gain = own.loss - choice.loss
                if gain > best and choice.size - own.size <= left:
                    best, where, better = gain, number, choice
        if better is None:
            return found
        left -= better.size - found[where].size
        found[where] = better
