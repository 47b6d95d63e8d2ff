"""SVG: one file or one element, without scripts, fonts or anything else from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from mbuild.core.values import NamedTuple
from mbuild.view.picture.layout import Box, Layout, lay_out
from mbuild.view.picture.model import MEANINGS, Node, NodeLook, NodeRole, Picture
from mbuild.view.picture.style import STYLE
from mbuild.view.picture.text import one_line, printable, width, wrapped

_LABEL, _FACT, _HEADING = 13.0, 11.0, 15.0
_LINE, _FACT_LINE = 17.0, 14.0
_PAD, _ICON, _MARGIN = 11.0, 19.0, 20.0
_MOST, _LEAST = 210.0, 64.0
_LABEL_LINES, _FACT_LINES = 3, 2

_ICONS: dict[NodeLook, str] = {
    NodeLook.CACHED: "M2 6.5 5 9.5 10 3",
    NodeLook.RUN: "M3 2 10 6 3 10Z",
    NodeLook.RUNNING: "M3 1.5H9L3 10.5H9Z",
    NodeLook.RAN: "M3 2 10 6 3 10Z",
    NodeLook.DEPENDS: "M3.5 4.3A2.5 2.5 0 1 1 6 6.8V8M6 10.2v.1",
    NodeLook.WAITED: "M6 2A4 4 0 1 0 6 10 4 4 0 1 0 6 2",
    NodeLook.FAILED: "M3 3 9 9M9 3 3 9",
    NodeLook.GIVEN: "M3 1.5H7L9.5 4V10.5H3ZM7 1.5V4H9.5",
}
"""A drawing of 12 by 12 for each look, so that colour is not all that tells them apart."""

_CLASSES: dict[NodeLook, str] = {
    NodeLook.GIVEN: "given",
    NodeLook.CACHED: "cached",
    NodeLook.RUN: "run",
    NodeLook.RUNNING: "running",
    NodeLook.RAN: "ran",
    NodeLook.DEPENDS: "depends",
    NodeLook.WAITED: "waited",
    NodeLook.FAILED: "failed",
}

_RADIUS: dict[NodeRole, float] = {NodeRole.SOURCE: 0.0, NodeRole.STEP: 6.0, NodeRole.MODEL: 16.0}


class _Card(NamedTuple):
    """A node's texts, broken into lines, and the size that they need."""

    lines: list[str]
    facts: list[str]
    width: float
    height: float


def svg(picture: Picture, *, inline: bool = False) -> str:
    """A picture as SVG; ``inline``: to stand in an HTML page, without heading and background."""
    cards = [_card(node) for node in picture.nodes]
    layout = lay_out([(card.width, card.height) for card in cards], picture.edges)
    legend = _legend(picture)
    heading = "" if inline else one_line(picture.title)
    heading_lines = wrapped(heading, max(layout.width, 420.0), _HEADING, 2) if heading else []
    wide = max([layout.width, *(width(line, _HEADING) for line in heading_lines)])
    legend_rows = _rows(legend, max(wide, 260.0))
    wide = max([wide, *(sum(room for _, _, room in row) for row in legend_rows)])
    top = _MARGIN + len(heading_lines) * 21 + (12 if heading_lines else 0)
    bottom = top + layout.height
    tall = bottom + (24 if legend_rows else 0) + len(legend_rows) * 20 + _MARGIN / 2
    wide += 2 * _MARGIN
    left = round((wide - layout.width) / 2, 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="mbuild-graph" role="img"'
        f' aria-labelledby="mbuild-graph-title mbuild-graph-desc"'
        f' width="{_n(wide)}" height="{_n(tall)}" viewBox="0 0 {_n(wide)} {_n(tall)}">',
        f'<title id="mbuild-graph-title">{_text(one_line(picture.title))}</title>',
        f'<desc id="mbuild-graph-desc">{_text(picture.summary)}</desc>',
        f"<style>{STYLE}</style>",
    ]
    if not inline:
        parts.append(f'<rect class="paper" width="{_n(wide)}" height="{_n(tall)}"/>')
    for number, line in enumerate(heading_lines):
        y = _MARGIN + 14 + number * 21
        parts.append(f'<text class="heading" x="{_n(_MARGIN)}" y="{_n(y)}">{_text(line)}</text>')
    parts.append(f'<g transform="translate({_n(left)} {_n(top)})">')
    parts += _edges(layout)
    for node, card, box in zip(picture.nodes, cards, layout.boxes, strict=True):
        parts += _box(node, card, box)
    parts.append("</g>")
    parts += _legend_parts(legend_rows, bottom + 24)
    parts.append("</svg>")
    return "\n".join(part for part in parts if part) + "\n"


