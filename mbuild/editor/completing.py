"""What can stand where one is writing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from enum import Enum, auto

from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple
from mbuild.editor import choices
from mbuild.editor.around import WEIGHTS, Around
from mbuild.editor.meanings import Meaning, clause_meaning
from mbuild.editor.open_text import OpenText
from mbuild.editor.text_lines import TextLines
from mbuild.language.instructions import ROLES, TYPES
from mbuild.language.parameters import PARAMETERS, ParameterType
from mbuild.language.stages.clauses import following, spelled_keyword
from mbuild.language.stages.opening import SYNTAX_LINE
from mbuild.language.stages.words import CLAUSES, STAGED_TYPES
from mbuild.language.word_help import INSTRUCTIONS, KEYWORDS, PARAMETER_HELP
from mbuild.lint.templates import FIELDS


class Kind(Enum):
    """What is offered, for the sign that an editor shows beside it."""

    KEYWORD = auto()
    NAME = auto()
    VALUE = auto()
    TYPE = auto()
    FILE = auto()
    FOLDER = auto()
    STAGE = auto()
    MODEL = auto()


class Suggestion(NamedTuple):
    """A text to write in place of what stands from ``start`` to where one is writing."""

    text: str
    kind: Kind
    start: int
    detail: str = ""
    help: str = ""


_CLAUSE_WORDS = frozenset(kind.word for kind in CLAUSES)
_BEFORE_STAGES = ("ARG", "INCLUDE", "FROM")
_LINE = regex(r"[ \t]*([A-Za-z]+)[ \t]+(.*)", re.S)
_ARGUMENT = regex(r"(?<!\\)\$\{([A-Za-z0-9_]*)\Z")
_FIELD = regex(r"\{\{[^{}]*?\.([A-Za-z]*)\Z")
_COMPARISONS = ("<", "<=", ">", ">=")


class _Place(NamedTuple):
    """Where one is writing: the text, the character, and what is around."""

    reading: OpenText
    offset: int
    around: Around


def complete(reading: OpenText, offset: int, around: Around) -> list[Suggestion]:
    """All that can stand at a character, in the order in which it is best offered."""
    place = _Place(reading, offset, around)
    line = _logical_line(reading, offset)
    if reading.staged and (match := _ARGUMENT.search(line)):
        return list(_arguments(place, offset - len(match[1])))
    if line.lstrip().startswith("#"):
        first = line == reading.text[:offset]
        start = offset - len(line)
        return [_syntax(start)] if first and SYNTAX_LINE.startswith(line) else []
    inside = _text_around(reading, offset)
    if inside:
        return list(_fields(place)) if inside == "TEMPLATE" else []
    match = _LINE.fullmatch(line)
    if match is None:
        return list(_fields(place)) or list(_instructions(place, line))
    word, rest = match[1].upper(), match[2]
    if word in _CLAUSE_WORDS and reading.staged:
        return list(_clause(place, word, rest))
    return list(_BEHIND[word](place, rest)) if word in _BEHIND else []


def _text_around(reading: OpenText, offset: int) -> str:
    """The instruction in whose text one is writing, below its first line; or nothing."""
    item = reading.at(offset)
    if item is None or item.word in _CLAUSE_WORDS or item.span.line == item.span.last_line:
        return ""
    return item.word if TextLines(reading.text).end(item.span.start) < offset else ""


def _logical_line(reading: OpenText, offset: int) -> str:
    """The line up to where one is writing, with those that it goes on from."""
    lines = re.split("\r\n|\r|\n", reading.text[:offset])
    line = lines.pop()
    while reading.staged and lines and lines[-1].rstrip(" \t").endswith("\\"):
        line = f"{lines.pop()}\n{line}"
    return line


def _syntax(start: int) -> Suggestion:
    return Suggestion(SYNTAX_LINE, Kind.KEYWORD, start, "opens the language of stages")


def _instructions(place: _Place, line: str) -> Iterator[Suggestion]:
    """The word that a line begins with."""
    begun = line.lstrip(" \t")
    if begun and not begun.isalpha():
        return
    start = place.offset - len(begun)
    words: Iterable[str] = STAGED_TYPES if place.reading.staged else TYPES
    if place.reading.staged and not place.reading.included:
        opened = any(each.span.start < start for each in place.reading.openings)
        words = words if opened else _BEFORE_STAGES
    for word in words:
        help_ = INSTRUCTIONS[word]
        usage = help_.usage.split("\n")[0]
        yield Suggestion(word, Kind.KEYWORD, start, usage, help_.markdown(word))
    if place.offset - len(begun) == 0 and not place.reading.staged:
        yield _syntax(start)


def _arguments(place: _Place, start: int) -> Iterator[Suggestion]:
    for each in place.reading.arguments(place.offset).values():
        closed = place.reading.text[place.offset : place.offset + 1] == "}"
        detail = f"ARG {each.name}" + (f"={each.default}" if each.default is not None else "")
        yield Suggestion(each.name + ("" if closed else "}"), Kind.NAME, start, detail)


def _fields(place: _Place) -> Iterator[Suggestion]:
    """The fields of a template, behind the dot of an action."""
    match = _FIELD.search(place.reading.text[: place.offset])
    if match:
        for field in FIELDS:
            yield Suggestion(field, Kind.NAME, place.offset - len(match[1]), "a field of TEMPLATE")


# What stands behind the word of an instruction.


def _models(place: _Place, rest: str) -> Iterator[Suggestion]:
    """Stages, files, stored models; AS behind one."""
    if re.search(r"\S[ \t]", rest):
        if not place.reading.staged:
            return
        start = place.offset - len(re.search(r"[A-Za-z]*\Z", rest)[0])  # type: ignore[index]
        if " AS " not in f" {rest.upper()}":
            yield Suggestion("AS", Kind.KEYWORD, start, "AS STAGE", KEYWORDS["FROM", "AS"])
        return
    yield from _named_models(place, rest)


def _named_models(place: _Place, begun: str) -> Iterator[Suggestion]:
    start = place.offset - len(begun)
    for item in place.reading.openings if place.reading.staged else ():
        if item.name and item.span.end < start:
            yield Suggestion(item.name, Kind.STAGE, start, f"the stage on line {item.span.line}")
    yield from _files(place, begun, WEIGHTS)
    if not begun.startswith((".", "/", "~")):
        for name in place.around.models():
            yield Suggestion(name, Kind.MODEL, start, "in the store")


def _files(place: _Place, begun: str, endings: tuple[str, ...] = ()) -> Iterator[Suggestion]:
    """Files and folders; where a model's name could stand, too, a file begins with ``./``."""
    start = place.offset - len(begun)
    if begun in (".", "..", "~"):
        begun += "/"
    head = "./" if endings and "/" not in begun else ""
    for path in place.around.entries(head + begun, endings):
        yield Suggestion(path, Kind.FOLDER if path.endswith("/") else Kind.FILE, start)


