"""The command line with every word changed: ``python other_words.py WORDS ARGUMENT ...``.

WORDS is a JSON file of places, ``[file, line, column]`` of literals below ``mbuild/``, as the list
of sentences finds them. Each literal there gets other letters when its module is loaded, and
so does each step's label; ``{name}``, digits and signs stay.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import ClassVar

ROOT = Path(importlib.util.find_spec("mbuild").origin).parent  # type: ignore[union-attr, arg-type]


def other(text: str) -> str:
    """A text with other letters in each of its words, the same for the same word."""

    def changed(match: re.Match[str]) -> str:
        digest = hashlib.sha256(match[0].encode()).hexdigest()
        return "".join(chr(ord("a") + int(digit, 16)) for digit in digest[: len(match[0])])

    return re.sub(r"[A-Za-z]+(?![^{]*\})", changed, text)


class _Changed(ast.NodeTransformer):
    def __init__(self, places: set[tuple[int, int]], labels: bool) -> None:
        self._places = places
        self._labels = labels
        self._in_label = False

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if isinstance(node.value, str) and (
            self._in_label or (node.lineno, node.col_offset) in self._places
        ):
            return ast.copy_location(ast.Constant(other(node.value)), node)
        return node

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        node.value = self.visit(node.value)
        return node  # its format is no word

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self._in_label = self._labels and isinstance(node.target, ast.Name)
        self._in_label = self._in_label and ast.unparse(node.target) == "label"
        self.generic_visit(node)
        self._in_label = False
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._in_label = self._labels and node.name in ("label", "variant_label")
        self.generic_visit(node)
        self._in_label = False
        return node


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module with its words changed, past Python's cache of compiled files."""

    words: ClassVar[Sequence[tuple[str, int, int]]] = ()

    def get_code(self, fullname: str) -> CodeType:
        name = Path(self.path).relative_to(ROOT).as_posix()
        places = {(line, column) for file, line, column in self.words if file == name}
        tree = ast.parse(Path(self.path).read_text(encoding="utf-8"))
        changed = _Changed(places, name.startswith("build/")).visit(tree)
        return compile(changed, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds mbuild's modules."""

    def find_spec(
        self, name: str, path: object = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != "mbuild":
            return None
        place = ROOT.parent.joinpath(*name.split("."))
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file():
                folders = [str(place)] if file.parent == place else None
                return importlib.util.spec_from_file_location(
                    name,
                    file,
                    loader=_Loader(name, str(file)),
                    submodule_search_locations=folders,
                )
        return None  # a folder without a file of its own


def main() -> None:
    """Run the command line."""
    words, *arguments = sys.argv[1:]
    _Loader.words = json.loads(Path(words).read_text())
    sys.meta_path.insert(0, _Finder())
    from mbuild.cli.main import run

    raise SystemExit(run(arguments))


if __name__ == "__main__":
    main()
