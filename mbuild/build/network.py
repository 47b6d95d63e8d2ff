"""The graph of a build, for whoever walks it: order, ancestors, descendants, the critical path.

networkx does the walking. Loading it takes as long as rebuilding a system prompt, so
neither a build with nothing to do nor the engine comes here: what they need of a graph
is :func:`mbuild.build.graph.in_order`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import networkx

from mbuild.build.graph import before, in_order

if TYPE_CHECKING:
    from mbuild.build.graph import Step

Node = TypeVar("Node", bound=Hashable)


class NetworkRow(Protocol):
    """A step of a forecast or of the log; its inputs are places in the list of all."""

    @property
    def inputs(self) -> tuple[int, ...]:
        """The places of the steps whose results it needs."""


class BuildGraph(Generic[Node]):
    """Nodes in the order in which they were given, and edges from inputs to users.

    Raises ValueError where a walk needs a graph without cycles and it has one; a graph of
    steps has none.
    """

    def __init__(self, nodes: Iterable[Node], edges: Iterable[tuple[Node, Node]]) -> None:
        self._graph: networkx.DiGraph[Node] = networkx.DiGraph()
        self._graph.add_nodes_from(nodes)
        self._places = {node: place for place, node in enumerate(self._graph)}
        self._graph.add_edges_from(edges)

    @classmethod
    def of_steps(cls, targets: Sequence[Step]) -> BuildGraph[Step]:
        """All steps that the targets need; equal ones are one node."""
        steps = in_order(targets)
        return BuildGraph(steps, ((source, step) for step in steps for source in before(step)))

    @classmethod
    def of_rows(cls, rows: Sequence[NetworkRow]) -> BuildGraph[int]:
        """The places of the steps in a forecast, or in a build of the log."""
        edges = ((source, place) for place, row in enumerate(rows) for source in row.inputs)
        return BuildGraph(range(len(rows)), edges)

    def order(self) -> list[Node]:
        """Every node after those that it needs, else in the order in which they were given."""
        try:
            return list(networkx.lexicographical_topological_sort(self._graph, self._place))
        except networkx.NetworkXUnfeasible as error:
            raise ValueError("the graph has a cycle") from error

    def before(self, node: Node) -> list[Node]:
        """The nodes that a node needs itself, in order."""
        return sorted(self._graph.predecessors(node), key=self._place)

    def after(self, node: Node) -> list[Node]:
        """The nodes that need a node themselves, in order."""
        return sorted(self._graph.successors(node), key=self._place)

    def ancestors(self, node: Node) -> set[Node]:
        """All nodes that have to be there before a node, by whatever way."""
        return set(networkx.ancestors(self._graph, node))

    def descendants(self, node: Node) -> set[Node]:
        """All nodes that need a node, by whatever way."""
        return set(networkx.descendants(self._graph, node))

    def reduced(self) -> list[tuple[Node, Node]]:
        """The edges that no longer way implies (the transitive reduction), in order."""
        self.order()
        edges = networkx.transitive_reduction(self._graph).edges
        return sorted(edges, key=lambda edge: (self._place(edge[0]), self._place(edge[1])))

    def critical_path(self, seconds: Callable[[Node], float]) -> list[Node]:
        """The chain of nodes that takes longest: however many work, it is not done sooner."""
        ends: dict[Node, tuple[float, Node | None]] = {}
        for node in self.order():
            before = max(self.before(node), key=lambda each: ends[each][0], default=None)
            begun = 0.0 if before is None else ends[before][0]
            ends[node] = (begun + seconds(node), before)
        at = max(ends, key=lambda each: ends[each][0], default=None)
        path = []
        while at is not None:
            path.append(at)
            at = ends[at][1]
        return path[::-1]

    def _place(self, node: Node) -> int:
        return self._places[node]
