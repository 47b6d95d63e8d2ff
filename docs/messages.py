"""Every sentence that mbuild can say about a build, a file or a request, read from its code.

A message stands where it is made: in a ``raise``, a warning, a row of a table. This reads the
package's syntax trees, follows a message that has a name to where it got its words, and puts
``{name}`` where a value goes and ``[this|that]`` where the code chooses. What is only handed on
has no words of its own; :data:`HANDED_ON` names these places, and a test holds that there are no
others, so that no sentence is missing here.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import mbuild

ROOT = Path(mbuild.__file__).parent

WARNINGS = frozenset(("warn", "Warned"))
FOREIGN_ERRORS = frozenset(("ClickException", "UsageError", "BadParameter"))
"""Classes of click that are raised, too."""

TABLES = (
    ("cli/wording.py", "STATUSES", "status"),
    ("server/wording.py", "STATUSES", "status"),
    ("build/explain.py", "NOTES", "reason"),
    ("build/explain.py", "_STEPS", "reason"),
)
"""Tables of sentences: file, name, and what its rows are."""

FUNCTIONS = {
    ("build/graph.py", "variant_label"): "label",
    ("build/lock.py", "message"): "problem",
}
"""Functions that return sentences which are handed on as values."""

VALUE_ERRORS = frozenset(("core/units.py",))
"""Files whose ValueErrors are shown as they are."""

HANDED_ON: frozenset[str] = frozenset()
"""Places that only hand on a sentence which was made, and is listed, elsewhere."""

MAX_DEPTH = 4
MAX_SEEN = 14

_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Way = Mapping[str, Any]
"""For each parameter the module and the expression that it is given there, and so on upwards."""


class Message(NamedTuple):
    """One sentence, and the remedy that comes with it."""

    file: str
    line: int
    kind: str
    text: str
    hint: str = ""


class _Module:
    """One file's tree, and where its names come from."""

    def __init__(self, path: Path) -> None:
        self.file = path.relative_to(ROOT).as_posix()
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.functions: dict[str, _Function] = {}
        self.calls: dict[str, list[ast.Call]] = {}
        self.constants: dict[str, ast.expr] = {}
        self.imports: dict[str, tuple[str, str]] = {}
        self.around: dict[ast.AST, ast.AST] = {}
        for node in ast.walk(self.tree):
            for child in ast.iter_child_nodes(node):
                self.around[child] = node
            if isinstance(node, _Function):
                self.functions[node.name] = node
            elif isinstance(node, ast.Call):
                self.calls.setdefault(_last_name(node.func), []).append(node)
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mbuild"):
                for name in node.names:
                    self.imports[name.asname or name.name] = (str(node.module), name.name)
        for node in self.tree.body:
            for target, value in _assigned(node):
                self.constants[target] = value

    def function_of(self, node: ast.AST) -> _Function | None:
        """The function that a node stands in."""
        found: ast.AST | None = node
        while found is not None and not isinstance(found, _Function):
            found = self.around.get(found)
        return found


