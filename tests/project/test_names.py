"""A name has one owner: no two classes are called the same, and not many files."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "mbuild"

FRONT_ENDS = ("cli", "server")
"""Here a module is called like the command or the endpoint that it is."""

OWNERS_OF_A_FILE_NAME = 2
"""A file's name is read with its folder's: ``gguf.types`` and ``quant.types`` are clear."""

SHARED_FILES: dict[str, str] = {
    "engine.py": "what runs a build's steps, and the engines of quant behind one Protocol",
    "files.py": "a Protocol and those who implement it: each has the files of its own layer",
    "layout.py": "of a GGUF model's tensors, and of a picture: the field's word for both",
    "rules.py": "tables of rules: of tensors, of tokenizers, of quantization",
    "values.py": "the values that the other modules of their folder pass on",
}
"""File names with more owners, and why that is no confusion."""


def _classes(path: Path) -> Iterator[str]:
    """The classes of a module that others may know."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


def test_a_class_name_has_one_owner() -> None:
    """Who reads the name of a public class knows which one it is."""
    owners: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in _classes(path):
            owners[name].append(str(path.relative_to(PACKAGE)))
    several = {name: places for name, places in owners.items() if len(places) > 1}
    assert not several, several


def test_a_file_name_has_few_owners() -> None:
    """Outside the front ends a file's name stands at most twice, or there is a reason."""
    owners: dict[str, list[str]] = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        if path.name != "__init__.py" and place.parts[0] not in FRONT_ENDS:
            owners[path.name].append(str(place.parent))
    many = {
        name: places
        for name, places in owners.items()
        if len(places) > OWNERS_OF_A_FILE_NAME and name not in SHARED_FILES
    }
    assert not many, many
