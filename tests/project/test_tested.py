"""Modules are tested by themselves: most are imported by name in some test."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]

BOUND = 0.80
"""The least share of a package's modules that some test imports by name."""

PENDING: dict[str, float] = {}
"""Packages that are being rewritten, with what they have; then they have the same bound."""

THROUGH_OTHERS: dict[str, str] = {}
"""Modules that no test imports by name, and why."""


def _modules() -> set[str]:
    package = ROOT / "mbuild"
    return {
        ".".join(path.relative_to(package).with_suffix("").parts)
        for path in package.rglob("*.py")
        if path.name != "__init__.py"
        # A family is one row of a table, whose tests take every row by its name; so are projectors.
        and path.parent not in (package / "convert" / part for part in ("families", "projectors"))
    }


@cache
def _imported() -> frozenset[str]:
    """The modules that tests import by name, without the ``mbuild.`` before it."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
    names = (name for name in found if name.startswith("mbuild."))
    return frozenset(name.removeprefix("mbuild.") for name in names)


def test_modules_are_imported_by_some_test() -> None:
    """In each package at least four of five modules have a test that names them."""
    modules, imported = _modules(), _imported()
    shares = {}
    for package in sorted({name.split(".")[0] for name in modules} - {"__main__"}):
        own = {name for name in modules if name.split(".")[0] == package}
        shares[package] = len(own & imported) / len(own)
    few = {name: share for name, share in shares.items() if share < PENDING.get(name, BOUND)}
    assert not few, few


def test_every_other_module_is_listed_with_a_reason() -> None:
    """Outside the packages that are rewritten a module is tested, or it is said why not."""
    wanted = {name for name in _modules() if name.split(".")[0] not in PENDING}
    imported = _imported()
    assert wanted - imported - THROUGH_OTHERS.keys() == set()


def test_no_excuse_outlives_its_reason() -> None:
    """What is listed is there, and no test imports it."""
    assert THROUGH_OTHERS.keys() <= _modules() - _imported()
