"""The package's syntax trees, and what names in them mean."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

import mbuild

ROOT = Path(mbuild.__file__).parent

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module:
    """One file's tree, and where its names come from."""

    def __init__(self, path: Path) -> None:
        self.file = path.relative_to(ROOT).as_posix()
        self.name = dotted(path)
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.functions: dict[str, Function] = {}
        self.calls: dict[str, list[ast.Call]] = {}
        self.constants: dict[str, ast.expr] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        self.around: dict[ast.AST, ast.AST] = {}
        self.nodes: list[ast.AST] = [self.tree]  # in the order of ast.walk
        for node in self.nodes:
            for child in ast.iter_child_nodes(node):
                self.around[child] = node
                self.nodes.append(child)
            if isinstance(node, Function):
                self.functions[node.name] = node
            elif isinstance(node, ast.Call):
                self.calls.setdefault(last_name(node.func), []).append(node)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mbuild"):
                for name in node.names:
                    self.imports[name.asname or name.name] = (str(node.module), name.name)
        for node in self.tree.body:
            for target, value in assigned(node):
                self.constants[target] = value

    def function_of(self, node: ast.AST) -> Function | None:
        """The function that a node stands in."""
        found: ast.AST | None = node
        while found is not None and not isinstance(found, Function):
            found = self.around.get(found)
        return found


class Trees:
    """All modules of the package by their dotted names, and who calls what."""

    def __init__(self) -> None:
        paths = sorted(ROOT.rglob("*.py"))
        self.modules = {dotted(path): Module(path) for path in paths}
        self._callers: dict[str, list[tuple[Module, ast.Call]]] = {}
        for module in self.modules.values():
            for name, calls in module.calls.items():
                self._callers.setdefault(name, []).extend((module, call) for call in calls)
        self.definitions = Counter(
            name for module in self.modules.values() for name in module.functions
        )

    def calls(self, module: Module, function: Function) -> Iterator[tuple[Module, ast.Call]]:
        """Every place that calls a function, in its module and those that import it."""
        is_method = function.args.args[:1] and function.args.args[0].arg in ("self", "cls")
        for other, call in self._callers.get(function.name, ()):
            if is_method:
                known = self.is_of_class(module, function, other, call)
            else:
                known = other is module or (module.name, function.name) in other.imports.values()
            if known:
                yield other, call

    def is_of_class(
        self, module: Module, function: Function, other: Module, call: ast.Call
    ) -> bool:
        """Whether a call is one of this method, as far as names and annotations tell."""
        owner: str = getattr(getattr(call.func, "value", None), "id", "")
        if self.definitions[function.name] == 1 or (owner in ("self", "cls") and other is module):
            return True
        kind = getattr(module.around.get(function), "name", None)
        caller = other.function_of(call)
        annotation = annotations(caller).get(owner)
        return kind == owner or (annotation is not None and ast.unparse(annotation) == kind)

    def constant(self, module: Module, name: str) -> tuple[Module, ast.expr | None]:
        """The value of a module's name, and the module that gives it one."""
        there = self.modules.get(module.imports.get(name, ("", ""))[0])
        if name not in module.constants and there is not None:
            module, name = there, module.imports[name][1]
        return module, module.constants.get(name)

    def function(self, module: Module, node: ast.expr) -> tuple[Module, Function] | None:
        """The function that a call names, and its module."""
        name = last_name(node)
        owner = node.value.id if is_name(getattr(node, "value", None)) else ""
        there: Module | None = module
        if owner in module.imports:
            there = self.modules.get(".".join(module.imports[owner]))
        elif name in module.imports:
            there, name = self.modules.get(module.imports[name][0]), module.imports[name][1]
        if there is None or name not in there.functions:
            return None
        return there, there.functions[name]


def assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """The names that a statement gives a value, and the value; of pairs each its own."""
    if isinstance(node, ast.Assign):
        pairs = [(target, node.value) for target in node.targets]
    elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)) and node.value is not None:
        pairs = [(node.target, node.value)]
    else:
        return
    for target, value in pairs:
        if isinstance(target, ast.Name):
            yield target.id, value
        elif isinstance(target, ast.Tuple):
            for number, part in enumerate(target.elts):
                if isinstance(part, ast.Name):
                    yield part.id, item(value, number)


def item(value: ast.expr, number: int) -> ast.expr:
    """An element of what an expression gives; of a tuple the expression of its own."""
    if isinstance(value, ast.Tuple) and number < len(value.elts):
        return value.elts[number]
    return ast.Subscript(value, ast.Constant(number), ast.Load())


@cache
def nodes(function: Function | None) -> tuple[ast.AST, ...]:
    """Everything in a function."""
    return tuple(ast.walk(function)) if function is not None else ()


@cache
def annotations(function: Function | None) -> dict[str, ast.expr | None]:
    """The annotations of a function's parameters, and of those of functions in it."""
    return {a.arg: a.annotation for a in nodes(function) if isinstance(a, ast.arg)}


@cache
def assigned_in(function: Function | None) -> dict[str, list[ast.expr]]:
    """The values that a function's statements give each name."""
    found: dict[str, list[ast.expr]] = {}
    for child in nodes(function):
        for name, value in assigned(child):
            found.setdefault(name, []).append(value)
    return found


def is_name(node: ast.AST | None) -> TypeGuard[ast.Name]:
    """Whether a node is a plain name."""
    return isinstance(node, ast.Name)


def parameters(function: Function) -> set[str]:
    """The names of a function's parameters."""
    given = function.args
    return {a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)} - {"self", "cls"}


def arguments(function: Function, call: ast.Call) -> dict[str, ast.expr]:
    """What a call gives each parameter; defaults where it gives nothing."""
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    if names[:1] in (["self"], ["cls"]):
        names = names[1:]
    found = dict(zip(names, call.args, strict=False))
    found |= {word.arg: word.value for word in call.keywords if word.arg}
    for name in parameters(function) - found.keys():
        value = default(function, name)
        if value is not None:
            found[name] = value
    return found


def loops(function: Function | None, name: str) -> Iterator[ast.expr]:
    """What a loop gives a name."""
    for child in nodes(function):
        if isinstance(child, (ast.For, ast.comprehension)):
            target = child.target
            if isinstance(target, ast.Name) and target.id == name:
                yield child.iter


def default(function: Function, name: str) -> ast.expr | None:
    """A parameter's default."""
    given = function.args.args[len(function.args.args) - len(function.args.defaults) :]
    pairs: list[tuple[ast.arg, ast.expr | None]]
    pairs = [*zip(given, function.args.defaults, strict=True)]
    pairs += zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return next((value for argument, value in pairs if argument.arg == name), None)


def dotted(path: Path) -> str:
    """A module's name as imports have it."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def last_name(node: ast.expr) -> str:
    """A name without what stands before its last dot."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
