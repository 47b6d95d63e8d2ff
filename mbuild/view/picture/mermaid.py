"""Mermaid's flowcharts, as Markdown pages of code hosts show them."""

from __future__ import annotations

import re

from mbuild.core.patterns import regex
from mbuild.view.picture.model import MEANINGS, Node, NodeLook, NodeRole, Picture
from mbuild.view.picture.text import one_line

_SHAPES: dict[NodeRole, tuple[str, str]] = {
    NodeRole.SOURCE: ("[/", "/]"),
    NodeRole.STEP: ("[", "]"),
    NodeRole.MODEL: ("([", "])"),
}

_STYLES: dict[NodeLook, tuple[str, str]] = {
    NodeLook.GIVEN: ("given", "fill:transparent"),
    NodeLook.CACHED: ("cached", "stroke-width:1px,opacity:0.65"),
    NodeLook.RUN: ("run", "stroke:#0969da,stroke-width:3px"),
    NodeLook.RUNNING: ("running", "stroke:#0969da,stroke-width:3px,stroke-dasharray:8 3"),
    NodeLook.RAN: ("ran", "stroke:#0969da,stroke-width:3px"),
    NodeLook.DEPENDS: ("depends", "stroke:#9a6700,stroke-width:2px,stroke-dasharray:6 4"),
    NodeLook.WAITED: ("waited", "stroke-dasharray:2 4"),
    NodeLook.FAILED: ("failed", "stroke:#cf222e,stroke-width:4px"),
}
"""A class for each look; colours of text and boxes stay those of the reader's theme."""

_SPECIAL = regex(
    r"[\x00-\x1f\"#$%&'*:;<>@\[\\\]^`{|}~]"  # quotes, shapes, entities, icons, emphasis, code
    r"|(?<![A-Za-z0-9])[-+_.=]|[-+_.=](?![A-Za-z0-9])"  # bullets, rules, numbered lists
)

_COMMANDS = regex(r"(?<=\\)(?=n)|(?<=\$)(?=\$)|(?<=fa)(?=[a-z]?:)")
_JOINER = "\N{WORD JOINER}"
"""Of no width, it keeps apart what would be read together."""


def mermaid(picture: Picture) -> str:
    """A picture as the text of a Mermaid flowchart."""
    lines = [
        "flowchart TD",
        f"  accTitle: {_words(picture.title)}",
        f"  accDescr: {_words(picture.summary)}",
    ]
    lines += [f"  n{place}{_node(node)}" for place, node in enumerate(picture.nodes)]
    lines += [f"  n{start} --> n{end}" for start, end in picture.edges]
    found = {node.look for node in picture.nodes}
    for look in MEANINGS:
        if look in found:
            name, style = _STYLES[look]
            lines.append(f"  classDef {name} {style}")
    return "\n".join(lines) + "\n"


def _node(node: Node) -> str:
    start, end = _SHAPES[node.role]
    rows = (_escaped(one_line(text)) for text in (node.label, *node.facts))
    return f'{start}"{"<br>".join(rows)}"{end}:::{_STYLES[node.look][0]}'


def _escaped(text: str) -> str:
    """What Mermaid or Markdown could take for more than itself, by its number.

    Three things are found even so: a line break, an icon, and a formula.
    """
    apart = _COMMANDS.sub(_JOINER, text)
    return _SPECIAL.sub(lambda found: f"#{ord(found[0])};", apart)


def _words(text: str) -> str:
    """A line of text where Mermaid knows no escapes."""
    return re.sub(r"[#;{}%\"<>]", " ", one_line(text)).strip() or "graph"
