"""The kinds of projectors that can be converted: each module here has their rows in ``ROWS``.

A new kind is a new row in a module of its maker's, or a new module: nothing else names it.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbuild.convert.rows.projector import Projector


def rows() -> Iterator[Projector]:
    """All rows."""
    for module in sorted(module.name for module in iter_modules(__path__)):
        yield from import_module(f"{__name__}.{module}").ROWS


def find(name: str) -> Projector | None:
    """The row of a class of config.json; None for a class without encoders that are known."""
    return next((row for row in rows() if name in row.names), None)
