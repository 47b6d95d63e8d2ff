"""Less to look at: edges that others imply go, and many nodes alike become one."""

from __future__ import annotations

from collections.abc import Iterable

from mbuild.build.network import BuildGraph
from mbuild.view.picture.model import Node, Picture, neighbours

MOST_ALIKE = 8
"""As many nodes of one kind between the same neighbours are drawn one by one."""

_LISTED = 40


def simplify_picture(picture: Picture) -> Picture:
    """Without implied edges, and with many nodes alike as one."""
    return fold_chains(reduce_edges(picture))


def reduce_edges(picture: Picture) -> Picture:
    """Without the edges that a longer way implies (the transitive reduction)."""
    graph = BuildGraph(range(len(picture.nodes)), picture.edges)
    return picture._replace(edges=tuple(graph.reduced()))


def fold_chains(picture: Picture, most: int = MOST_ALIKE) -> Picture:
    """More than ``most`` nodes that look alike between the same neighbours become one.

    What only one node uses (its own source) counts as part of that node, and is
    folded after it.
    """
    private = _own_sources(picture)
    once = _fold(picture, most, private)
    return _fold(once, most, frozenset())


def _own_sources(picture: Picture) -> frozenset[int]:
    """Nodes with nothing before them and one after them."""
    before, after = neighbours(len(picture.nodes), picture.edges)
    return frozenset(
        node for node in range(len(picture.nodes)) if not before[node] and len(after[node]) == 1
    )


def _fold(picture: Picture, most: int, ignored: frozenset[int]) -> Picture:
    before, after = neighbours(len(picture.nodes), picture.edges)
    groups: dict[tuple[object, ...], list[int]] = {}
    for place, node in enumerate(picture.nodes):
        around = frozenset(before[place]) - ignored, frozenset(after[place])
        key = (node.role, node.look, node.kind, around)
        groups.setdefault((place,) if place in ignored else key, []).append(place)
    stands_for: dict[int, int] = {}
    nodes: list[Node] = []
    for group in sorted(_parts(groups.values(), most)):
        stands_for.update(dict.fromkeys(group, len(nodes)))
        members = [picture.nodes[place] for place in group]
        nodes.append(members[0] if len(members) == 1 else _one_for(members))
    edges = {(stands_for[start], stands_for[end]) for start, end in picture.edges}
    return picture._replace(nodes=tuple(nodes), edges=tuple(sorted(edges)))


def _parts(groups: Iterable[list[int]], most: int) -> list[list[int]]:
    """Large groups as they are, small ones taken apart."""
    return [
        part
        for group in groups
        for part in ([group] if len(group) > most else [[place] for place in group])
    ]


def _one_for(members: list[Node]) -> Node:
    """One node that stands for many."""
    first, rest = members[0], len(members) - 1
    names = [node.label for node in members[:_LISTED]]
    more = [f"and {len(members) - _LISTED} more"] if len(members) > _LISTED else []
    title = "\n".join([f"{len(members)} nodes that look alike:", *names, *more])
    same = all(node.facts == first.facts for node in members)
    each = (f"{fact} each" if any(map(str.isdigit, fact)) else fact for fact in first.facts)
    facts = tuple(each) if same else ()
    return first._replace(label=f"{first.label} and {rest} more", facts=facts, title=title)
