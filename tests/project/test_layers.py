"""The import layers of ARCHITECTURE.md hold: a module imports only from rows above its own."""

from __future__ import annotations

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "mbuild"

ROWS: tuple[tuple[str, ...], ...] = (
    ("core",),
    ("work",),
    ("gguf", "language"),
    ("templates", "quant"),
    ("convert", "lint"),
    ("store",),
    ("build",),
    ("models",),
    ("view",),
    ("server",),
    ("cli",),
    ("__main__",),
)
ROW_OF = {name: row for row, names in enumerate(ROWS) for name in names}


def _imports(path: Path) -> set[str]:
    """First components below ``mbuild`` of everything that a module imports, lazily or not."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            module = node.module or ""
            names = [f"{module}.{a.name}" for a in node.names] if module == "mbuild" else [module]
        else:
            continue
        found.update(n.split(".")[1] for n in names if n.startswith("mbuild."))
    return found - {"__version__"}


def _component(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_module_has_a_row() -> None:
    """No module stands outside the table of layers."""
    modules = {_component(p) for p in PACKAGE.rglob("*.py")} - {"__init__"}
    assert modules <= ROW_OF.keys(), modules - ROW_OF.keys()


def test_imports_point_upwards_only() -> None:
    """A module imports from rows above its own and from its own package, nothing else."""
    wrong = [
        f"{path.relative_to(PACKAGE.parent)} imports mbuild.{name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in sorted(_imports(path))
        if (here := _component(path)) != "__init__"
        and name != here
        and ROW_OF[name] >= ROW_OF[here]
    ]
    assert not wrong, "\n".join(wrong)


def test_architecture_shows_the_same_rows() -> None:
    """The table in ARCHITECTURE.md is this one."""
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text(encoding="utf-8")
    shown = [
        tuple(re.findall(r"`(\w+)`", line))
        for line in text.splitlines()
        if re.match(r"\| \d+ \| `", line)
    ]
    assert shown == list(ROWS[:-1])