def _assigned(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
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
                    yield part.id, _item(value, number)


def _item(value: ast.expr, number: int) -> ast.expr:
    if isinstance(value, ast.Tuple) and number < len(value.elts):
        return value.elts[number]
    return ast.Subscript(value, ast.Constant(number), ast.Load())


class Reader:
    """The package's trees, and the sentences in them."""

    def __init__(self) -> None:
        paths = sorted(ROOT.rglob("*.py"))
        self.modules = {_dotted(path): _Module(path) for path in paths}
        self.calls: dict[str, list[tuple[_Module, ast.Call]]] = {}
        for module in self.modules.values():
            for name, calls in module.calls.items():
                self.calls.setdefault(name, []).extend((module, call) for call in calls)
        self.definitions = Counter(
            name for module in self.modules.values() for name in module.functions
        )
        self.errors = self._errors()
        self.handed_on: set[str] = set()
        self._phrases: dict[tuple[_Function, str], bool] = {}

    def messages(self) -> list[Message]:
        """All of them, each text once a file, in the order of files and lines."""
        found: dict[tuple[str, str, str, str], Message] = {}
        for module in self.modules.values():
            for message in self._of(module):
                found.setdefault((message.file, *message[2:]), message)
        return sorted(found.values(), key=lambda m: (m.file, m.line, m.text, m.hint))

    def _errors(self) -> frozenset[str]:
        """The names of all classes of errors: they come from MbuildError, or from click's."""
        bases: dict[str, set[str]] = {}
        for module in self.modules.values():
            for node in ast.walk(module.tree):
                if isinstance(node, ast.ClassDef):
                    names = {_last_name(base) for base in node.bases}
                    bases.setdefault(node.name, set()).update(names)
        errors = {"MbuildError", *FOREIGN_ERRORS}
        while more := {name for name, above in bases.items() if above & errors} - errors:
            errors |= more
        return frozenset(errors)

    def _of(self, module: _Module) -> Iterator[Message]:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call):
                yield from self._of_call(module, node)
            elif isinstance(node, ast.FunctionDef) and (kind := _kind_of_function(module, node)):
                for text in self._returned(module, node, ()):
                    if _has_words(text):
                        yield Message(module.file, node.lineno, kind, text)
        for file, name, kind in TABLES:
            if file == module.file:
                table = module.constants[name]
                for text in self._texts(module, table, {}, ()):
                    yield Message(module.file, table.lineno, kind, text)

    def _of_call(self, module: _Module, node: ast.Call) -> Iterator[Message]:
        kind = self._kind(module, node)
        if not kind or not node.args:
            return
        first = node.args[1 if _last_name(node.func) == "TemplateError" and node.args[1:] else 0]
        hints = [word.value for word in node.keywords if word.arg in ("hint", "suggestion")]
        if kind == "problem" and len(node.args) > 4:
            hints = [node.args[4]]
        elif kind == "problem" and isinstance(node.args[-1], ast.Starred):
            pair = node.args[-1].value
            hints = [ast.Subscript(pair, ast.Constant(1), ast.Load())]
            module.around[hints[0]] = node
        for way in self._ways(module, node, [first, *hints], 0):
            yield from self._in_one_way(module, kind, first, hints, way)

    def _in_one_way(
        self, module: _Module, kind: str, first: ast.expr, hints: Sequence[ast.expr], way: _Way
    ) -> Iterator[Message]:
        remedies = [text for hint in hints for text in self._texts(module, hint, way, ())] or [""]
        for text in self._texts(module, first, way, ()):
            if not _has_words(text):
                self.handed_on.add(f"{module.file}: {ast.unparse(first)}")
                continue
            for hint in remedies:
                yield Message(module.file, first.lineno, kind, text, hint)

    def _kind(self, module: _Module, node: ast.Call) -> str:
        name = _last_name(node.func)
        if name in self.errors and name != "ModelfileError":
            return "error"
        if name == "ValueError" and module.file in VALUE_ERRORS:
            return "error"
        if name == "Problem" and "disk" not in module.file:
            return "problem"
        if name == "fail" and isinstance(node.func, ast.Attribute) and len(node.args) == 3:
            return "error"
        return "warning" if name in WARNINGS else ""

    def _ways(
        self, module: _Module, node: ast.AST, said: Sequence[ast.expr], depth: int
    ) -> Iterator[_Way]:
        """What the parameters in an expression are, for each place that calls the function."""
        function = module.function_of(node)
        names = {n.id for expression in said for n in ast.walk(expression) if _is_name(n)}
        local = _given(function)
        for name in names & local.keys():
            names |= {n.id for value in local[name] for n in ast.walk(value) if _is_name(n)}
        wanted = (names - local.keys()) & _parameters(function) if function else set()
        wanted = {name for name in wanted if self._has_phrases(module, function, name, 0)}
        ways = 0
        if wanted and function is not None and depth < MAX_DEPTH:
            for other, call in self._calls(module, function):
                given = _arguments(function, call)
                values = {name: given[name] for name in wanted if name in given}
                for above in self._ways(other, call, [*values.values()], depth + 1):
                    ways += 1
                    yield {name: (other, value, above) for name, value in values.items()}
        if not ways:
            yield {}

    def _has_phrases(
        self, module: _Module, function: _Function | None, name: str, depth: int
    ) -> bool:
        """Whether callers give a parameter words of a sentence; most are values."""
        if function is None or depth > MAX_DEPTH:
            return False
        if (function, name) not in self._phrases:
            self._phrases[function, name] = False
            self._phrases[function, name] = any(
                self._may_be_phrase(other, given, depth)
                for other, call in self._calls(module, function)
                if (given := _arguments(function, call).get(name)) is not None
            )
        return self._phrases[function, name]

    def _may_be_phrase(self, module: _Module, given: ast.expr, depth: int) -> bool:
        function = module.function_of(given)
        for node in ast.walk(given):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                if _is_phrase(node.value):
                    return True
            elif _is_name(node):
                values = _given(function).get(node.id, [])
                if any(_is_text(value) for value in values):
                    return True
                constant = module.constants.get(node.id)
                if not values and constant is not None and _is_text(constant):
                    return True
                if self._has_phrases(module, function, node.id, depth + 1):
                    return True
            elif isinstance(node, ast.Call) and (found := self._function(module, node.func)):
                if _says(found[1]):
                    return True
        return False

    def _calls(self, module: _Module, function: _Function) -> Iterator[tuple[_Module, ast.Call]]:
        """Every place that calls a function, in its module and those that import it."""
        is_method = function.args.args[:1] and function.args.args[0].arg in ("self", "cls")
        for other, call in self.calls.get(function.name, ()):
            if is_method:
                known = self._is_of_class(module, function, other, call)
            else:
                known = other is module or function.name in other.imports
            if known:
                yield other, call

    def _is_of_class(
        self, module: _Module, function: _Function, other: _Module, call: ast.Call
    ) -> bool:
        """Whether a call is one of this method, as far as names and annotations tell."""
        owner = getattr(getattr(call.func, "value", None), "id", "")
        if self.definitions[function.name] == 1 or (owner in ("self", "cls") and other is module):
            return True
        kind = getattr(module.around.get(function), "name", None)
        caller = other.function_of(call)
        given = {a.arg: a.annotation for a in _nodes(caller) if isinstance(a, ast.arg)}
        annotation = given.get(owner)
        return kind == owner or (annotation is not None and ast.unparse(annotation) == kind)

    def _texts(
        self, module: _Module, node: ast.expr, way: _Way, seen: tuple[ast.AST, ...]
    ) -> Iterator[str]:
        """What an expression can say: each way once."""
        if node in seen or len(seen) > MAX_SEEN:
            return
        seen = (*seen, node)
        match node:
            case ast.Constant(value=value):
                if isinstance(value, str) and value:
                    yield value
            case ast.JoinedStr() | ast.BinOp(op=ast.Add()):
                yield self._inline(module, node, way, seen)
            case ast.IfExp(body=body, orelse=other):
                yield from self._texts(module, body, way, seen)
                yield from self._texts(module, other, way, seen)
            case (
                ast.BoolOp(values=values)
                | ast.Tuple(elts=values)
                | ast.List(elts=values)
                | ast.Dict(values=values)
            ):
                for value in values:
                    yield from self._texts(module, value, way, seen)
            case ast.Lambda(body=body) | ast.NamedExpr(value=body) | ast.Starred(value=body):
                yield from self._texts(module, body, way, seen)
            case ast.Name(id=name):
                yield from self._named(module, node, name, way, seen)
            case ast.Subscript(value=value, slice=place):
                yield from self._part(module, value, place, way, seen)
            case ast.Call():
                yield from self._called(module, node, way, seen)
            case _:
                yield f"{{{_word(node)}}}"

    def _inline(self, module: _Module, node: ast.expr, way: _Way, seen: tuple[ast.AST, ...]) -> str:
        """One text of several parts; where the code chooses, both."""
        if len(seen) > MAX_SEEN:
            return f"{{{_word(node)}}}"
        if isinstance(node, ast.JoinedStr):
            return "".join(self._inline(module, part, way, seen) for part in node.values)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            sides = (node.left, node.right)
            return "".join(self._inline(module, side, way, seen) for side in sides)
        if isinstance(node, ast.Constant):
            return str(node.value) if node.value is not None else ""
        if isinstance(node, ast.IfExp):
            ways = [self._inline(module, part, way, seen) for part in (node.body, node.orelse)]
            return f"[{'|'.join(ways)}]" if _has_words("".join(ways)) else f"{{{_word(node)}}}"
        if isinstance(node, ast.FormattedValue):
            return self._inline_value(module, node.value, way, seen)
        return f"{{{_word(node)}}}"

    def _inline_value(
        self, module: _Module, node: ast.expr, way: _Way, seen: tuple[ast.AST, ...]
    ) -> str:
        """A value inside a text: words where the code has them, else a placeholder."""
        if isinstance(node, (ast.IfExp, ast.Constant)):
            return self._inline(module, node, way, seen)
        if isinstance(node, ast.Name):
            if node.id in way:
                other, value, above = way[node.id]
                text = self._inline(other, value, above, (*seen, value))
                return text if _is_phrase(text) else f"{{{node.id}}}"
            for value in _given(module.function_of(node)).get(node.id, ()):
                if value not in seen:
                    text = self._inline(module, value, way, (*seen, value))
                    if _is_phrase(text) or isinstance(value, ast.IfExp):
                        return text
            constant = module.constants.get(node.id)
            if isinstance(constant, ast.Constant) and isinstance(constant.value, str):
                return constant.value
        return f"{{{_word(node)}}}"

    def _named(
        self, module: _Module, node: ast.AST, name: str, way: _Way, seen: tuple[ast.AST, ...]
    ) -> Iterator[str]:
        """A name: what it was given by who calls, in its function, or in its module."""
        function = module.function_of(node)
        values = _given(function).get(name, [])
        if not values and name in way:
            other, value, above = way[name]
            yield from self._texts(other, value, above, seen)
            return
        values = values or [*_loops(function, name)]
        if not values and function is not None and name in _parameters(function):
            values = [value for value in (_default(function, name),) if value is not None]
        elif not values and name in module.constants:
            values = [module.constants[name]]
        if values:
            for value in values:
                yield from self._texts(module, value, way, seen)
            return
        there = self.modules.get(module.imports.get(name, ("", ""))[0])
        constant = there.constants.get(module.imports[name][1]) if there is not None else None
        if there is not None and constant is not None:
            yield from self._texts(there, constant, {}, seen)
        else:
            yield f"{{{name}}}"

    def _function(self, module: _Module, node: ast.expr) -> tuple[_Module, _Function] | None:
        """The function that a call names, and its module."""
        name = _last_name(node)
        owner = node.value.id if _is_name(getattr(node, "value", None)) else ""
        there: _Module | None = module
        if owner in module.imports:
            there = self.modules.get(".".join(module.imports[owner]))
        elif name in module.imports:
            there, name = self.modules.get(module.imports[name][0]), module.imports[name][1]
        if there is None or name not in there.functions:
            return None
        return there, there.functions[name]

    def _called(
        self, module: _Module, node: ast.Call, way: _Way, seen: tuple[ast.AST, ...]
    ) -> Iterator[str]:
        """What a call gives: a method of a text that text, a function what it returns."""
        function = node.func
        texts = (ast.Constant, ast.JoinedStr, ast.Subscript)
        if _last_name(function) == "variant_label":
            yield from self._texts(module, node.args[0], way, seen)
        elif isinstance(function, ast.Subscript):
            yield from self._texts(module, function, way, seen)
        elif isinstance(function, ast.Attribute) and isinstance(function.value, texts):
            if function.attr == "join":
                yield f"{{{_word(node)}}}"
            else:
                yield from self._texts(module, function.value, way, seen)
        elif found := self._function(module, function):
            yield from self._returned(*found, seen)
        else:
            yield f"{{{_word(node)}}}"

    def _returned(
        self, module: _Module, function: _Function, seen: tuple[ast.AST, ...]
    ) -> Iterator[str]:
        """What a function returns or yields."""
        for child in _nodes(function):
            if isinstance(child, (ast.Return, ast.Yield)) and child.value is not None:
                yield from self._texts(module, child.value, {}, seen)

    def _part(
        self,
        module: _Module,
        value: ast.expr,
        place: ast.expr,
        way: _Way,
        seen: tuple[ast.AST, ...],
    ) -> Iterator[str]:
        """One element of what an expression gives; of a table any."""
        number = place.value if isinstance(place, ast.Constant) else None
        if isinstance(value, ast.Name):
            local = _given(module.function_of(value)).get(value.id, [])
            value = (local or [module.constants.get(value.id, value)])[0]
        if isinstance(number, int) and isinstance(value, ast.Call):
            found = self._function(module, value.func)
            for child in _nodes(found[1]) if found else ():
                if isinstance(child, ast.Return) and isinstance(child.value, ast.Tuple):
                    yield from self._texts(found[0], _item(child.value, number), {}, seen)
            if found is None:
                yield f"{{{_word(value)}}}"
        elif isinstance(number, int) and isinstance(value, ast.Dict):
            rows = [_item(row, number) for row in value.values]
            for row in rows:
                yield from self._texts(module, row, way, seen)
        elif isinstance(value, (ast.Dict, ast.Tuple, ast.List)):
            yield from self._texts(module, value, way, seen)
        else:
            yield f"{{{_word(value)}}}"


