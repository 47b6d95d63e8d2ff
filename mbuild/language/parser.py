"""Bytes of a Modelfile to instructions, through the grammar in ``grammar/modelfile.lark``.

Behind a first line ``# syntax=mbuild/1`` the language has more instructions, which
``grammar/recipe.lark`` adds (:func:`parse_stages`).

The grammar decides what is one; this module decodes the bytes, hands the text to
the grammar in the form it expects, takes the values from the text as it was
written, and turns the first error of every broken line into a problem.
"""

from __future__ import annotations

import codecs
import re
from functools import cache
from itertools import islice
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, cast

from lark import Token, Transformer
from lark.exceptions import UnexpectedInput

from mbuild.core import grammars
from mbuild.core.errors import ModelfileError
from mbuild.core.patterns import regex
from mbuild.core.values import replace
from mbuild.language.foreign import HEAD, recognise
from mbuild.language.instructions import TYPES, Comment, From, Modelfile, Problem, Severity
from mbuild.language.meaning import validate
from mbuild.language.printable import HIDDEN, shape
from mbuild.language.span import Span
from mbuild.language.stages.words import STAGED_TYPES, StagedFile, comments_within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lark import Lark

MAX_BYTES = 16 * 2**20
"""The largest Modelfile that is read, in bytes."""

MAX_STARTS = 100_000
"""How many lines may look like an instruction or a comment; each costs some 30 us and 1 KB."""

MAX_PROBLEMS = 20
"""How many broken lines one run reports."""

# How many characters are read again after errors. An unclosed quote is looked for
# to the end of the file, so a large file full of them would take quadratic time.
_REREAD = 4 * 2**20

# What Go's strings.TrimSpace takes off: Unicode's White_Space.
_WHITE = "\t\n\v\f\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_FIRST_WHITE = regex(f"[{_WHITE}]")
_PADDING = f" \t{HIDDEN}"

_LINE = f"(?<=[\r\n])[ \t]*+{HIDDEN}?+"


class _Dialect:
    """One of the two languages: its instructions by their words, and how to read them.

    Reading goes on after an error at a line that seems to start an instruction
    (``resume``). Inside a value that was never closed, only a whole instruction is taken
    for one (``resume_in_value``).
    """

    def __init__(self, types: Mapping[str, type[Any]], grammar: Callable[[], Lark]) -> None:
        words = "|".join(types)
        self.types = types
        self.grammar = grammar
        self.resume = re.compile(f"{_LINE}(?:(?ai:{words})(?![A-Za-z])|[A-Z]{{3,}})")
        self.resume_in_value = re.compile(f"{_LINE}(?ai:{words})[ \t]")
        self.starts = re.compile(f"{_LINE}(?:#|(?ai:{words})[ \t])")


def parse(data: bytes, filename: str = "Modelfile") -> Modelfile:
    """Parse a Modelfile; ``filename`` is only for messages.

    Raises :class:`ModelfileError` with every problem that one run can find: the
    first one of each broken line, reading on at the next line that starts with an
    instruction, and if there is one, also what :func:`validate` says of the lines
    that are whole. Time and memory grow with the file, not faster.
    """
    text, found = _read(data, filename, _plain())
    found.problems.extend(_demand_from(found))
    if found.problems:
        if (problem := _foreign(data, filename, found.problems)) is not None:
            raise ModelfileError([problem.located(text, filename)])
        whole = Modelfile(tuple(found.instructions))
        problems = sorted(found.problems + validate(whole), key=_position)
        raise ModelfileError([problem.located(text, filename) for problem in problems])
    return Modelfile(tuple(found.instructions), tuple(found.comments))


def parse_stages(data: bytes, filename: str = "Modelfile", *, included: str = "") -> StagedFile:
    """Parse a Modelfile of the language that ``# syntax=mbuild/1`` opens, or what it includes.

    ``included`` is the name that spans get for an included file, which needs no FROM. Raises
    :class:`ModelfileError` as :func:`parse` does; values are not looked at yet.
    """
    text, found = _read(data, filename, _staged(), included)
    if not included:
        found.problems.extend(_demand_from(found))
    if found.problems:
        problems = sorted(found.problems, key=_position)
        raise ModelfileError([problem.located(text, filename) for problem in problems])
    comments = (*found.comments, *comments_within(found.instructions))
    return StagedFile(tuple(found.instructions), comments)


def whole_lines(data: bytes, *, staged: bool) -> StagedFile:
    """What can be read of a text in either language, as an editor wants it while one writes.

    Raises :class:`ModelfileError` for a text that is too large, and for nothing else.
    """
    _, found = _read(data, "", _staged() if staged else _plain())
    return StagedFile(tuple(found.instructions), tuple(found.comments))


def _read(data: bytes, filename: str, dialect: _Dialect, included: str = "") -> tuple[str, _Found]:
    """The text, and what is in it; raises :class:`ModelfileError` for one that is too large."""
    if len(data) > MAX_BYTES:
        message = f"the file has {len(data)} bytes, more than the {MAX_BYTES} that are read"
        raise ModelfileError([Problem(message, code="too-large", filename=filename)])
    text = decode(data)
    reader = _Reader(text, dialect, included)
    if next(islice(dialect.starts.finditer(reader.shape), MAX_STARTS, None), None):
        message = f"the file has more than {MAX_STARTS} instructions and comments"
        raise ModelfileError([Problem(message, code="too-large", filename=filename)])
    return text, reader.read()


