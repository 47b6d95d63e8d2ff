"""Single values that Ollama takes and that do not say what was meant."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

from mbuild.core.errors import ModelfileError
from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple
from mbuild.language.instructions import (
    Adapter,
    Draft,
    Edit,
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
from mbuild.language.meaning import coerce
from mbuild.language.parameters import DEPRECATED, PARAMETERS, ParameterType
from mbuild.language.printable import visible
from mbuild.language.span import Span
from mbuild.lint.edits import instead_of_value, without_line


class UsefulRange(NamedTuple):
    """The values of a parameter that mean something, both ends included."""

    low: float
    high: float


_TOKENS = 1 << 26

RANGES: dict[str, UsefulRange] = {
    "temperature": UsefulRange(0, 5),
    "top_p": UsefulRange(0, 1),
    "min_p": UsefulRange(0, 1),
    "typical_p": UsefulRange(0, 1),
    "top_k": UsefulRange(-1, 1_000_000),
    "repeat_penalty": UsefulRange(0, 10),
    "presence_penalty": UsefulRange(-10, 10),
    "frequency_penalty": UsefulRange(-10, 10),
    "repeat_last_n": UsefulRange(-1, _TOKENS),
    "num_ctx": UsefulRange(0, _TOKENS),
    "num_predict": UsefulRange(-2, _TOKENS),
    "draft_num_predict": UsefulRange(-1, 10_000),
    "num_keep": UsefulRange(-1, _TOKENS),
    "num_batch": UsefulRange(0, _TOKENS),
    "num_gpu": UsefulRange(-1, 1_000_000),
    "main_gpu": UsefulRange(0, 1_000),
    "num_thread": UsefulRange(0, 100_000),
}
"""Wide bounds: what lies beyond is a slip of the keyboard, or of another program's units."""

_DOUBLE = "\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033"
_SINGLE = "\u2018\u2019\u201a\u201b\u2039\u203a"
_STRAIGHT = "'`"
_PLAIN = '"'
_TRIPLE = regex(
    rf"([{_DOUBLE}{_SINGLE}{_STRAIGHT}])\1\1.+([{_DOUBLE}{_SINGLE}{_STRAIGHT}])\2\2", re.S
)
"""A value between three quotes each, none of them straight."""
_LIST_OF_QUOTED = regex(r"""\[\s*(["']).*\1\s*,?\s*\]""", re.S)
_SEVERAL_QUOTED = regex(r'[^"\n]+(?:"(?:[ \t]*,[ \t]*|[ \t]+)"[^"\n]+)+')
_SEVERAL_TOKENS = regex(r"<[^<>\s]+>(?:\s*[,;]?\s*<[^<>\s]+>)*\s*[,;\s]\s*<[^<>\s]+>")
_ESCAPE = regex(r"\\(?:[nrt](?![a-z])|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2})")
_ESCAPE_IN_TEXT = regex(r"""(?<=[^\s\\"'`(])\\n(?![a-z])""")
_CONTINUED = regex(r"[^\n]*[ \t]\\\s*")
_COMMENT = regex(r"\S+\s+#\s+\S.*")
_COMMENT_BEHIND_SENTENCE = regex(r"[^\n]*[.!?]\s+(?:#|//)\s+\w[^\n]*")
_COMMENT_BEHIND_QUOTE = regex(r'[^"\n]*"[ \t]+(?:#|//)[^\n]*\n')
PATH = regex(
    r"(?:\.{1,2}[\\/]|~/)\S+|(?!\w+://)[\w.~/\\:-]+\.(?:txt|text|md|rst|jinja2?|j2|tmpl|gotmpl|prompt)"
)


def _warn(
    item: Instruction, code: str, message: str, hint: str, edit: Edit | None = None
) -> Problem:
    return Problem(message, value_span(item.span), Severity.WARNING, code, hint, edit=edit)


def value_span(span: Span | None) -> Span | None:
    """The part of an instruction's span that its value has."""
    return span.part(span.value, span.end) if span else None


def _text_of(item: Instruction) -> str:
    return item.content if isinstance(item, Message) else item.value


def title_of(item: Instruction) -> str:
    """What to call an instruction in a message."""
    if isinstance(item, Parameter):
        return f"PARAMETER {item.name}"
    return f"MESSAGE {item.role}" if isinstance(item, Message) else item.word


def _texts(modelfile: Modelfile, *kinds: type[Instruction]) -> Iterator[tuple[Instruction, str]]:
    """Texts that reach the model: those of stop, and of the kinds of instructions."""
    for item in modelfile.instructions:
        stop = isinstance(item, Parameter) and PARAMETERS.get(item.name) is ParameterType.TEXTS
        if stop or isinstance(item, kinds):
            yield item, _text_of(item)


def _empty_stop(modelfile: Modelfile) -> Iterator[Problem]:
    for item, text in _texts(modelfile):
        if not visible(text):
            message = "this stop sequence is empty, and an empty one ends every answer at once"
            hint = "remove the line, or write the text after it"
            yield _warn(item, "empty-stop", message, hint, without_line(item.span))


def _quotes(modelfile: Modelfile) -> Iterator[Problem]:
    """Quotes that are none for Ollama, around a whole value: they become part of it."""
    for item, text in _texts(modelfile, From, Adapter, Draft, System, Template, License, Message):
        value = visible(text).strip()
        first, last, inner = value[:1], value[-1:], value[1:-1]
        if _TRIPLE.fullmatch(value):
            first, last, inner = value[:3], value[-3:], value[3:-3]
        if not inner or not _is_pair(first[:1], last[:1], spoken=isinstance(item, Message)):
            continue
        if first in inner or last in inner:  # two quotations, not one around all
            continue
        yield _warn(
            item,
            "quotes-in-value",
            f"the quotes {first} and {last} are part of the value of {title_of(item)}",
            'only the straight quotes " and """ are removed',
            instead_of_value(item.span, inner),
        )


