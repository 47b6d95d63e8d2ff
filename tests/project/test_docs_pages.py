"""The documentation is whole: an index of all pages, links that lead somewhere, all variables."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from documents import DOCS

ROOT = DOCS.parent
PACKAGE = ROOT / "mbuild"
PAGES = sorted(
    [*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "examples/README.md"]
)


def headings(page: Path) -> set[str]:
    """The anchors of a page, as code hosts make them from headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_index_has_a_line_for_each_page() -> None:
    """docs/README.md names every page of the folder once, in a row of its own."""
    rows = re.findall(
        r"^\| \[([\w-]+\.md)\]\(\1\) \| .+ \|$", (DOCS / "README.md").read_text(), re.M
    )
    assert sorted(rows) == sorted({page.name for page in DOCS.glob("*.md")} - {"README.md"})


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link names a file of the project, and a heading that the file has."""
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


# --- environment variables --------------------------------------------------------------


def trees() -> list[ast.Module]:
    """The syntax trees of the modules that read variables or have names for them."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))]
    return [ast.parse(text) for text in texts if re.search("environ|getenv|_VARIABLE", text)]


def constants(modules: list[ast.Module]) -> dict[str, str]:
    """The texts of names such as ``KEEP_VARIABLE``."""
    return {
        node.targets[0].id: node.value.value
        for module in modules
        for node in module.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id.endswith("_VARIABLE")
        and isinstance(node.value, ast.Constant)
    }


def read_in(function: ast.AST) -> Iterator[ast.expr]:
    """What stands for a variable's name where ``os.environ`` is read, in a function or module."""
    nodes = tuple(ast.walk(function))
    aliases = {
        node.targets[0].id
        for node in nodes
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and ast.unparse(node.value) == "os.environ.get"
    }
    readers = {*aliases, "os.environ.get", "os.environ.setdefault", "os.getenv"}
    for node in nodes:
        if isinstance(node, ast.Call) and ast.unparse(node.func) in readers:
            yield node.args[0]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
            yield node.slice
        elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "os.environ":
            yield node.left


def passed_on(module: ast.Module) -> dict[str, str]:
    """Functions of a module that read the variable an argument names, each with that argument."""
    return {
        function.name: name.id
        for function in ast.walk(module)
        if isinstance(function, ast.FunctionDef)
        for name in read_in(function)
        if isinstance(name, ast.Name) and [name.id] == [a.arg for a in function.args.args[:1]]
    }


@cache
def variables() -> set[str]:
    """The environment variables that the code reads by name, also through a function's argument."""
    modules = trees()
    known, names = constants(modules), set[str]()
    for module in modules:
        functions = passed_on(module)
        calls = (node for node in ast.walk(module) if isinstance(node, ast.Call))
        found = [*read_in(module)]
        found += [call.args[0] for call in calls if ast.unparse(call.func) in functions]
        for name in found:
            if isinstance(name, ast.Constant):
                names.add(str(name.value))
            elif ast.unparse(name) not in functions.values():
                names.add(known[ast.unparse(name).rpartition(".")[2]])
    return names


def test_every_variable_is_documented() -> None:
    """docs/environment.md has each variable that the code reads, and no other."""
    rows = re.findall(r"^\| (`.+?`) \| ", (DOCS / "environment.md").read_text(), re.M)
    documented = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert documented == variables()
    assert "`NUMBA_*`" in " ".join(rows)


def test_the_search_for_variables_finds_each_way_of_reading() -> None:
    """By constant, by a name's constant, with ``in``, an alias, and a function's argument."""
    assert {"NO_COLOR", "MBUILD_KEEP", "_MBUILD_COMPLETE", "CLICOLOR", "COLUMNS"} <= variables()