def _demand_from(found: _Found) -> Iterator[Problem]:
    """A Modelfile needs a FROM, unless one of its broken lines was meant to be one."""
    if found.meant_from or any(item.word == From.word for item in found.instructions):
        return
    hint = "say what to build on: FROM NAME or FROM ./model.gguf"
    yield Problem("no FROM line", code="missing-from", suggestion=hint)


def _foreign(data: bytes, filename: str, problems: list[Problem]) -> Problem | None:
    """One problem in place of all for a file that is something else."""
    found = recognise(data, PurePath(filename).name)
    if found is None:
        return None
    span = next((p.span for p in problems if p.code == "unknown-instruction"), None)
    readable = span if data[:HEAD].isascii() else None
    return Problem(f"this is {found[0]}", readable, code="foreign-file", suggestion=found[1])


def decode(data: bytes) -> str:
    """The text of a Modelfile: UTF-8, or UTF-16 in either byte order if a mark says so.

    A byte order mark is dropped. Each byte that is not part of valid UTF-8 becomes
    one U+FFFD, as does half a surrogate pair or half a unit of UTF-16.
    """
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            body = data[len(mark) :]
            text = body[: len(body) // 2 * 2].decode(encoding, "surrogatepass")
            return _without_surrogates(text) + "\N{REPLACEMENT CHARACTER}" * (len(body) % 2)
    body = data.removeprefix(codecs.BOM_UTF8)
    try:
        return body.decode()
    except UnicodeDecodeError:  # escaped one by one, where "replace" would take several at once
        return _without_surrogates(body.decode("utf-8", "surrogateescape"))


def _without_surrogates(text: str) -> str:
    found = [code for char in set(text) if 0xD800 <= (code := ord(char)) <= 0xDFFF]
    return text.translate(dict.fromkeys(found, "\N{REPLACEMENT CHARACTER}")) if found else text


def _position(problem: Problem) -> int:
    return problem.span.start if problem.span else -1


class _Found:
    def __init__(self) -> None:
        self.instructions: list[Any] = []
        self.comments: list[Comment] = []
        self.problems: list[Problem] = []
        self.meant_from = False


_Tokens = tuple[Token, ...]


class _Rows(Transformer[Token, Any]):
    """The tree of one run as a flat list: a tuple of tokens an instruction, comments as tokens."""

    def _row(self, children: list[Token]) -> _Tokens:
        return tuple(children)

    plain = parameter = message = clause = setting = opening = _row

    def start(self, children: list[_Tokens | Token]) -> list[_Tokens | Token]:
        return children


@cache
def _plain() -> _Dialect:
    return _Dialect(TYPES, _grammar)


@cache
def _staged() -> _Dialect:
    return _Dialect(STAGED_TYPES, _staged_grammar)


@cache
def _grammar() -> Lark:
    return _lark("modelfile.lark")


@cache
def _staged_grammar() -> Lark:
    return _lark("modelfile.lark", "recipe.lark")


def _lark(*names: str) -> Lark:
    return grammars.parser(
        *names,
        lexer="contextual",
        g_regex_flags=re.ASCII,
        propagate_positions=False,
        transformer=_Rows(),
    )


def _start(token: Token) -> int:
    return cast("int", token.start_pos)


def _bare(token: str, written: str) -> str:
    """A bare value, trimmed.

    What Ollama trims are blanks at the ends of what it has not dropped, so white
    space goes up to the first visible character, and hidden characters beyond it.
    """
    core = token.strip(_PADDING + "\r\n")
    if HIDDEN not in token or not core:
        return core
    start = token.index(core)
    end = start + len(core)
    before = _FIRST_WHITE.search(written[:start][::-1])
    after = _FIRST_WHITE.search(written, end)
    return written[start - before.start() if before else 0 : after.start() if after else None]


def _quoted(token: str, written: str) -> str:
    return written[token.index('"') + 1 : token.rindex('"')]


def _triple(token: str, written: str) -> str:
    opening = closing = -1
    for _ in range(3):
        opening = token.index('"', opening + 1)
        closing = token.rindex('"', 0, closing if closing >= 0 else len(token))
    return written[opening + 1 : closing]


# How a token of each form and the text as written at its place give the value.
_VALUES = {"BARE": _bare, "QUOTED": _quoted, "TRIPLE": _triple, "LINE": _bare, "NAMED": _bare}


class _Lines:
    """Line numbers by offset; quick while the offsets asked for ascend."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.line, self.start = 1, 0

    def at(self, offset: int) -> tuple[int, int]:
        """The number of the line that an offset is on, and where that line starts."""
        if offset < self.start:
            self.line, self.start = 1, 0
        if ends := self.ends(self.start, offset):
            self.line += ends
            last = (self.text.rfind(char, self.start, offset) for char in "\r\n")
            self.start = max(last) + 1
        return self.line, self.start

    def ends(self, start: int, stop: int) -> int:
        """How many lines end between two offsets, of which none splits a CRLF."""
        count = self.text.count
        return count("\n", start, stop) + count("\r", start, stop) - count("\r\n", start, stop)


class _Reader:
    """One run over one text."""

    def __init__(self, text: str, dialect: _Dialect, included: str = "") -> None:
        self.text = text
        self.shape = shape(text) + "\n"
        self.lines = _Lines(text)
        self.found = _Found()
        self.dialect = dialect
        self.included = included

    def read(self) -> _Found:
        """Parse from line to line: on over what is broken, up to the limit of problems."""
        start: int | None = 0
        broken: list[int] = []
        in_value = False  # behind a quote never closed: what looks like nothing is its text
        budget = _REREAD
        while start is not None:
            try:
                self._take(start, len(self.shape))
                break
            except UnexpectedInput as error:
                offset = start + cast("int", error.pos_in_stream)
                broken.append(self.lines.at(offset)[1])
                # All before the broken line is whole: errors show on their own line.
                self._take(start, broken[-1])
                problem = self._after_value(self._problem(offset, error), offset, broken)
                in_value = in_value or problem.code == "unclosed"
                if not (in_value and problem.code == "unknown-instruction"):
                    self.found.problems.append(problem)
                dialect = self.dialect
                resume = dialect.resume_in_value if in_value else dialect.resume
                match = resume.search(self.shape, offset + 1)
                start = match.start() if match else None
                budget -= len(self.shape) - offset
                if start is not None and (budget < 0 or len(broken) == MAX_PROBLEMS):
                    self._stop(start)
                    self.found.meant_from = True  # the rest was not looked at
                    return self.found
        if broken:
            from mbuild.language.diagnosis import meant_instruction

            meant = (meant_instruction(self.shape, line) for line in broken)
            self.found.meant_from = From.word in meant
        return self.found

    def _after_value(self, problem: Problem, offset: int, broken: list[int]) -> Problem:
        """The problem with a better hint, where it lies in the rest of a value."""
        last = self.found.instructions[-1] if self.found.instructions else None
        where = problem.span
        if last is None or last.span is None or where is None:
            return problem
        between = len(broken) > 1 and broken[-2] >= last.span.start
        if problem.code != "unknown-instruction" or between:
            return problem
        following = self.dialect.resume.search(self.shape, offset + 1)
        region = self.shape[broken[-1] : following.start() if following else len(self.shape)]
        from mbuild.language.diagnosis import value_ended

        hint = value_ended(self.shape, last, where.line, region, problem.suggestion)
        return replace(problem, suggestion=hint, edit=None) if hint else problem

    def _take(self, start: int, end: int) -> None:
        """Parse a part of the text that begins where an instruction may."""
        whole = start == 0 and end == len(self.shape)
        part = self.shape if whole else self.shape[start:end]
        for row in cast("list[_Tokens | Token]", self.dialect.grammar().parse(part)):
            if isinstance(row, tuple):
                self.found.instructions.append(self._instruction(row, start))
            else:
                self.found.comments.append(self._comment(row, start))

    def _instruction(self, row: _Tokens, base: int) -> Any:
        word, *names, value = row
        kind = self.dialect.types[word.type]
        begin = base + _start(value)
        opening = begin + len(value) - len(value.lstrip(_PADDING))
        end = begin + len(value.rstrip(_PADDING + "\r\n"))
        first = base + _start(word) + word.startswith(HIDDEN)
        span = self._span(first, max(end, opening), opening)
        said = _VALUES[value.type](value, self.text[begin : begin + len(value)])
        if names:
            return kind(names[0][:-1], said, span)
        if value.type in ("BARE", "NAMED") and hasattr(kind, "of_bare"):
            return kind.of_bare(said, span)
        return kind(said, span=span)

    def _comment(self, token: Token, base: int) -> Comment:
        start = base + _start(token)
        text = self.text[start + 1 : start + len(token) - 1].rstrip(" \t")
        return Comment(text, self._span(start, start + 1 + len(text), start + 1))

    def _span(self, start: int, end: int, value: int) -> Span:
        line, line_start = self.lines.at(start)
        last = line + self.lines.ends(start, end)
        return Span(line, start - line_start + 1, start, end, value, last, self.included)

    def _stop(self, start: int) -> None:
        message = "too many errors; the rest of the file was not checked"
        span = self._span(start, start, start)
        self.found.problems.append(Problem(message, span, code="too-many-problems"))

    def _problem(self, offset: int, error: UnexpectedInput) -> Problem:
        from mbuild.language.diagnosis import describe  # and what is known of spellings

        allowed: Any = getattr(error, "allowed", None) or getattr(error, "expected", ())
        found = describe(self.text, self.shape, offset, allowed, self.dialect.types)
        span = self._span(found.start, found.end, found.start)
        problem = Problem(found.message, span, Severity.ERROR, found.code, found.suggestion)
        return replace(problem, edit=found.edit)
