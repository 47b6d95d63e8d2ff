"""What an expression can say: its words, with ``{name}`` where a value goes."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from .trees import (
    Function,
    Module,
    Trees,
    arguments,
    assigned_in,
    default,
    is_name,
    item,
    last_name,
    loops,
    nodes,
    parameters,
)

MAX_DEPTH = 4
"""How far up the callers a sentence is followed."""

MAX_SEEN = 14
"""How many expressions lie between a message and its words at most."""

Way = Mapping[str, Any]
"""For each parameter the module and the expression that it is given there, and so on upwards."""


class Texts(Trees):
    """Follows expressions to the words in them.

    ``words`` are the places of the literals that were found to be words of a sentence: file,
    line, column.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words: set[tuple[str, int, int]] = set()
        self._phrases: dict[tuple[Function, str], bool] = {}

    def ways(
        self, module: Module, node: ast.AST, said: Sequence[ast.expr], depth: int
    ) -> Iterator[Way]:
        """What the parameters in an expression are, for each place that calls the function."""
        function = module.function_of(node)
        names = {n.id for expression in said for n in ast.walk(expression) if is_name(n)}
        local = assigned_in(function)
        for name in names & local.keys():
            names |= {n.id for value in local[name] for n in ast.walk(value) if is_name(n)}
        wanted = (names - local.keys()) & parameters(function) if function else set()
        wanted = {name for name in wanted if self._has_phrases(module, function, name, 0)}
        ways = 0
        if wanted and function is not None and depth < MAX_DEPTH:
            for other, call in self.calls(module, function):
                given = arguments(function, call)
                values = {name: given[name] for name in wanted if name in given}
                for above in self.ways(other, call, [*values.values()], depth + 1):
                    ways += 1
                    yield {name: (other, value, above) for name, value in values.items()}
        if not ways:
            yield {}

    def _has_phrases(
        self, module: Module, function: Function | None, name: str, depth: int
    ) -> bool:
        """Whether callers give a parameter words of a sentence; most are values."""
        if function is None or depth > MAX_DEPTH:
            return False
        if (function, name) not in self._phrases:
            self._phrases[function, name] = False
            self._phrases[function, name] = any(
                self._may_be_phrase(other, given, depth)
                for other, call in self.calls(module, function)
                if (given := arguments(function, call).get(name)) is not None
            )
        return self._phrases[function, name]

    def _may_be_phrase(self, module: Module, given: ast.expr, depth: int) -> bool:
        function = module.function_of(given)
        for node in ast.walk(given):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if is_phrase(node.value):
                    return True
            elif is_name(node):
                values = assigned_in(function).get(node.id, [])
                if any(is_text(value) for value in values):
                    return True
                constant = module.constants.get(node.id)
                if not values and constant is not None and is_text(constant):
                    return True
                if self._has_phrases(module, function, node.id, depth + 1):
                    return True
            elif isinstance(node, ast.Call):
                found = self.function(module, node.func)
                if found is not None and _says(found[1]):
                    return True
        return False

    def texts(
        self, module: Module, node: ast.expr, way: Way, seen: tuple[ast.AST, ...]
    ) -> Iterator[str]:
        """What an expression can say: each way once."""
        if node in seen or len(seen) > MAX_SEEN:
            return
        seen = (*seen, node)
        match node:
            case ast.Constant(value=value):
                if isinstance(value, str) and value:
                    self._note(module, node)
                    yield value
            case ast.JoinedStr() | ast.BinOp(op=ast.Add()):
                yield self._inline(module, node, way, seen)
            case ast.IfExp(body=body, orelse=other):
                yield from self.texts(module, body, way, seen)
                yield from self.texts(module, other, way, seen)
            case (
                ast.BoolOp(values=values)
                | ast.Tuple(elts=values)
                | ast.List(elts=values)
                | ast.Dict(values=values)
            ):
                for value in values:
                    yield from self.texts(module, value, way, seen)
            case (
                ast.Lambda(body=body)
                | ast.NamedExpr(value=body)
                | ast.Starred(value=body)
                | ast.ListComp(elt=body)
                | ast.DictComp(value=body)
                | ast.GeneratorExp(elt=body)
            ):
                yield from self.texts(module, body, way, seen)
            case ast.Name(id=name):
                yield from self._named(module, node, name, way, seen)
            case ast.Subscript(value=value, slice=place):
                yield from self._part(module, value, place, way, seen)
            case ast.Call():
                yield from self._called(module, node, way, seen)
            case _:
                yield f"{{{_word(node)}}}"

    def _note(self, module: Module, node: ast.Constant) -> None:
        if isinstance(node.value, str) and is_phrase(node.value):
            self.words.add((module.file, node.lineno, node.col_offset))

    def _inline(self, module: Module, node: ast.expr, way: Way, seen: tuple[ast.AST, ...]) -> str:
        """One text of several parts; where the code chooses, both."""
        if len(seen) > MAX_SEEN:
            return f"{{{_word(node)}}}"
        if isinstance(node, ast.JoinedStr):
            return "".join(self._inline(module, part, way, seen) for part in node.values)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            sides = (node.left, node.right)
            return "".join(self._inline(module, side, way, seen) for side in sides)
        if isinstance(node, ast.Constant):
            self._note(module, node)
            return str(node.value) if node.value is not None else ""
        if isinstance(node, ast.IfExp):
            ways = [self._inline(module, part, way, seen) for part in (node.body, node.orelse)]
            return f"[{'|'.join(ways)}]" if has_words("".join(ways)) else f"{{{_word(node)}}}"
        if isinstance(node, ast.FormattedValue):
            return self._inline_value(module, node.value, way, seen)
        return f"{{{_word(node)}}}"

    def _inline_value(
        self, module: Module, node: ast.expr, way: Way, seen: tuple[ast.AST, ...]
    ) -> str:
        """A value inside a text: words where the code has them, else a placeholder."""
        if isinstance(node, (ast.IfExp, ast.Constant)):
            return self._inline(module, node, way, seen)
        if isinstance(node, ast.Name):
            if node.id in way:
                other, value, above = way[node.id]
                text = self._inline(other, value, above, (*seen, value))
                return text if is_phrase(text) else f"{{{node.id}}}"
            for value in assigned_in(module.function_of(node)).get(node.id, ()):
                if value not in seen:
                    text = self._inline(module, value, way, (*seen, value))
                    if is_phrase(text) or isinstance(value, ast.IfExp):
                        return text
            constant = module.constants.get(node.id)
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                return constant.value
        return f"{{{_word(node)}}}"

    def _named(
        self, module: Module, node: ast.AST, name: str, way: Way, seen: tuple[ast.AST, ...]
    ) -> Iterator[str]:
        """A name: what it was given by who calls, in its function, or in its module."""
        function = module.function_of(node)
        values = assigned_in(function).get(name, [])
        if not values and name in way:
            other, value, above = way[name]
            yield from self.texts(other, value, above, seen)
            return
        values = values or [*loops(function, name)]
        if not values and function is not None and name in parameters(function):
            values = [value for value in (default(function, name),) if value is not None]
        elif not values and name in module.constants:
            values = [module.constants[name]]
        if values:
            for value in values:
                yield from self.texts(module, value, way, seen)
            return
        there, constant = self.constant(module, name)
        if constant is not None:
            yield from self.texts(there, constant, {}, seen)
        else:
            yield f"{{{name}}}"

    def _called(
        self, module: Module, node: ast.Call, way: Way, seen: tuple[ast.AST, ...]
    ) -> Iterator[str]:
        """What a call gives: a method of a text that text, a function what it returns."""
        function = node.func
        texts = (ast.Constant, ast.JoinedStr, ast.Subscript)
        if last_name(function) == "variant_label":
            yield from self.texts(module, node.args[0], way, seen)
        elif isinstance(function, ast.Subscript):
            yield from self.texts(module, function, way, seen)
        elif isinstance(function, ast.Attribute) and function.attr == "get":
            yield from self._part(module, function.value, function, way, seen)
        elif isinstance(function, ast.Attribute) and isinstance(function.value, texts):
            if function.attr == "join":
                yield f"{{{_word(node)}}}"
            else:
                yield from self.texts(module, function.value, way, seen)
        elif found := self.function(module, function):
            yield from self.returned(*found, seen)
        else:
            yield f"{{{_word(node)}}}"

    def returned(
        self, module: Module, function: Function, seen: tuple[ast.AST, ...]
    ) -> Iterator[str]:
        """What a function returns or yields."""
        for child in nodes(function):
            if isinstance(child, (ast.Return, ast.Yield)) and child.value is not None:
                yield from self.texts(module, child.value, {}, seen)

    def _part(
        self,
        module: Module,
        value: ast.expr,
        place: ast.expr,
        way: Way,
        seen: tuple[ast.AST, ...],
    ) -> Iterator[str]:
        """One element of what an expression gives; of a table any."""
        number = place.value if isinstance(place, ast.Constant) else None
        if isinstance(value, ast.Name):
            local = assigned_in(module.function_of(value)).get(value.id, [])
            module, constant = self.constant(module, value.id)
            value = (local or [constant or value])[0]
        if isinstance(number, int) and isinstance(value, ast.Call):
            found = self.function(module, value.func)
            if found is None:
                yield f"{{{_word(value)}}}"
                return
            for child in nodes(found[1]):
                if isinstance(child, ast.Return) and isinstance(child.value, ast.Tuple):
                    yield from self.texts(found[0], item(child.value, number), {}, seen)
        elif isinstance(number, int) and isinstance(value, ast.Dict):
            rows = [item(row, number) for row in value.values]
            for row in rows:
                yield from self.texts(module, row, way, seen)
        elif isinstance(value, (ast.Dict, ast.Tuple, ast.List)):
            yield from self.texts(module, value, way, seen)
        else:
            yield f"{{{_word(value)}}}"


