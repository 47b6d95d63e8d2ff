"""A picture as a tree of values: the same as its SVG, without markup and style."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from test_picture import HOSTILE, hostile

from mbuild.view.picture.svg import svg
from mbuild.view.picture.tree import tree


def walk(element: list[Any]) -> Iterator[tuple[str, dict[str, str], str]]:
    name, attributes, children = element
    yield name, attributes, "".join(child for child in children if isinstance(child, str))
    for child in children:
        if not isinstance(child, str):
            yield from walk(child)


def test_the_tree_is_the_svg_without_its_style() -> None:
    """Element by element in order, with the same attributes and texts, and it is JSON."""
    picture = hostile()
    found = list(walk(json.loads(json.dumps(tree(picture)))))
    wanted = [
        (each.tag.rpartition("}")[2], dict(each.attrib), (each.text or "").strip())
        for each in ElementTree.fromstring(svg(picture, inline=True)).iter()
        if not each.tag.endswith("style")
    ]
    assert [(name, attributes, text.strip()) for name, attributes, text in found] == wanted
    assert len(found) > 5 * len(HOSTILE)


def test_a_tree_has_only_elements_and_attributes_of_drawings() -> None:
    """Whatever the labels are: no script, no link, no event's attribute."""
    found = list(walk(tree(hostile())))
    assert {name for name, _, _ in found} == {"svg", "title", "desc", "g", "path", "rect", "text"}
    attributes = {key for _, given, _ in found for key in given}
    assert attributes <= {
        *("class", "role", "aria-labelledby", "id", "width", "height"),
        *("viewBox", "x", "y", "rx", "d", "transform"),
    }