def _is_pair(first: str, last: str, *, spoken: bool) -> bool:
    """Whether two characters quote what stands between; ``spoken`` text has quotes of its own."""
    if first in _DOUBLE:
        return last in _DOUBLE + _PLAIN
    if first == _PLAIN:
        return last in _DOUBLE
    if first in _STRAIGHT:
        return not spoken and last == first
    return not spoken and first in _SINGLE and last in _SINGLE


def _lists(modelfile: Modelfile) -> Iterator[Problem]:
    """Several stop texts on one line are one, with its brackets, commas and quotes."""
    for item, text in _texts(modelfile):
        patterns = (_SEVERAL_QUOTED, _SEVERAL_TOKENS)
        if _is_list(text.strip()) or any(each.fullmatch(text.strip()) for each in patterns):
            yield _warn(
                item,
                "list-in-value",
                "this list becomes one stop sequence, taken literally",
                "write one line for each: PARAMETER stop TEXT",
                _one_line_each(item, text.strip()),
            )


def _one_line_each(item: Instruction, text: str) -> Edit | None:
    """A PARAMETER line for each text of a JSON list."""
    if item.span is None or not isinstance(item, Parameter):
        return None
    from mbuild.language.quoting import quote

    try:
        words = [quote(word) for word in json.loads(text)]
    except (ValueError, RecursionError, TypeError, ModelfileError):
        return None
    lines = "\n".join(f"PARAMETER {item.name} {word}" for word in words)
    return Edit(item.span.start, item.span.end, lines)


def _is_list(text: str) -> bool:
    if not text.startswith("["):
        return False
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return bool(_LIST_OF_QUOTED.fullmatch(text))
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _escapes(modelfile: Modelfile) -> Iterator[Problem]:
    """A backslash and an n are two letters. TEMPLATE has a rule of its own."""
    for item, text in _texts(modelfile, System, Message):
        pattern = _ESCAPE if isinstance(item, Parameter) else _ESCAPE_IN_TEXT
        match = None if "\n" in text and not isinstance(item, Parameter) else pattern.search(text)
        if match:
            yield _warn(
                item,
                "escape-in-value",
                f"{title_of(item)} holds {match[0]} as a backslash and letters: a Modelfile has no"
                " escape sequences",
                'put the value between """ and write real line ends in it',
            )


def _continued(modelfile: Modelfile) -> Iterator[Problem]:
    """A shell's and a Dockerfile's backslash before a line's end is a part of the value."""
    for item, text in _texts(modelfile, From, Adapter, Draft, System, Template, License, Message):
        if _CONTINUED.fullmatch(text):
            yield _warn(
                item,
                "backslash-in-value",
                f"the backslash at the end is part of the value of {title_of(item)}",
                'a value of several lines stands between """',
            )


def _carriage_returns(modelfile: Modelfile) -> Iterator[Problem]:
    for item, text in _texts(modelfile, System, Template, License, Message):
        if item.span is not None and "\r" in text:
            yield _warn(
                item,
                "carriage-return",
                f"the value of {title_of(item)} holds carriage returns (Windows line endings):"
                " they reach the model and change its id",
                "save the file with Unix line endings (LF)",
                instead_of_value(item.span, text.replace("\r\n", "\n")),
            )


def _comments(modelfile: Modelfile) -> Iterator[Problem]:
    """A comment behind a value; behind a quoted one the value goes on to the next quote."""
    for item, text in _texts(modelfile, System, Template, License, Message):
        is_stop = isinstance(item, Parameter)
        bare = _COMMENT if is_stop else _COMMENT_BEHIND_SENTENCE
        if _COMMENT_BEHIND_QUOTE.match(text) or bare.fullmatch(text.strip()):
            yield _warn(
                item,
                "comment-in-value",
                f"what looks like a comment is part of the value of {title_of(item)}",
                "a comment needs a line of its own",
            )


def _ranges(modelfile: Modelfile) -> Iterator[Problem]:
    """Numbers beyond all sense, of which the last of a name counts."""
    final = {item.name: item for item in modelfile.parameters}
    for item in final.values():
        limits = RANGES.get(item.name)
        if limits is None or item.name in DEPRECATED:
            continue
        try:
            value = coerce(item.name, item.value)
        except ModelfileError:
            continue
        if isinstance(value, str) or limits.low <= value <= limits.high or value != value:
            continue
        yield _warn(
            item,
            "odd-value",
            f"{item.name} {item.plain} is outside its meaningful range",
            f"{item.name} lies between {limits.low:,} and {limits.high:,}",
        )


def _paths(modelfile: Modelfile) -> Iterator[Problem]:
    """A path where a text belongs is that text: no file is read."""
    for item, text in _texts(modelfile, System, Template, License):
        if not isinstance(item, Parameter) and PATH.fullmatch(text.strip()):
            yield path_as_text(item, text.strip())


def path_as_text(item: Instruction, text: str) -> Problem:
    """The warning for a text that is a file's name."""
    message = f"the value of {item.word} is the text {text!r} itself: no file is read"
    hint = f'copy the text of the file into the Modelfile: {item.word} """TEXT"""'
    return _warn(item, "path-as-text", message, hint)


RULES: tuple[Callable[[Modelfile], Iterator[Problem]], ...] = (
    _empty_stop,
    _quotes,
    _lists,
    _escapes,
    _continued,
    _carriage_returns,
    _comments,
    _ranges,
    _paths,
)
"""One row a rule."""
