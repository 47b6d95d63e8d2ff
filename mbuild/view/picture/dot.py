"""Graphviz's language DOT."""

from __future__ import annotations

from mbuild.view.picture.model import Node, NodeLook, NodeRole, Picture
from mbuild.view.picture.text import one_line, printable

_SHAPES: dict[NodeRole, str] = {
    NodeRole.SOURCE: "note",
    NodeRole.STEP: "box",
    NodeRole.MODEL: "box",
}

_STYLES: dict[NodeLook, str] = {
    NodeLook.GIVEN: 'style="filled", fillcolor="#ffffff", color="#7d8690"',
    NodeLook.CACHED: 'style="filled,rounded", fillcolor="#f6f8fa", color="#aab4be"',
    NodeLook.RUN: 'style="filled,rounded", fillcolor="#ddf4ff", color="#0969da", penwidth=2',
    NodeLook.RUNNING: 'style="filled,rounded,dashed", fillcolor="#ddf4ff", color="#0969da"',
    NodeLook.RAN: 'style="filled,rounded", fillcolor="#ddf4ff", color="#0969da", penwidth=2',
    NodeLook.DEPENDS: 'style="filled,rounded,dashed", fillcolor="#fff8c5", color="#9a6700"',
    NodeLook.WAITED: 'style="filled,rounded,dotted", fillcolor="#ffffff", color="#7d8690"',
    NodeLook.FAILED: 'style="filled,rounded", fillcolor="#ffebe9", color="#cf222e", penwidth=3',
}


def dot(picture: Picture) -> str:
    """A picture as the text of a digraph."""
    lines = [
        "digraph build {",
        f"  label={_quoted([picture.title])}; labelloc=t; rankdir=TB;",
        '  node [fontname="sans-serif", fontsize=11]; edge [color="#7d8690"];',
    ]
    lines += [f"  n{place} [{_node(node)}];" for place, node in enumerate(picture.nodes)]
    lines += [f"  n{start} -> n{end};" for start, end in picture.edges]
    return "\n".join([*lines, "}"]) + "\n"


def _node(node: Node) -> str:
    label = _quoted([node.label, *node.facts])
    extra = ", peripheries=2" if node.role is NodeRole.MODEL else ""
    title = f", tooltip={_quoted(printable(node.title).splitlines())}" if node.title else ""
    return f"label={label}, shape={_SHAPES[node.role]}, {_STYLES[node.look]}{extra}{title}"


def _quoted(lines: list[str]) -> str:
    r"""Lines as one quoted string; Graphviz reads ``\``, ``"`` and HTML's entities in it."""
    rows = (
        one_line(line).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')
        for line in lines
    )
    return '"' + "\\n".join(rows) + '"'