def _weights(place: _Place, rest: str) -> Iterator[Suggestion]:
    yield from _files(place, rest, WEIGHTS)


def _parameters(place: _Place, rest: str) -> Iterator[Suggestion]:
    """A parameter's name, or the value of one that is true or false."""
    name, blank, value = rest.partition(" ")
    if not blank:
        yield from _parameter_names(place, rest)
    elif PARAMETERS.get(name) is ParameterType.BOOL:
        for word in ("true", "false"):
            yield Suggestion(word, Kind.VALUE, place.offset - len(value.lstrip()))
    else:
        yield from _text(place, value)


def _parameter_names(place: _Place, begun: str) -> Iterator[Suggestion]:
    for name, type_ in choices.parameters().items():
        yield Suggestion(name, Kind.NAME, place.offset - len(begun), type_, PARAMETER_HELP[name])


def _roles(place: _Place, rest: str) -> Iterator[Suggestion]:
    role, blank, text = rest.partition(" ")
    if blank:
        yield from _text(place, text)
        return
    for each in ROLES:
        yield Suggestion(each, Kind.VALUE, place.offset - len(role))


def _keys(place: _Place, rest: str) -> Iterator[Suggestion]:
    key, blank, text = rest.partition(" ")
    if blank:
        yield from _text(place, text)
        return
    for each, what in choices.KEYS.items():
        yield Suggestion(each, Kind.NAME, place.offset - len(key), what)


