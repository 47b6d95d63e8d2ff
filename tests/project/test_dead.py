"""Nothing stands in mbuild that mbuild does not use."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
USERS = [*(ROOT / "mbuild").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
USERS.append(ROOT / "docs" / "generate.py")

FOR_READERS = {
    "mbuild.store.records.RECORDS": "all kinds of record in one place, held complete by a test",
}
"""Tables that mbuild itself has no need to read, and what they are for."""


@cache
def _trees() -> dict[str, ast.Module]:
    """Every file that may use a name, by its module's name."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for path in USERS
    }


def _defined(tree: ast.Module) -> Iterator[str]:
    """The names that a module makes, without those that a decorator registers somewhere."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if not node.decorator_list or isinstance(node, ast.ClassDef):
                yield node.name
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_every_function_class_and_constant_is_used() -> None:
    """A module's names are used in it, or imported by another; tests do not count."""
    trees = _trees()
    imported = {
        (node.module, alias.name)
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    attributes = {
        node.attr
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
    }
    dead = []
    for module, tree in trees.items():
        if not module.startswith("mbuild"):
            continue
        loaded = {
            node.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        }
        dead += [
            f"{module}.{name}"
            for name in _defined(tree)
            if name not in loaded | attributes
            and (module, name) not in imported
            and not re.fullmatch("__.*__", name)
            and f"{module}.{name}" not in FOR_READERS
        ]
    assert not dead, "\n".join(dead)


def test_every_dependency_is_imported() -> None:
    """What pip has to install with mbuild is loaded by some module of it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = text.split("\ndependencies = [")[1].split("]")[0]
    modules = {"pyyaml": "yaml"}
    wanted = {modules.get(name, name) for name in re.findall(r'"([\w-]+)', block)}
    loaded: set[str] = set()
    for module, tree in _trees().items():
        for node in ast.walk(tree) if module.startswith("mbuild") else ():
            if isinstance(node, ast.ImportFrom):
                loaded.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Import):
                loaded.update(alias.name.split(".")[0] for alias in node.names)
    assert wanted <= loaded, wanted - loaded