def _nodes(function: _Function | None) -> Iterator[ast.AST]:
    return ast.walk(function) if function is not None else iter(())


@lru_cache(maxsize=None)
def _given(function: _Function | None) -> dict[str, list[ast.expr]]:
    """The values that a function's statements give each name."""
    found: dict[str, list[ast.expr]] = {}
    for child in _nodes(function):
        for name, value in _assigned(child):
            found.setdefault(name, []).append(value)
    return found


@lru_cache(maxsize=None)
def _says(function: _Function) -> bool:
    """Whether a function gives words of a sentence."""
    return any(
        isinstance(child, (ast.Return, ast.Yield)) and child.value and _is_text(child.value)
        for child in _nodes(function)
    )


def _is_name(node: ast.AST | None) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name)


def _parameters(function: _Function) -> set[str]:
    given = function.args
    return {a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs)} - {"self", "cls"}


def _arguments(function: _Function, call: ast.Call) -> dict[str, ast.expr]:
    """What a call gives each parameter; defaults where it gives nothing."""
    names = [a.arg for a in (*function.args.posonlyargs, *function.args.args)]
    if names[:1] in (["self"], ["cls"]):
        names = names[1:]
    found = dict(zip(names, call.args, strict=False))
    found |= {word.arg: word.value for word in call.keywords if word.arg}
    for name in _parameters(function) - found.keys():
        value = _default(function, name)
        if value is not None:
            found[name] = value
    return found