def _card(node: Node) -> _Card:
    room = _MOST - 2 * _PAD - _ICON
    size = _LABEL * (1.06 if node.role is NodeRole.MODEL else 1.0)  # bold is wider
    lines = wrapped(node.label, room, size, _LABEL_LINES)
    facts = [line for fact in node.facts for line in wrapped(fact, room, _FACT, _FACT_LINES)]
    widths = [width(line, size) for line in lines] + [width(line, _FACT) for line in facts]
    text = max(*widths, _LEAST - 2 * _PAD - _ICON) + _ICON
    height = 2 * _PAD + len(lines) * _LINE + len(facts) * _FACT_LINE - 3
    return _Card(lines, facts, float(round(text + 2 * _PAD)), height)


def _box(node: Node, card: _Card, box: Box) -> Iterator[str]:
    """A node: its box, its icon, its lines, and everything as a tooltip."""
    yield f'<g class="{node.role.value} {_CLASSES[node.look]}">'
    full = [one_line(node.label), *(one_line(fact) for fact in node.facts)]
    yield f"<title>{_text(node.title or chr(10).join(full))}</title>"
    radius = min(_RADIUS[node.role], box.height / 2)
    yield _rectangle(box, radius)
    y = box.y + (box.height - card.height) / 2 + _PAD
    yield _icon(node.look, box.x + _PAD, y + 1.5)
    for line in card.lines:
        yield _line("label", box.x + _PAD + _ICON, y + 12, line)
        y += _LINE
    for fact in card.facts:
        yield _line("fact", box.x + _PAD + _ICON, y + 10, fact)
        y += _FACT_LINE
    yield "</g>"


def _rectangle(box: Box, radius: float) -> str:
    rounded = f' rx="{_n(radius)}"' if radius else ""
    return (
        f'<rect class="box" x="{_n(box.x)}" y="{_n(box.y)}"'
        f' width="{_n(box.width)}" height="{_n(box.height)}"{rounded}/>'
    )


def _icon(look: NodeLook, x: float, y: float) -> str:
    return f'<path class="icon" transform="translate({_n(x)} {_n(y)})" d="{_ICONS[look]}"/>'


def _line(kind: str, x: float, y: float, text: str) -> str:
    if not text:
        return ""
    return f'<text class="{kind}" x="{_n(x)}" y="{_n(y)}">{_text(text)}</text>'


_HEAD = 6.0


def _edges(layout: Layout) -> Iterator[str]:
    """Each edge as a smooth line, with a head where it meets its user."""
    for points in layout.routes:
        (x, y), *rest = points
        path = [f"M{_n(x)} {_n(y)}"]
        last = len(rest) - 1
        for number, (to_x, to_y) in enumerate(rest):
            if number == last:
                to_y -= _HEAD
            if to_x == x:
                path.append(f"V{_n(to_y)}")
            else:
                bend = (y + to_y) / 2
                path.append(f"C{_n(x)} {_n(bend)} {_n(to_x)} {_n(bend)} {_n(to_x)} {_n(to_y)}")
            x, y = to_x, to_y
        yield f'<path class="edge" d="{"".join(path)}"/>'
        yield f'<path class="head" d="M{_n(x - 4)} {_n(y)}h8l-4 {_n(_HEAD)}Z"/>'


def _legend(picture: Picture) -> list[tuple[NodeLook, str, float]]:
    """The looks that occur, their meanings, and the room that each needs."""
    found = {node.look for node in picture.nodes}
    rows = []
    for look, meaning in MEANINGS.items():
        if look in found:
            rows.append((look, meaning, 26 + width(meaning, _FACT) + 18))
    return rows


def _rows(
    legend: Sequence[tuple[NodeLook, str, float]], most: float
) -> list[list[tuple[NodeLook, str, float]]]:
    rows: list[list[tuple[NodeLook, str, float]]] = []
    taken = most
    for item in legend:
        if taken + item[2] > most or not rows:
            rows.append([])
            taken = 0.0
        rows[-1].append(item)
        taken += item[2]
    return rows


def _legend_parts(rows: Sequence[Sequence[tuple[NodeLook, str, float]]], y: float) -> Iterator[str]:
    if not rows:
        return
    yield '<g class="legend">'
    for row in rows:
        x = _MARGIN
        for look, meaning, room in row:
            yield f'<g class="{_CLASSES[look]}">'
            yield _rectangle(Box(x, y, 20, 16), 3)
            yield _icon(look, x + 4, y + 2)
            yield "</g>"
            yield _line("fact", x + 26, y + 12, meaning)
            x += room
        y += 20
    yield "</g>"


def _text(text: str) -> str:
    return escape(printable(text))


def _n(number: float) -> str:
    """A coordinate with at most one decimal."""
    return f"{number:.1f}".removesuffix(".0")