def _text(place: _Place, rest: str) -> Iterator[Suggestion]:
    """A value that a file may bring."""
    match = re.fullmatch(r'"?@(?!@)([^"]*)', rest.lstrip()) if place.reading.staged else None
    if match:
        yield from _files(place, match[1])


def _template(place: _Place, rest: str) -> Iterator[Suggestion]:
    yield from _fields(place)
    yield from _text(place, rest)


_BEHIND: dict[str, Callable[[_Place, str], Iterator[Suggestion]]] = {
    "FROM": _models,
    "ADAPTER": _weights,
    "DRAFT": _weights,
    "PARAMETER": _parameters,
    "MESSAGE": _roles,
    "SET": _keys,
    "SYSTEM": _text,
    "LICENSE": _text,
    "TEMPLATE": _template,
}


# Clauses, of which the grammar knows what may follow.


def _clause(place: _Place, word: str, rest: str) -> Iterator[Suggestion]:
    """The keywords that may follow, and what a word there may be."""
    begun = re.search(r"[^ \t\r\n]*\Z", rest)[0]  # type: ignore[index]
    found = following(word, rest[: len(rest) - len(begun)])
    if found is None:
        return
    before, count = "", 0
    for terminal, _ in found.tokens:
        before, count = (before, count + 1) if terminal == "WORD" else (terminal, 0)
    if "WORD" in found.accepted:
        yield from _WORDS.get(clause_meaning(word, before, count), _nothing)(place, begun)
    if word == "QUANTIZE" and before in ("OUTPUT", "SPLIT") and not count:
        yield Suggestion("KEEP", Kind.KEYWORD, place.offset - len(begun))
    for terminal in _in_order(word, found.accepted):
        help_ = KEYWORDS.get((word, terminal), "")
        written = spelled_keyword(word, terminal)
        for each in _COMPARISONS if terminal == "COMPARE" else (written,):
            yield Suggestion(each, Kind.KEYWORD, place.offset - len(begun), "", help_)


def _in_order(word: str, accepted: Iterable[str]) -> list[str]:
    """Keywords in the order of the documentation."""
    known = [terminal for instruction, terminal in KEYWORDS if instruction == word]
    keywords = sorted(set(accepted) - {"WORD", "$END"})
    return sorted(keywords, key=lambda each: known.index(each) if each in known else len(known))


def _nothing(place: _Place, begun: str) -> Iterator[Suggestion]:
    yield from ()


def _types(place: _Place, begun: str) -> Iterator[Suggestion]:
    for name, what in choices.file_types().items():
        yield Suggestion(name, Kind.TYPE, place.offset - len(begun), what)


def _tensor_types(place: _Place, begun: str) -> Iterator[Suggestion]:
    for name, what in choices.tensor_types().items():
        yield Suggestion(name, Kind.TYPE, place.offset - len(begun), what)


def _outtypes(place: _Place, begun: str) -> Iterator[Suggestion]:
    for name in choices.outtypes():
        yield Suggestion(name, Kind.TYPE, place.offset - len(begun))


def _rule(place: _Place, begun: str) -> Iterator[Suggestion]:
    _, equals, type_ = begun.rpartition("=")
    if equals:
        yield from _tensor_types(place, type_)


def _recipes(place: _Place, begun: str) -> Iterator[Suggestion]:
    for name in choices.recipes():
        yield Suggestion(name, Kind.VALUE, place.offset - len(begun))


def _metadata(place: _Place, begun: str) -> Iterator[Suggestion]:
    for key, what in choices.KEYS.items():
        yield Suggestion(key, Kind.NAME, place.offset - len(begun), what)


_WORDS: dict[Meaning, Callable[[_Place, str], Iterator[Suggestion]]] = {
    Meaning.FILE: _files,
    Meaning.ADAPTER: _weights,
    Meaning.MODEL: _named_models,
    Meaning.TYPE: _types,
    Meaning.TENSOR_TYPE: _tensor_types,
    Meaning.OUTTYPE: _outtypes,
    Meaning.RULE: _rule,
    Meaning.RECIPE: _recipes,
    Meaning.PARAMETER: _parameter_names,
    Meaning.KEY: _metadata,
}
"""What is offered for a word of a clause, by its meaning."""