def _loops(function: _Function | None, name: str) -> Iterator[ast.expr]:
    """What a loop gives a name."""
    for child in _nodes(function):
        if isinstance(child, (ast.For, ast.comprehension)):
            target = child.target
            if isinstance(target, ast.Name) and target.id == name:
                yield child.iter


def _default(function: _Function, name: str) -> ast.expr | None:
    given = function.args.args[len(function.args.args) - len(function.args.defaults) :]
    pairs = [*zip(given, function.args.defaults, strict=True)]
    pairs += zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True)
    return next((value for argument, value in pairs if argument.arg == name), None)


def _kind_of_function(module: _Module, node: ast.FunctionDef) -> str:
    """What a function's texts are that makes sentences, or nothing."""
    if node.name == "label" and module.file.startswith("build/steps/"):
        return "label"
    return FUNCTIONS.get((module.file, node.name), "")


def _dotted(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


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


def _has_words(text: str) -> bool:
    return bool(re.search(r"[A-Za-z]", _without_values(text)))


def _is_text(node: ast.expr) -> bool:
    """Whether a sentence, or part of one, stands in an expression."""
    return any(
        isinstance(part, ast.Constant) and isinstance(part.value, str) and _is_phrase(part.value)
        for part in ast.walk(node)
    )


def _is_phrase(text: str) -> bool:
    """Whether it is words of a sentence, and not a name."""
    return bool(re.search(r"[a-z] [a-z]|^ |[a-z]: ", _without_values(text)))


def page(messages: Sequence[Message], command: str) -> str:
    """The list as Markdown, by place."""
    lines = [HEAD.format(command=command)]
    for file, of_file in groupby(messages, key=lambda message: message.file):
        lines.append(f"\n## `{file}`\n")
        hints: dict[tuple[str, str], list[str]] = {}
        for message in of_file:
            found = hints.setdefault((message.kind, message.text), [])
            found += [message.hint] if message.hint else []
        for (kind, text), remedies in hints.items():
            lines.append(f"- {kind}: {_escaped(text)}")
            lines += [f"  - {_escaped(hint)}" for hint in sorted(remedies)]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_`<>])", r"\\\1", " ".join(text.split()))


HEAD = """\
# What mbuild says

<!-- written by {command} -->

Every error, warning, status, label of a step, reason for running one and finding of `mbuild check`,
by the file of `mbuild/` that says it, with the hints that can come with it below. `{{name}}` is
where a value goes, `[this|that]` where there are two ways. Sentences may change with any version: programs decide by
exit statuses, by codes and by the fields of [progress.md](progress.md)."""
