"""The kinds of projectors that can be converted: each module here has their rows in ``ROWS``.

A new kind is a new row in a module of its maker's, or a new module: nothing else names it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mbuild.core.modules import names_in

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbuild.convert.rows.projector import Projector


def rows() -> Iterator[Projector]:
    """All rows."""
    for module in names_in(__path__[0]):
        yield from import_module(f"{__name__}.{module}").ROWS


def find(name: str) -> Projector | None:
    """The row of a class of config.json; None for a class without encoders that are known."""
    return next((row for row in rows() if name in row.names), None)