@cache
def _says(function: Function) -> bool:
    """Whether a function gives words of a sentence."""
    return any(
        isinstance(child, (ast.Return, ast.Yield)) and child.value and is_text(child.value)
        for child in nodes(function)
    )


def _word(node: ast.AST) -> str:
    """What a placeholder is called: the name of the value, as far as it has one."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.strip("_")
        case ast.Call(func=function, args=arguments):
            inner = [a for a in arguments if not isinstance(a, (ast.Constant, ast.Starred))]
            return _word(inner[0]) if inner else _word(function)
        case ast.Subscript(value=value) | ast.FormattedValue(value=value):
            return _word(value)
        case ast.GeneratorExp(elt=value) | ast.ListComp(elt=value) | ast.UnaryOp(operand=value):
            return _word(value)
        case ast.BinOp(left=value) | ast.IfExp(body=value) | ast.Starred(value=value):
            return _word(value)
    return "value"


def _without_values(text: str) -> str:
    return re.sub(r"\{[^{}]*\}", "", text)


def has_words(text: str) -> bool:
    """Whether a text has words of its own, and not only values."""
    return bool(re.search(r"[A-Za-z]", _without_values(text)))


def is_text(node: ast.expr) -> bool:
    """Whether a sentence, or part of one, stands in an expression."""
    return any(
        isinstance(part, ast.Constant) and isinstance(part.value, str) and is_phrase(part.value)
        for part in ast.walk(node)
    )


def is_phrase(text: str) -> bool:
    """Whether it is words of a sentence, and not a name."""
    return bool(re.search(r"[a-z] [A-Za-z]|^ |[a-z]: ", _without_values(text)))
