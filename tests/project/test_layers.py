"""The layers of ARCHITECTURE.md hold, between the packages and inside them."""

from __future__ import annotations

import ast
import math
import re
from functools import cache
from pathlib import Path

import networkx

PACKAGE = Path(__file__).parents[2] / "mbuild"

ROWS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("work",),
    ("gguf", "language"),
    ("templates", "quant"),
    ("convert",),
    ("lint",),
    ("store",),
    ("registry", "runtime"),
    ("shared",),
    ("build",),
    ("models",),
    ("view", "editor"),
    ("server", "api"),
    ("cli",),
    ("__main__",),
)
"""A module imports only from rows above its own, and from its own package."""

ROWS_OF_BUILD: tuple[tuple[str, ...], ...] = (
    ("request", "splitting", "converter", "costs"),
    ("sources",),
    ("graph", "results"),
    ("steps",),
    (
        "plan",
        "inheriting",
        "companions",
        "quantizing",
        "altering",
        "gates",
        "engine",
        "running",
        "waiting",
        "exchange",
        "rates",
        "surveying",
        "network",
        "explain",
        "reasons",
    ),
    (
        "fetching",
        "learning",
        "history",
        "underway",
        "earlier",
        "prepare",
        "staging",
        "recording",
        "forecast",
        "pins",
        "lock",
        "locked",
        "provenance",
    ),
    ("asked", "build", "rebuild", "again", "staged", "parts"),
)
"""The same inside ``build/``; there a module may also import what stands beside it."""

ROWS_OF_QUANT: tuple[tuple[str, ...], ...] = (
    ("choose", "engine", "search"),
    ("layouts",),
    ("types",),
    ("table",),
    ("arrays", "kernels"),
    ("compiled", "decode", "distance"),
    ("quantize",),
)
"""The same inside ``quant/``: who runs the arithmetic knows it, and not the other way round."""

KNOWN_CIRCLES: frozenset[frozenset[str]] = frozenset({})
"""Circles that are being removed. Nothing may join them."""


def _name(path: Path) -> str:
    """``build.plan`` for ``mbuild/build/plan.py``, ``store`` for ``mbuild/store/__init__.py``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def _imports(path: Path) -> set[str]:
    """The modules that a module imports: lazily or not, for types only or to run."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            inside = name.removeprefix("mbuild.")
            if inside != name:  # what is no module is something in one
                found.add(inside if inside in MODULES else inside.rpartition(".")[0])
    return found - {"", _name(path)}


@cache
def _all_imports() -> dict[str, set[str]]:
    """What each module imports of mbuild."""
    return {name: _imports(path) for name, path in MODULES.items()}


def _wrong(rows: tuple[tuple[str, ...], ...], package: str, *, sideways: bool) -> list[str]:
    """The imports inside a package (all of mbuild: "") that do not point upwards."""
    row_of = {name: row for row, names in enumerate(rows) for name in names}
    start = f"{package}." if package else ""
    wrong = []
    for module, imported in _all_imports().items():
        if module == "__init__" or not module.startswith(start):
            continue
        here = module.removeprefix(start).split(".")[0]
        for name in sorted(imported):
            there = name.removeprefix(start).split(".")[0]
            if not name.startswith(start) or there == here:
                continue
            if row_of[there] > row_of[here] or (row_of[there] == row_of[here] and not sideways):
                wrong.append(f"mbuild.{module} imports mbuild.{name}")
    return wrong


def _shown(heading: str) -> list[tuple[str, ...]]:
    """The table of rows below a heading of ARCHITECTURE.md."""
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if re.match(r"\| \d+ \| `", line)]
    return [tuple(re.findall(r"`(\w+)`", line)) for line in rows]


def test_every_module_has_a_row() -> None:
    """No module stands outside the tables of rows, and no row names what is not there."""
    there = {name.split(".")[0] for name in MODULES} - {"__init__"}
    assert there == {name for row in ROWS for name in row}
    inside = {name.split(".")[1] for name in MODULES if name.startswith("build.")}
    assert inside == {name for row in ROWS_OF_BUILD for name in row}
    inside = {name.split(".")[1] for name in MODULES if name.startswith("quant.")}
    assert inside == {name for row in ROWS_OF_QUANT for name in row}


def test_imports_point_upwards_only() -> None:
    """A module imports from rows above its own and from its own package, nothing else."""
    wrong = _wrong(ROWS, "", sideways=False)
    assert not wrong, "\n".join(wrong)


def test_imports_inside_build_point_upwards_only() -> None:
    """Sources know no graph, the graph no step, steps no plan, the engine no build."""
    wrong = _wrong(ROWS_OF_BUILD, "build", sideways=True)
    assert not wrong, "\n".join(wrong)


def test_imports_inside_quant_point_upwards_only() -> None:
    """No arithmetic knows an engine, no engine the other, none who chooses between them."""
    wrong = _wrong(ROWS_OF_QUANT, "quant", sideways=False)
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    """There is no circle of imports anywhere, counting lazy ones and those for types only."""
    graph = networkx.DiGraph(
        (module, name) for module, imported in _all_imports().items() for name in imported
    )
    circles = {
        frozenset(names)
        for names in networkx.strongly_connected_components(graph)
        if len(names) > 1
    }
    new = [" - ".join(sorted(names)) for names in circles - KNOWN_CIRCLES]
    assert not new, "\n".join(new)
    gone = [" - ".join(sorted(names)) for names in KNOWN_CIRCLES - circles]
    assert not gone, "no longer circles, so no longer known ones: " + "\n".join(gone)


def test_architecture_shows_the_same_rows() -> None:
    """The tables in ARCHITECTURE.md are these."""
    assert _shown("Layers") == [*ROWS[:-1], *ROWS_OF_BUILD]


def test_architecture_is_three_pages_at_most() -> None:
    """A page has 66 lines of 100 characters; a table's row may need several."""
    lines = (PACKAGE.parent / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()
    assert sum(max(1, math.ceil(len(line) / 100)) for line in lines) <= 3 * 66
