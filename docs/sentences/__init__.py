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
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import groupby
from typing import NamedTuple

from .texts import Texts, Way, has_words
from .trees import Module, is_name, last_name

WARNINGS = frozenset(("warn", "Warned"))
FOREIGN_ERRORS = frozenset(("ClickException", "UsageError", "BadParameter"))
"""Classes of click that are raised, too."""

TABLES = (
    ("cli/wording.py", "STATUSES", "status"),
    ("server/wording.py", "STATUSES", "status"),
    ("build/reasons.py", "NOTES", "reason"),
    ("build/reasons.py", "_STEPS", "reason"),
    ("cli/words.py", "ELSEWHERE", "error"),
)
"""Tables of sentences: file, name, and what its rows are."""

FUNCTIONS = {
    ("build/graph.py", "variant_label"): "label",
    ("build/lock.py", "message"): "problem",
    ("gguf/hyperparameters.py", "_wrong_type"): "error",
    ("gguf/hyperparameters.py", "_wrong_value"): "error",
    ("gguf/hyperparameters.py", "_experts"): "error",
    ("gguf/hyperparameters.py", "_heads"): "error",
    ("gguf/hyperparameters.py", "_groups"): "error",
    ("gguf/hyperparameters.py", "_rotary"): "error",
    ("templates/tokens.py", "word_fault"): "error",
}
"""Functions that return sentences which are handed on as values."""

MANY = 4
"""More hints than these stand once where they are those of the message above."""

VALUE_ERRORS = frozenset(("core/units.py", "templates/check.py", "templates/literals.py"))
"""Files whose ValueErrors are shown as they are."""

HANDED_ON = frozenset(
    (
        "'\\n'.join((f'{name} does not support {word}' for word in missing))",
        "str(value['error'])",
        "service.scrub(said.popleft())",
        "found['error']",
        "f'{name}: {error.message}'",
        "f'{file.name}: {text}'",
        "f'{option.flag}: {error.message}'",
        "f'{reference}: {error.message}'",
        "drift.message",
        "self._why or 'the work was stopped'",
        "error.message",
        "f\"{' '.join(words)}: {sentence}\"",
        "f\"{NAME}: {answer['error']}\"",
        "f'{error.message}; {error.hint}'",
        "f\"{step.label}: {'; '.join(map(str, changes))}\"",
        "f\"{where}: {error.message} {str(row.get('digest'))[:90]!r}\"",
        "f'{doing}:{where} {error.strerror or error}'",
        "f'{name}: {error.message}'",
        "f'{name}: {error.strerror or error}'",
        "f'{name}: {error.strerror}'",
        "f'{name}: {problem}'",
        "f'{path}: {error.strerror or error}'",
        "f'{path}: {error.strerror}'",
        "f'{path}: {error}'",
        "f'{tensor.name}: {error.message}'",
        "f'{tensor}: {error.message}'",
        "f'{reference}: {error.message}'",
        "f'{self.value}: {error.strerror}'",
        "found.message",
        "last.message",
        "str(error)",
        "str(message)[:1000]",
        "text",
        "warning",
        "warning.message",
    )
)
"""Expressions that only hand on a sentence: the system's, or one listed where it is made."""


class Message(NamedTuple):
    """One sentence, and the remedy that comes with it."""

    file: str
    line: int
    kind: str
    text: str
    hint: str = ""


