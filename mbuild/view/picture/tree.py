"""A picture as a tree of plain values: for a page that makes elements and parses no markup."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from mbuild.view.picture.model import Picture
from mbuild.view.picture.svg import svg


def tree(picture: Picture) -> list[Any]:
    """The picture's SVG, each element as ``[name, attributes, children]``, a text as itself.

    Its style is not among them: the page has it (:data:`mbuild.view.picture.style.STYLE`).
    """
    return _element(ElementTree.fromstring(svg(picture, inline=True)))


def _element(element: ElementTree.Element) -> list[Any]:
    text = element.text or ""
    children: list[Any] = [text] if text.strip() else []
    children += (_element(child) for child in element if _name(child) != "style")
    return [_name(element), dict(element.attrib), children]


def _name(element: ElementTree.Element) -> str:
    """An element's name without its namespace."""
    return element.tag.rpartition("}")[2]
