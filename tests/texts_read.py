"""Finds where code decides by a text that people read: of an event, an explanation, an error.

A text is an attribute of one of the names in :data:`TEXTS`, what a pattern takes from such a
field of an event, ``str()`` of an error or a change, and every name or parameter of the
module that is given one. To decide by it is to compare it, to look it up, to look for something
in it or to take it apart; to show it, to measure it or to ask whether there is one is not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple, get_args

from mbuild.core import events

TEXTS = frozenset(
    ("label", "text", "texts", "note", "reason", "reasons", "message", "hint", "suggestion")
)
"""The names of fields that hold sentences and labels."""

OTHER = frozenset(("script.text", "shape.label"))
"""A digest, and a width."""

ENDS = ("startswith", "endswith", "removeprefix", "removesuffix")
PLACES = ("find", "rfind", "index", "rindex", "count")
TAKING_APART = frozenset((*ENDS, *PLACES, "partition", "rpartition", "split", "rsplit"))
SEARCHES = frozenset(("match", "fullmatch", "search", "findall", "finditer", "get"))
PASSING_ON = frozenset(("lower", "upper", "casefold", "strip", "lstrip", "rstrip", "replace"))

FIELDS = {
    kind.__name__: [name in TEXTS for name in kind._fields]
    for kind in (*get_args(events.BuildEvent), events.Reason, events.Failure)
}
"""Of each event which fields are texts, in their order."""


Function = ast.FunctionDef | ast.AsyncFunctionDef


class Decision(NamedTuple):
    """A place where a text decides."""

    line: int
    code: str


def decisions(source: str) -> list[Decision]:
    """Every place in a module's source where a text decides something."""
    tree = ast.parse(source)
    functions = {n.name: n for n in ast.walk(tree) if isinstance(n, Function)}
    given: dict[str, set[str]] = {name: set() for name in functions}
    while True:  # until no function learns of a text any more
        before = {name: set(names) for name, names in given.items()}
        found: set[Decision] = set()
        for scope in (tree, *functions.values()):
            start = given.get(getattr(scope, "name", ""), set())
            found |= set(_Scope(scope, start, functions, given).decisions())
        if given == before:
            return sorted(found)


class _Scope:
    """A function, or the module's own statements, and its names that hold texts."""

    def __init__(
        self,
        scope: ast.AST,
        names: set[str],
        functions: dict[str, Function],
        given: dict[str, set[str]],
    ) -> None:
        self._nodes = list(_own(scope))
        self._names = set(names)
        self._functions = functions
        self._given = given
        for _ in range(4):  # names that get their text from names
            for node in self._nodes:
                self._learn(node)

    def decisions(self) -> Iterator[Decision]:
        """What decides here; functions that are given a text learn of it."""
        for node in self._nodes:
            if isinstance(node, ast.Call):
                self._tell(node)
            if self._decides(node):
                yield Decision(node.lineno, ast.unparse(node))  # type: ignore[attr-defined]

    def _learn(self, node: ast.AST) -> None:
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if self._is_text(node.value):
                self._names |= {t.id for t in targets if isinstance(t, ast.Name)}
        elif isinstance(node, (ast.For, ast.comprehension)) and self._is_text(node.iter):
            self._names |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
        elif isinstance(node, ast.MatchClass):
            fields = FIELDS.get(ast.unparse(node.cls).rpartition(".")[2], [])
            for is_text, pattern in zip(fields, node.patterns, strict=False):
                self._take(pattern, is_text)
            for name, pattern in zip(node.kwd_attrs, node.kwd_patterns, strict=True):
                self._take(pattern, name in TEXTS)

    def _take(self, pattern: ast.pattern, is_text: bool) -> None:
        if is_text and isinstance(pattern, ast.MatchAs) and pattern.name:
            self._names.add(pattern.name)

    def _tell(self, call: ast.Call) -> None:
        """A function of this module gets a text: its parameter is one."""
        name = ast.unparse(call.func).rpartition(".")[2]
        if name not in self._functions:
            return
        names = [a.arg for a in self._functions[name].args.args]
        names = names[1:] if names[:1] in (["self"], ["cls"]) else names
        pairs = [*zip(names, call.args, strict=False)]
        pairs += [(word.arg, word.value) for word in call.keywords if word.arg]
        self._given[name] |= {parameter for parameter, value in pairs if self._is_text(value)}

    def _is_text(self, node: ast.AST) -> bool:
        match node:
            case ast.Name(id=name):
                return name in self._names
            case ast.Attribute(attr=name):
                return name in TEXTS and ast.unparse(node) not in OTHER
            case ast.Call(func=ast.Name(id="str"), args=[ast.Name(id=name)]):
                return name in ("error", "change", "problem") or name in self._names
            case ast.Call(func=ast.Attribute(value=value, attr=name)):
                return name in TEXTS or (name in PASSING_ON and self._is_text(value))
            case ast.Call(func=ast.Name(id="printable"), args=[value]):
                return self._is_text(value)
            case ast.Subscript(value=value) | ast.Starred(value=value):
                return self._is_text(value)
            case ast.IfExp(body=body, orelse=other):
                return self._is_text(body) or self._is_text(other)
            case ast.BoolOp(values=values) | ast.Tuple(elts=values) | ast.List(elts=values):
                return any(map(self._is_text, values))
        return False

    def _decides(self, node: ast.AST) -> bool:
        match node:
            case ast.Compare(left=left, ops=ops, comparators=others):
                nothing = all(isinstance(op, (ast.Is, ast.IsNot)) for op in ops)
                return not nothing and any(map(self._is_text, (left, *others)))
            case ast.Call(func=ast.Attribute(value=value, attr=name), args=arguments):
                if name in TAKING_APART and arguments and self._is_text(value):
                    return True
                return name in SEARCHES and any(map(self._is_text, arguments))
            case ast.Subscript(value=value, slice=place):
                return not isinstance(place, ast.Slice) and self._is_text(place)
            case ast.Match(subject=subject, cases=cases):
                values = any(
                    isinstance(part, ast.MatchValue) for c in cases for part in ast.walk(c.pattern)
                )
                return values and self._is_text(subject)
        return False


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """What stands in a scope itself, and not in a function in it."""
    waiting = list(ast.iter_child_nodes(scope))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function):
            waiting += ast.iter_child_nodes(node)