class Messages(Texts):
    """The sentences in the package."""

    def __init__(self) -> None:
        super().__init__()
        self.errors = self._errors()
        self.handed_on: set[str] = set()

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
            for node in module.nodes:
                if isinstance(node, ast.ClassDef):
                    names = {last_name(base) for base in node.bases}
                    bases.setdefault(node.name, set()).update(names)
        errors = {"MbuildError", *FOREIGN_ERRORS}
        while more := {name for name, above in bases.items() if above & errors} - errors:
            errors |= more
        return frozenset(errors)

    def _of(self, module: Module) -> Iterator[Message]:
        for node in module.nodes:
            if isinstance(node, ast.Call):
                yield from self._of_call(module, node)
            elif isinstance(node, (ast.Assign, ast.AugAssign)) and _collects(module, node):
                for text in self.texts(module, node.value, {}, ()):
                    if has_words(text):
                        yield Message(module.file, node.lineno, "warning", text)
            elif isinstance(node, ast.FunctionDef) and (kind := _kind_of_function(module, node)):
                for text in self.returned(module, node, ()):
                    if has_words(text):
                        yield Message(module.file, node.lineno, kind, text)
        for file, name, kind in TABLES:
            if file == module.file:
                yield from self._of_table(module, name, kind)

    def _of_table(self, module: Module, name: str, kind: str) -> Iterator[Message]:
        """A table's sentences; a row of two is one with its hint."""
        table = module.constants[name]
        assert isinstance(table, ast.Dict), name
        for row in table.values:
            text, hint = row.elts if isinstance(row, ast.Tuple) else (row, None)
            hints = [*self.texts(module, hint, {}, ())] if hint is not None else [""]
            for words in self.texts(module, text, {}, ()):
                for remedy in hints:
                    yield Message(module.file, row.lineno, kind, words, remedy)

    def _of_call(self, module: Module, node: ast.Call) -> Iterator[Message]:
        kind = self._kind(module, node)
        if not kind or not node.args:
            return
        first = node.args[1 if last_name(node.func) == "TemplateError" and node.args[1:] else 0]
        hints = [word.value for word in node.keywords if word.arg in ("hint", "suggestion")]
        if kind == "problem" and len(node.args) > 4:
            hints = [node.args[4]]
        elif kind == "problem" and isinstance(node.args[-1], ast.Starred):
            pair = node.args[-1].value
            hints = [ast.Subscript(pair, ast.Constant(1), ast.Load())]
            module.around[hints[0]] = node
        for way in self.ways(module, node, [first, *hints], 0):
            yield from self._in_one_way(module, kind, first, hints, way)

    def _in_one_way(
        self, module: Module, kind: str, first: ast.expr, hints: Sequence[ast.expr], way: Way
    ) -> Iterator[Message]:
        remedies = [text for hint in hints for text in self.texts(module, hint, way, ())] or [""]
        for text in self.texts(module, first, way, ()):
            if not has_words(text):
                self.handed_on.add(ast.unparse(first))
                continue
            for hint in remedies:
                yield Message(module.file, first.lineno, kind, text, hint)

    def _kind(self, module: Module, node: ast.Call) -> str:
        name = last_name(node.func)
        if name in self.errors and name != "ModelfileError":
            return "error"
        if name == "Cancel" or (name == "ValueError" and module.file in VALUE_ERRORS):
            return "error"
        if name == "Problem" and "disk" not in module.file:
            return "problem"
        if name == "fail" and isinstance(node.func, ast.Attribute) and len(node.args) == 3:
            return "error"
        if name == "append" and is_name(getattr(node.func, "value", None)):
            return "warning" if node.func.value.id == "warnings" else ""  # type: ignore[attr-defined]
        return "warning" if name in WARNINGS else ""


def _collects(module: Module, node: ast.Assign | ast.AugAssign) -> bool:
    """Whether a statement begins or adds to a conversion's list of warnings."""
    target = node.target if isinstance(node, ast.AugAssign) else node.targets[0]
    return is_name(target) and target.id == "warnings" and module.file.startswith("convert/")


def _kind_of_function(module: Module, node: ast.FunctionDef) -> str:
    """What a function's texts are that makes sentences, or nothing."""
    if node.name == "label" and module.file.startswith("build/steps/"):
        return "label"
    return FUNCTIONS.get((module.file, node.name), "")


class Found(NamedTuple):
    """What reading the package found: the sentences, what is only handed on, the words' places."""

    messages: tuple[Message, ...]
    handed_on: frozenset[str]
    words: frozenset[tuple[str, int, int]]


@cache
def found() -> Found:
    """All that is in the package. It takes some seconds, so once a process."""
    read = Messages()
    messages = tuple(read.messages())
    return Found(messages, frozenset(read.handed_on), frozenset(read.words))


def page(messages: Sequence[Message], command: str) -> str:
    """The list as Markdown, by place."""
    lines = [HEAD.format(command=command)]
    for file, of_file in groupby(messages, key=lambda message: message.file):
        lines.append(f"\n## `{file}`\n")
        hints: dict[tuple[str, str], list[str]] = {}
        for message in of_file:
            found = hints.setdefault((message.kind, message.text), [])
            found += [message.hint] if message.hint else []
        before: list[str] = []
        for (kind, text), remedies in hints.items():
            lines.append(f"- {kind}: {_escaped(text)}")
            many = len(remedies) > MANY and sorted(remedies) == before
            before = sorted(remedies)
            lines += ["  - as above"] if many else [f"  - {_escaped(hint)}" for hint in before]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_`<>])", r"\\\1", " ".join(text.split()))


HEAD = """\
# What mbuild says

<!-- written by {command} -->

Every error, warning, status, label of a step, reason for running one and finding of `mbuild check`,
by the file of `mbuild/` that says it, with the hints that can come with it below. `{{name}}` is
where a value goes, `[this|that]` where there are two ways. Sentences may change with any version:
programs decide by exit statuses, by codes and by the fields of [progress.md](progress.md)."""
