"""Executes a template's tree on values, as Go's text/template does, within limits.

Source: https://pkg.go.dev/text/template and the package's exec.go, whose words
the errors use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.templates.failure import LimitError, RenderError
from mbuild.templates.govalues import (
    Named,
    Struct,
    Value,
    byte_order,
    plain,
    show,
    truth,
    type_name,
)
from mbuild.templates.nodes import (
    Action,
    Branch,
    BranchKind,
    Call,
    Chain,
    Command,
    Dot,
    Field,
    Function,
    Jump,
    Literal,
    Nil,
    Pipe,
    Text,
    Variable,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from mbuild.templates.functions import Signature
    from mbuild.templates.nodes import Node, Operand

MAX_STEPS = 500_000
"""How many nodes and commands one execution evaluates at most."""

MAX_OUTPUT = 8 << 20
"""How many characters one execution writes, and a function is given, at most."""

MAX_DEPTH = 100
"""How deep actions, parentheses and called templates nest in execution (Go: 100,000)."""


class _Break(Exception):
    """Leaves the innermost range."""


class _Continue(Exception):
    """Goes on with the next item of the innermost range."""


class _Absent:
    """The missing result of a command before the first one; nil is a result."""


_ABSENT = _Absent()


def execute(
    nodes: Sequence[Node],
    dot: Value,
    functions: Mapping[str, Signature],
    definitions: Mapping[str, tuple[Node, ...]],
) -> str:
    """What the nodes write, given ``dot``.

    Raises :class:`RenderError` for what Go refuses while it executes, and beyond
    the limits above.
    """
    run = _Run(functions, definitions)
    try:
        run.nodes(nodes, dot, [("$", dot)])
    except RecursionError:
        raise LimitError("the template or its values nest too deep") from None
    return "".join(run.parts)


class _Run:
    """One execution: what was written, and how much of the limits is used."""

    def __init__(
        self, functions: Mapping[str, Signature], definitions: Mapping[str, tuple[Node, ...]]
    ) -> None:
        self._functions = functions
        self._definitions = definitions
        self.parts: list[str] = []
        self._written = self._steps = self._depth = 0

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise LimitError(f"the template takes more than {MAX_STEPS:,} steps")

    def _write(self, text: str) -> None:
        self._written += len(text)
        if self._written > MAX_OUTPUT:
            raise LimitError(f"the template writes more than {MAX_OUTPUT:,} characters")
        self.parts.append(text)

    # ---- nodes

    def nodes(self, nodes: Sequence[Node], dot: Value, scope: list[tuple[str, Value]]) -> None:
        """Executes nodes one after the other; ``scope`` holds the variables, innermost last."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise LimitError(f"actions nest deeper than {MAX_DEPTH}")
        for node in nodes:
            self._step()
            match node:
                case Text(text=text):
                    self._write(text)
                case Action(pipe=pipe):
                    value = self.pipe(pipe, dot, scope)
                    if not pipe.variables:
                        self._write("<no value>" if value is None else show(value))
                case Branch(kind=BranchKind.RANGE):
                    self._range(node, dot, scope)
                case Branch():
                    self._condition(node, dot, scope)
                case Call():
                    self._call(node, dot, scope)
                case Jump(again=again):
                    raise _Continue if again else _Break
        self._depth -= 1

    def _condition(self, node: Branch, dot: Value, scope: list[tuple[str, Value]]) -> None:
        mark = len(scope)
        while True:
            value = self.pipe(node.pipe, dot, scope)
            if truth(value):
                self.nodes(node.body, value if node.kind is BranchKind.WITH else dot, scope)
                break
            # A chain of else-ifs is a loop here, that its length may not count as depth.
            match node.otherwise:
                case (Branch(kind=BranchKind.IF | BranchKind.WITH) as following,):
                    node = following
                case otherwise:
                    self.nodes(otherwise, dot, scope)
                    break
        del scope[mark:]

    def _range(self, node: Branch, dot: Value, scope: list[tuple[str, Value]]) -> None:
        outer = len(scope)
        value = self.pipe(node.pipe, dot, scope)
        mark, depth = len(scope), self._depth
        empty = True
        for key, item in self._items(value, len(node.pipe.variables)):
            empty = False
            self._step()
            self._assign_item(node.pipe, scope, mark, (key, item))
            try:
                self.nodes(node.body, item, scope)
            except _Continue:
                pass
            except _Break:
                break
            finally:
                self._depth = depth
                del scope[mark:]
        if empty:
            self.nodes(node.otherwise, dot, scope)
        del scope[outer:]

    def _items(self, value: Value, variables: int) -> Iterator[tuple[Value, Value]]:
        items = plain(value)
        if items is None:
            return
        if isinstance(items, list):
            yield from enumerate(items)
        elif isinstance(items, dict):
            for key in sorted(items, key=byte_order):
                yield key, items[key]
        elif type(items) is int:
            if variables > 1:
                raise RenderError(f"can't use {items} to iterate over more than one variable")
            for number in range(items):
                yield number, number
        else:
            raise RenderError(f"range can't iterate over {show(value)}")

    def _assign_item(
        self, pipe: Pipe, scope: list[tuple[str, Value]], mark: int, pair: tuple[Value, Value]
    ) -> None:
        values = pair if len(pipe.variables) == 2 else pair[1:]
        for place, (name, value) in enumerate(zip(pipe.variables, values, strict=False)):
            if pipe.assigns:
                self._assign(name, value, scope)
            else:
                scope[mark - len(pipe.variables) + place] = (name, value)

    def _call(self, node: Call, dot: Value, scope: list[tuple[str, Value]]) -> None:
        if node.name not in self._definitions:
            raise RenderError(f"line {node.line}: template {node.name!r} not defined")
        value = self.pipe(node.pipe, dot, scope) if node.pipe else None
        self.nodes(self._definitions[node.name], value, [("$", value)])

    # ---- pipelines

    def pipe(self, pipe: Pipe, dot: Value, scope: list[tuple[str, Value]]) -> Value:
        """The value of a pipeline, which its variables get as well."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise LimitError(f"pipelines nest deeper than {MAX_DEPTH}")
        value: Value = _ABSENT
        for command in pipe.commands:
            self._step()
            value = self._command(command, value, dot, scope)
        self._depth -= 1
        value = None if value is _ABSENT else value
        for name in pipe.variables:
            if pipe.assigns:
                self._assign(name, value, scope)
            else:
                scope.append((name, value))
        return value

    def _assign(self, name: str, value: Value, scope: list[tuple[str, Value]]) -> None:
        for place in range(len(scope) - 1, -1, -1):
            if scope[place][0] == name:
                scope[place] = (name, value)
                return
        raise RenderError(f"undefined variable: {name}")

    def _command(
        self, command: Command, final: Value, dot: Value, scope: list[tuple[str, Value]]
    ) -> Value:
        first = command.operands[0]
        has_arguments = len(command.operands) > 1 or final is not _ABSENT
        if isinstance(first, Function):
            return self._function(command, final, dot, scope)
        if has_arguments:
            match first:
                case Field(names=(*_, name)) | Chain(fields=(*_, name)):
                    raise RenderError(f"{name} is not a method but has arguments")
                case Variable(fields=(*_, name)):
                    raise RenderError(f"{name} is not a method but has arguments")
            raise RenderError("can't give argument to non-function")
        if isinstance(first, Nil):
            raise RenderError("nil is not a command")
        return self._operand(first, dot, scope)

    def _operand(self, operand: Operand, dot: Value, scope: list[tuple[str, Value]]) -> Value:
        match operand:
            case Dot():
                return dot
            case Nil():
                return None
            case Literal(value=value, text=text):
                if type(value) is int and value >= 2**63:
                    raise RenderError(f"{text} overflows int")
                return value
            case Field(names=names):
                return _fields(dot, names)
            case Variable(name=name, fields=fields):
                return _fields(_variable(name, scope), fields)
            case Pipe():
                return self.pipe(operand, dot, scope)
            case Chain(operand=inner, fields=fields):
                if isinstance(inner, Nil):
                    raise RenderError("indirection through explicit nil")
                return _fields(self._operand(inner, dot, scope), fields)
            case Function():
                return self._function(Command((operand,)), _ABSENT, dot, scope)

    # ---- functions

    def _function(
        self, command: Command, final: Value, dot: Value, scope: list[tuple[str, Value]]
    ) -> Value:
        function = command.operands[0]
        assert isinstance(function, Function)
        name, operands = function.name, command.operands[1:]
        count = len(operands) + (final is not _ABSENT)
        if name in ("and", "or"):
            if not count:
                raise RenderError(f"wrong number of args for {name}: want at least 1 got 0")
            return self._logic(name == "or", operands, final, (dot, scope))
        if name not in self._functions:
            raise RenderError(f'"{name}" is not a defined function')
        code, least, most = self._functions[name]
        if count < least or (most is not None and count > most):
            wanted = f"want {least}" if most == least else f"want at least {least}"
            raise RenderError(f"wrong number of args for {name}: {wanted} got {count}")
        values = [self._operand(operand, dot, scope) for operand in operands]
        if final is not _ABSENT:
            values.append(final)
        if sum(len(value) for value in values if isinstance(value, str)) > MAX_OUTPUT:
            raise LimitError(f"{name} is given more than {MAX_OUTPUT:,} characters")
        try:
            return code(*values)
        except RenderError as error:
            raise RenderError(f"error calling {name}: {error.message}") from None

    def _logic(
        self,
        stop: bool,
        operands: Sequence[Operand],
        final: Value,
        place: tuple[Value, list[tuple[str, Value]]],
    ) -> Value:
        """``and`` and ``or``: the first argument that decides, or the last one."""
        value: Value = None
        for operand in operands:
            value = self._operand(operand, *place)
            if truth(value) is stop:
                return value
        return value if final is _ABSENT else final


def _variable(name: str, scope: list[tuple[str, Value]]) -> Value:
    for known, value in reversed(scope):
        if known == name:
            return value
    raise RenderError(f"undefined variable: {name}")


def _fields(value: Value, names: Sequence[str]) -> Value:
    """Fields, one of the other; what a map does not have is nil."""
    for name in names:
        items = value.items if isinstance(value, Named) else value
        if isinstance(items, Struct):
            if name not in items.fields:
                raise RenderError(f"can't evaluate field {name} in type {items.type_name}")
            value = items.fields[name]
        elif isinstance(items, dict):
            value = items.get(name)
        elif items is None:
            raise RenderError(f"nil pointer evaluating interface {{}}.{name}")
        else:
            raise RenderError(f"can't evaluate field {name} in type {type_name(value)}")
    return value
