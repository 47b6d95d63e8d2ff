"""What the versions of Python differ in.

In Python 3.11.0 to 3.11.4 a possessive group or an atomic one may end at the wrong place
when its body can backtrack (CPython's issue 106052), as ``(?:a(?!a)b*+)*+`` does. So
nothing is possessive here but a single character or set, which those versions match well.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as sre  # type: ignore[attr-defined]
from typing import Any

import pytest
from pace import at_most

import mbuild
from mbuild.core.patterns import regex
from mbuild.language import parser as modelfile
from mbuild.templates import gotemplate
from mbuild.templates.failure import TemplateError

PACKAGE = Path(mbuild.__file__).parent
ONE = {ops.LITERAL, ops.NOT_LITERAL, ops.ANY, ops.IN}
GRAMMARS = {"modelfile.lark": modelfile._grammar, "gotemplate.lark": gotemplate._lark}
# What the extras lsp and cache bring, which not every Python here has.
EXTRAS = {"lsprotocol", "pygls", "paramiko", "fsspec"}
POSSESSIVE = re.compile(r"[*+?}]\+|\(\?>")


def _parts(parsed: Any) -> Iterator[tuple[Any, Any]]:
    """Every operation of a parsed regular expression with what belongs to it, at any depth."""
    for op, arguments in parsed:
        yield op, arguments
        pending = [arguments]
        while pending:
            item = pending.pop()
            if isinstance(item, sre.SubPattern):
                yield from _parts(item)
            elif isinstance(item, tuple | list):
                pending.extend(item)


def _wrong(pattern: str | bytes, flags: int = 0) -> list[str]:
    """What is atomic or possessive in a regular expression and more than one character."""
    found = []
    for op, arguments in _parts(sre.parse(pattern, flags)):
        if op is ops.ATOMIC_GROUP:
            found.append(f"an atomic group in {pattern!r}")
        if op is ops.POSSESSIVE_REPEAT:
            body = list(arguments[2])
            if len(body) != 1 or body[0][0] not in ONE:
                found.append(f"a possessive group in {pattern!r}")
    return found


@pytest.mark.parametrize(
    ("pattern", "sound"),
    [
        ("a*+b", True),
        ("[ab]?+(?:c[de]{1,2}+)*", True),
        ("(?:a(?!a)b*+)*+", False),
        ("(?:ab)?+", False),
        ("x(?=(?:a|bc)++)", False),
        ("(y)?(?(1)(?>a)|b)", False),
        ("(?>a*)", False),
    ],
)
def test_the_rule_sees(pattern: str, sound: bool) -> None:
    """One character may be possessive; a group may not, wherever it stands, nor be atomic."""
    assert (_wrong(pattern) == []) is sound


@pytest.mark.parametrize("name", GRAMMARS)
def test_no_terminal_has_a_possessive_group(name: str) -> None:
    """The compiled terminals of both grammars keep the rule."""
    terminals = GRAMMARS[name]().terminals
    assert len(terminals) > 10
    assert not [fault for t in terminals for fault in _wrong(t.pattern.to_regexp())]


def _modules() -> list[Any]:
    names = [m.name for m in pkgutil.walk_packages([str(PACKAGE)], "mbuild.")]
    found = []
    for name in names:
        if name.endswith("__main__"):
            continue
        try:
            found.append(importlib.import_module(name))
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in EXTRAS:
                raise
    return found


def test_no_pattern_of_a_module_has_a_possessive_group() -> None:
    """The regular expressions that modules declare keep the rule."""
    pytest.importorskip("numpy", reason="the modules need numpy")
    kinds = re.Pattern | type(regex(""))
    patterns = {p for m in _modules() for p in vars(m).values() if isinstance(p, kinds)}
    assert len(patterns) > 100
    assert not [fault for p in patterns for fault in _wrong(p.pattern, p.flags)]


def test_no_text_in_the_code_has_a_possessive_group() -> None:
    """Nor has a regular expression that the code writes where it uses it."""
    faults = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) else None
            if isinstance(text, str) and POSSESSIVE.search(text):
                try:
                    faults += [f"{path.name}:{node.lineno}: {f}" for f in _wrong(text)]
                except re.error:  # a part of one, or no regular expression
                    continue
    assert not faults


HOSTILE = {
    "braces": "{a" * 500_000,
    "a row of braces": "{" * 1_000_000,
    "a number": "{{ 0x" + "1_" * 100_000 + ".1z }}",
    "signs": "{{ " + "1e+" * 300_000 + " }}",
    "escapes": '{{ "' + '\\"' * 500_000,
    "backslashes": '{{ "' + "\\" * 1_000_000,
    "quotes": "{{ '" + "\\'" * 500_000,
    "an open comment": "{{/*" + "* " * 500_000,
    "a comment's end": "{{/*" + "*" * 999_000 + "/ }}",
    "spaces": "{{ .A" + " " * 999_000 + "-",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_of_nonsense_in_a_template_takes_no_time(name: str) -> None:
    """The template's grammar tries each character a few times, however it goes wrong."""
    gotemplate.parse("x")  # the grammar is loaded once
    with at_most(2):
        try:
            gotemplate.parse(HOSTILE[name])
        except TemplateError as error:
            assert len(error.message) < 1_000


def test_no_version_warns_of_a_module() -> None:
    """Each module compiles without a warning: warnings are errors here, those of syntax too."""
    paths = [*PACKAGE.rglob("*.py"), PACKAGE.parent / "run.py"]
    assert len(paths) > 100
    for path in filter(Path.is_file, paths):
        compile(path.read_text(encoding="utf-8"), str(path), "exec", dont_inherit=True)
