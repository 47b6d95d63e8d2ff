"""From a file of the language to its stages: arguments put in, files brought in, bases joined."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from mbuild.core.errors import MbuildError, ModelfileError
from mbuild.core.patterns import regex
from mbuild.core.suggest import did_you_mean, near
from mbuild.core.values import NamedTuple
from mbuild.language.instructions import (
    Adapter,
    Draft,
    From,
    Instruction,
    License,
    Message,
    Modelfile,
    Parameter,
    Problem,
    Severity,
    System,
    Template,
)
from mbuild.language.parser import decode, parse_stages
from mbuild.language.recipe import ModelChange, Recipe
from mbuild.language.stages.changing import change_of, check_of, quantize_of, unset_of
from mbuild.language.stages.clauses import USAGE, Word, read_clause
from mbuild.language.stages.expand import ExpansionError, expand
from mbuild.language.stages.quotes import OTHER_QUOTES
from mbuild.language.stages.scope import Scope, assignment
from mbuild.language.stages.stage import Stage, stage_name
from mbuild.language.stages.values import ALL
from mbuild.language.stages.words import (
    CLAUSES,
    Arg,
    CheckThat,
    Include,
    Opening,
    QuantizeTo,
    SetKey,
    StagedInstruction,
    Unset,
)

MAX_DEPTH = 16
"""How deep files may include each other."""

MAX_INCLUDED = 256
"""How many files a Modelfile may bring in."""

_UNBRACED = regex(r"(?<![\\$])\$([A-Za-z_][A-Za-z0-9_]*)")
"""An argument as a shell or a Dockerfile may write it, without braces."""

_PATHS = (Adapter, Draft)
"""Instructions whose value is a path that has to be there."""

_TEXTS = (System, Template, License, Message, SetKey, Parameter)
"""Instructions whose value may be the content of a file: ``@path``."""


class Brought(NamedTuple):
    """A file that was brought in: its name for messages, and its content."""

    name: str
    data: bytes


Bring = Callable[[str, str], Brought]
"""``bring(includer, path)``: the file that a path leads to, from where the includer lies (its
name, empty for the Modelfile). Raises :class:`MbuildError`."""


class Evaluated(NamedTuple):
    """All stages in order, warnings, and the text of each file by its name."""

    stages: tuple[Stage, ...]
    warnings: tuple[Problem, ...]
    texts: Mapping[str, str]

    def located(self, problem: Problem, filename: str) -> Problem:
        """A problem with its own file's name and line."""
        return _located(problem, self.texts, filename)


def evaluate(data: bytes, filename: str, arguments: Mapping[str, str], bring: Bring) -> Evaluated:
    """The stages of a Modelfile; ``arguments`` are those of ``--build-arg``.

    Raises :class:`ModelfileError` with every problem that one run finds.
    """
    run = _Run(filename, arguments, bring)
    run.texts[""] = decode(data)
    run.file(parse_stages(data, filename).instructions, run.scope, "", 0)
    run.end()
    if run.problems:
        raise ModelfileError([_located(each, run.texts, filename) for each in run.problems])
    return Evaluated(tuple(run.stages), tuple(run.warnings), run.texts)


def _located(problem: Problem, texts: Mapping[str, str], filename: str) -> Problem:
    if problem.filename:  # of a file that could not be parsed
        return problem
    own = problem.span.file if problem.span else ""
    return problem.located(texts.get(own, ""), own or filename)


