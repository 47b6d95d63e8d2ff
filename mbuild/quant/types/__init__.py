"""The types that can be made: each module here has the rows of some, by type, in ``ROWS``.

A row (:class:`mbuild.quant.search.methods.Parts`) names all that makes a type's blocks in both
engines, and what only its kind needs stands beside it. A new type is a new module, or one more row
in one: nothing else names it. Nothing here loads numba.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from mbuild.core.modules import names_in

if TYPE_CHECKING:
    from types import ModuleType

    from mbuild.gguf.types import GGMLType
    from mbuild.quant.search.methods import Parts


@cache
def modules() -> tuple[ModuleType, ...]:
    """All modules here."""
    names = names_in(__path__[0])
    return tuple(import_module(f"{__name__}.{name}") for name in names)


def rows() -> dict[GGMLType, Parts]:
    """The rows of all modules, by the types' numbers."""
    found = {type_: parts for module in modules() for type_, parts in module.ROWS.items()}
    return dict(sorted(found.items()))
