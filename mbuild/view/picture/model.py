"""What is drawn: nodes with their looks, and edges from what is made first to what needs it."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from mbuild.core.values import NamedTuple


class NodeRole(StrEnum):
    """What a node is."""

    SOURCE = "source"
    STEP = "step"
    MODEL = "model"


class NodeLook(StrEnum):
    """How a node looks, and the word for it in the legend."""

    GIVEN = "given"
    CACHED = "cached"
    RUN = "to run"
    RUNNING = "running"
    RAN = "ran"
    DEPENDS = "depends"
    WAITED = "not reached"
    FAILED = "did not finish"


MEANINGS: dict[NodeLook, str] = {
    NodeLook.GIVEN: "source",
    NodeLook.CACHED: "cached",
    NodeLook.RUN: "will run",
    NodeLook.RUNNING: "is running",
    NodeLook.RAN: "ran",
    NodeLook.DEPENDS: "runs only if its input changes",
    NodeLook.WAITED: "not begun",
    NodeLook.FAILED: "did not finish",
}
"""What a legend says of each look."""


class Node(NamedTuple):
    """One box: a label, short facts under it, and in ``title`` all there is to say.

    ``kind`` is the kind of step, or of source.
    """

    label: str
    role: NodeRole
    look: NodeLook
    kind: str
    facts: tuple[str, ...] = ()
    title: str = ""


class Picture(NamedTuple):
    """A graph without cycles; an edge is a pair of places in ``nodes``.

    ``title`` is its name and ``summary`` a sentence or two for those who do not see it.
    """

    title: str
    summary: str
    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]


def neighbours(count: int, edges: Sequence[tuple[int, int]]) -> tuple[list[list[int]], ...]:
    """For each of ``count`` nodes those before it, and those after it, in the edges' order."""
    before: list[list[int]] = [[] for _ in range(count)]
    after: list[list[int]] = [[] for _ in range(count)]
    for start, end in edges:
        before[end].append(start)
        after[start].append(end)
    return before, after