class _Run:
    """One evaluation; problems are collected, so that one run finds many."""

    def __init__(self, filename: str, arguments: Mapping[str, str], bring: Bring) -> None:
        self.filename = filename
        self.scope = Scope(arguments)
        self.stages: list[Stage] = []
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self.texts: dict[str, str] = {}
        self._bring = bring
        self._brought = 0
        self._files: list[str] = []  # included now, the outermost first

    def file(
        self, items: tuple[StagedInstruction, ...], scope: Scope, name: str, depth: int
    ) -> None:
        """Take a file's instructions; ``scope`` has its arguments."""
        whole = scope
        for item in items:
            try:
                if isinstance(item, Opening):
                    scope = self._open(item, scope, whole, name)
                else:
                    self._take(item, scope, name, depth)
            except ExpansionError as error:
                text = str(error)
                self.problems.append(
                    Problem(text, item.span, code="bad-argument", suggestion=error.hint)
                )
            except ModelfileError as error:
                self.problems += error.problems
            except MbuildError as error:
                problem = Problem(error.message, item.span, code="bad-file", suggestion=error.hint)
                self.problems.append(problem)

    def end(self) -> None:
        """What shows only at the end: arguments that were given and that nobody declared."""
        for name in self.scope.unknown():
            hint = did_you_mean(near(name, self.scope.declared), "declare it: ARG " + name)
            message = f"--build-arg {name}: the Modelfile declares no such argument"
            self.problems.append(Problem(message, code="unknown-argument", suggestion=hint))
        if not self.stages and not self.problems:
            self.problems.append(Problem("no FROM line", code="missing-from"))

    def _take(self, item: StagedInstruction, scope: Scope, name: str, depth: int) -> None:
        """One instruction that begins no stage."""
        if isinstance(item, Include):
            self._include(item, scope, name, depth)
            return
        if isinstance(item, Arg):
            for word in read_clause(item).head.words:
                self._quoted(word.text.partition("=")[2], item)
                scope.declare(*assignment(item, word, scope.value))
            return
        if not self.stages:
            message = f"{item.word} stands before the first FROM"
            hint = "only ARG and INCLUDE can: they count for every stage"
            raise ModelfileError([Problem(message, item.span, code="no-stage", suggestion=hint)])
        self._settle(item, self.stages[-1], scope, name)

    def _open(self, item: Opening, scope: Scope, whole: Scope, file: str) -> Scope:
        """FROM: a stage begins, on a model or where an earlier stage ended; its scope.

        ``whole`` has what counts in every stage of the ``file``. What another file declares
        stays there, also where a stage begins from one of its stages.
        """
        value = self._needed(item.value, scope, item)
        named = self._expanded(item.name, scope, item)
        stage_named = stage_name(named, item.span, self.stages) if named else str(len(self.stages))
        base = self._stage(value)
        beside = base is not None and base.span is not None and base.span.file == file
        inner = whole.inner(base.scope if base and beside else None)
        stage = Stage(stage_named, item.span, inner, base)
        if base is None:
            stage.instructions.append(From(value, item.span))
        else:
            stage.instructions += base.instructions
            stage.changes += base.changes
            stage.unset += base.unset
        self.stages.append(stage)
        return inner

    def _include(self, item: Include, scope: Scope, includer: str, depth: int) -> None:
        """INCLUDE: another file's instructions, which see their own arguments."""
        path, *given = read_clause(item).head.words
        values = dict(assignment(item, word, scope.value, needed=True) for word in given)
        brought = self._file(self._word(path, scope, item), includer, item)
        if brought.name in self._files or depth == MAX_DEPTH:
            message = f"{brought.name} includes itself, by way of {' and '.join(self._files)}"
            raise ModelfileError([Problem(message, item.span, code="include-circle")])
        self.texts[brought.name] = decode(brought.data)
        parsed = parse_stages(brought.data, brought.name, included=brought.name)
        inner = Scope({key: text or "" for key, text in values.items()})
        self._files.append(brought.name)
        try:
            self.file(parsed.instructions, inner, brought.name, depth + 1)
        finally:
            self._files.pop()
        for unknown in inner.unknown():
            hint = did_you_mean(near(unknown, inner.declared), f"declare it there: ARG {unknown}")
            message = f"{brought.name} declares no argument {unknown}"
            self.problems.append(
                Problem(message, item.span, code="unknown-argument", suggestion=hint)
            )

    def _settle(self, item: Any, stage: Stage, scope: Scope, name: str) -> None:
        """An instruction inside a stage."""
        if isinstance(item, CLAUSES):
            phrases = read_clause(item)

            def word(each: Word) -> str:
                return self._word(each, scope, item)

            if isinstance(item, QuantizeTo):
                stage.quantize.append(quantize_of(item, phrases, word))
            elif isinstance(item, CheckThat):
                stage.checks.append(check_of(item, phrases, word))
            elif isinstance(item, Unset):
                unset_of(item, phrases, word, stage)
            else:
                stage.changes.append(change_of(item, phrases, word, partial(self._other, item)))
        elif isinstance(item, SetKey):
            text = self._text(item.value, scope, name, item)
            stage.changes.append(ModelChange("set", item.name, text, item.span))
        else:
            stage.instructions.append(self._plain(item, scope, name))

    def _plain(self, item: Any, scope: Scope, name: str) -> Instruction:
        """An instruction of Ollama's with its arguments put in, or a file's content."""
        written = item.content if isinstance(item, Message) else item.value
        if isinstance(item, _TEXTS):
            value = self._text(written, scope, name, item)
        elif isinstance(item, _PATHS):
            value = self._needed(written, scope, item)
        else:
            value = self._expanded(written, scope, item)
        if isinstance(item, Message):
            return Message(item.role, value, item.span)
        if isinstance(item, Parameter):
            return Parameter(item.name, value, item.span)
        kind: Any = type(item)
        return kind(value, item.span)  # type: ignore[no-any-return]

    def _other(self, item: Any, value: str) -> Any:
        """The recipe of another model: a stage's, or that of what FROM would mean by a name.

        Raises :class:`ModelfileError` for the stage that asks itself.
        """
        stage = self._stage(value)
        if stage is self.stages[-1]:
            hint = "name another stage, or a model"
            message = f"the stage {stage.name} cannot take tensors from itself"
            problem = Problem(message, item.span, code="own-stage", suggestion=hint)
            raise ModelfileError([problem])
        recipe = stage.recipe().recipe if stage else Recipe.of(Modelfile((From(value),)))
        return recipe.to_json()

    def _stage(self, name: str) -> Stage | None:
        """The stage of that name, if the file gives it to one before."""
        named = (stage for stage in self.stages if not stage.name.isdecimal())
        return next((stage for stage in named if stage.name.lower() == name.lower()), None)

    # Values.

    def _text(self, written: str, scope: Scope, name: str, item: Any) -> str:
        """A value, or with ``@`` before it the content of a file, in which nothing is put in."""
        if written.startswith("@@"):
            return "@" + self._expanded(written[2:], scope, item)
        if not written.startswith("@"):
            return self._expanded(written, scope, item)
        brought = self._file(self._expanded(written[1:], scope, item), name, item)
        return decode(brought.data).removesuffix("\n").removesuffix("\r")

    def _word(self, word: Word, scope: Scope, item: Any) -> str:
        """A word of a clause, of which none may be empty."""
        self._unbraced(word.text, scope, item)
        self._quoted(word.text, item)
        found = expand(word.text, scope.value, unquote=True, empty=self._empty(item))
        return _filled(found, word.text, item)

    def _needed(self, written: str, scope: Scope, item: Any) -> str:
        """A name or a path, which may not be empty."""
        return _filled(self._expanded(written, scope, item), written, item)

    def _expanded(self, written: str, scope: Scope, item: Any) -> str:
        self._unbraced(written, scope, item)
        return expand(written, scope.value, empty=self._empty(item))

    def _unbraced(self, written: str, scope: Scope, item: Any) -> None:
        """Warns of an argument in Docker's other spelling, which is text here."""
        for match in _UNBRACED.finditer(written):
            if scope.knows(match[1]):
                message = f"{match[0]} is text: an argument is put in as ${{{match[1]}}}"
                hint = f"write ${{{match[1]}}}"
                self._warn(message, item, "unbraced-argument", hint)

    def _quoted(self, written: str, item: Any) -> None:
        """Warns of a word in quotes of another language, which are a part of it here."""
        if len(written) > 1 and written[0] in OTHER_QUOTES and written[-1] in OTHER_QUOTES:
            message = f"the quotes of {written:.60} are part of the word"
            hint = f'write "{written[1:-1]:.60}", or no quotes'
            self._warn(message, item, "quotes-in-value", hint)

    def _warn(self, message: str, item: Any, code: str, hint: str) -> None:
        found = Problem(message, item.span, Severity.WARNING, code, hint)
        self.warnings += [] if found in self.warnings else [found]

    def _empty(self, item: Any) -> Callable[[str], None]:
        """Notes that an argument was put in that has no value."""

        def note(name: str) -> None:
            message = f"ARG {name} has no value, so ${{{name}}} is empty"
            hint = f"give one: --build-arg {name}=VALUE, or ARG {name}=DEFAULT"
            self._warn(message, item, "empty-argument", hint)

        return note

    def _file(self, path: str, includer: str, item: Any) -> Brought:
        """A file by its path, with an error that names the place; so many and no more."""
        if not path:
            message = "the name of a file is missing behind the @"
            raise ModelfileError([Problem(message, item.span, code="bad-file")])
        self._brought += 1
        if self._brought > MAX_INCLUDED:
            message = f"more than {MAX_INCLUDED} files are brought in"
            raise ModelfileError([Problem(message, item.span, code="too-large")])
        return self._bring(includer, path)


