"""The benchmarks can run: what they import from here is there.

They take minutes to hours, so nothing runs them whole.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
HELPERS = ("benchmarks", "tests")
"""Where the modules lie that benchmarks import by a bare name."""


def imported(file: Path) -> Iterator[tuple[str, str]]:
    """Module and name of everything that a file imports ``from`` somewhere."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, name.name) for name in node.names)


@cache
def made(file: Path) -> frozenset[str]:
    """The names that a module has on its outermost level."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {(name.asname or name.name).partition(".")[0] for name in node.names}
    return frozenset(found)


def has(module: ModuleType, name: str) -> bool:
    """Whether a module has a name, or a package a module of that name."""
    if hasattr(module, name):
        return True
    return hasattr(module, "__path__") and find_spec(f"{module.__name__}.{name}") is not None


def missing(file: Path) -> list[str]:
    """What a file imports from this project's modules that they do not have."""
    wrong = []
    for module, name in imported(file):
        if module.partition(".")[0] == "mbuild":
            if not has(importlib.import_module(module), name):
                wrong.append(f"{module}.{name}")
        else:
            helpers = [ROOT / folder / f"{module}.py" for folder in HELPERS]
            there = [helper for helper in helpers if helper.is_file()]
            if there and not any(name in made(helper) for helper in there):
                wrong.append(f"{module}.{name}")
    return wrong


@pytest.mark.parametrize("file", BENCHMARKS, ids=lambda file: file.stem)
def test_what_a_benchmark_imports_is_there(file: Path) -> None:
    """Names that were moved or removed since are found here, not after an hour's run."""
    assert missing(file) == []


def test_a_name_that_is_gone_is_found(tmp_path: Path) -> None:
    """In modules of mbuild's, and in those of the tests."""
    file = tmp_path / "some.py"
    file.write_text("from mbuild.core.digest import Digest, Digit\nfrom smollm import smoll\n")
    assert missing(file) == ["mbuild.core.digest.Digit", "smollm.smoll"]