def _filled(value: str, written: str, item: Any) -> str:
    """The value; raises :class:`ModelfileError` where it is nothing but blanks."""
    if value.strip():
        return value
    message, hint = f"{item.word} has no value", f"write {item.word} and a value"
    if item.word in USAGE:
        message, hint = f"{item.word} has an empty word", f"write {USAGE[item.word]}"
    if "${" in written:
        hint = f"{written:.60} is empty: give the argument a value, or write ${{NAME:-DEFAULT}}"
    problem = Problem(message, item.span, code="missing-value", suggestion=hint)
    raise ModelfileError([problem])


def chosen(stages: tuple[Stage, ...], targets: tuple[str, ...]) -> Iterator[Stage]:
    """The stages that ``--target`` names, in the order of the file; the last one by itself.

    Raises :class:`ModelfileError` for a name that no stage has.
    """
    if not targets:
        yield stages[-1]
        return
    known = {stage.name.lower(): stage for stage in stages}
    for target in targets:
        if target.lower() not in (*known, ALL):
            names = [stage.name for stage in stages]
            hint = did_you_mean(near(target, names), f"stages: {', '.join(names)}, or {ALL}")
            message = f"--target {target}: the Modelfile has no such stage"
            raise ModelfileError([Problem(message, code="unknown-target", suggestion=hint)])
    wanted = {target.lower() for target in targets}
    yield from (s for s in stages if ALL in wanted or s.name.lower() in wanted)
