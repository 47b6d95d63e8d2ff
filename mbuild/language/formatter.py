"""The canonical form of a Modelfile: what ``mbuild fmt`` writes.

Words in upper case, one blank, values quoted only where they need it, comments
kept, one empty line where the source had any. Parsing it again gives the same
instructions and comments.
"""

from __future__ import annotations

import re

from mbuild.core.errors import ModelfileError
from mbuild.language.instructions import (
    ROLES,
    Comment,
    Message,
    Modelfile,
    Parameter,
    Problem,
)
from mbuild.language.printable import HIDDEN, shape
from mbuild.language.stages.clauses import read_clause, written_clause
from mbuild.language.stages.opening import SYNTAX_LINE, opens_stages
from mbuild.language.stages.words import (
    Arg,
    CheckThat,
    Drop,
    Include,
    MergeIn,
    Opening,
    QuantizeTo,
    SetKey,
    StagedFile,
    StagedInstruction,
    Take,
    Unset,
)

_PAD = f"[ \t{HIDDEN}]*"
_STARTS_QUOTED = re.compile(f'{_PAD}"')
_CLOSES = re.compile(f'"{_PAD}[\r\n]')
_CLOSES_TRIPLE = re.compile(f'"{HIDDEN}*"{HIDDEN}*"{_PAD}[\r\n]')
_MAKES_TRIPLE = re.compile(f'{HIDDEN}*"{HIDDEN}*(?:"|\\Z)')
_NAME = re.compile("[A-Za-z0-9_]*")
_KEY = re.compile(r"""[^ \t\r\n"\x00]+""")


def format(modelfile: Modelfile | StagedFile) -> str:
    """The canonical text, each line ended by ``\\n``; to be written as UTF-8 without translation.

    Comments stand where their spans say, those without one come first. Raises
    :class:`ModelfileError` for what the language cannot express, which a parsed
    file never contains.
    """
    items: list[StagedInstruction | Comment] = [*modelfile.comments, *modelfile.instructions]
    if all(item.span for item in items):
        items.sort(key=lambda item: item.span.start if item.span else 0)
    lines: list[str] = []
    if isinstance(modelfile, StagedFile):
        lines.append(SYNTAX_LINE)
        if items and _is_syntax(items[0]):
            lines += [""] if len(items) > 1 and _apart(items[0], items[1]) else []
            del items[0]
    previous: StagedInstruction | Comment | None = None
    for item in items:
        if previous is not None and _apart(previous, item):
            lines.append("")
        lines.append(_written(item))
        previous = item
    return "".join(f"{line}\n" for line in lines)


def quote(value: str) -> str:
    """A value in a form that reads back as itself: bare, in one quote or in three.

    Text of several lines prefers three quotes. Raises :class:`ModelfileError` for
    a text that no form can hold: one with a line that ends in three quotes (there
    are no escapes), or with half a surrogate pair.
    """
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise _inexpressible("it holds half a surrogate pair", value)
    form = shape(value)
    several = "\n" in form or "\r" in form
    if not several and value == _trimmed(value, form) and not _STARTS_QUOTED.match(form):
        return value or '""'
    quoted = None if _CLOSES.search(form) or _MAKES_TRIPLE.match(form) else f'"{value}"'
    tripled = None if _CLOSES_TRIPLE.search(form) else f'"""{value}"""'
    chosen = (tripled or quoted) if several else (quoted or tripled)
    if chosen is None:
        raise _inexpressible("one of its lines ends with three quotes", value)
    return chosen


def _trimmed(value: str, form: str) -> str:
    """Nothing if the ends of a bare value would be taken off or lost, else the value itself."""
    if not form.strip(f" \t{HIDDEN}"):
        return ""
    ends = value[: len(form) - len(form.lstrip(f" \t{HIDDEN}"))]
    ends += value[len(form.rstrip(f" \t{HIDDEN}")) :]
    return "" if any(char.isspace() for char in ends) else value


def _is_syntax(item: StagedInstruction | Comment) -> bool:
    """Whether it is the line that opens the language."""
    return isinstance(item, Comment) and opens_stages(f"#{item.text}".encode())


def _written(item: StagedInstruction | Comment) -> str:
    match item:
        case Opening(value=value, name=name):
            return f"FROM {_opened(value, name)}"
        case SetKey(name=key, value=value):
            if not _KEY.fullmatch(key):
                raise _inexpressible("a key of metadata has no blanks or quotes in it", key)
            return f"SET {key} {quote(value)}"
        case Arg() | Include() | QuantizeTo() | MergeIn() | Unset() | Drop() | Take() | CheckThat():
            read_clause(item)
            return f"{item.word} {written_clause(item)}"
        case Comment(text=text):
            return f"#{_one_line(text)}"
        case Parameter(name=name, value=value):
            if not _NAME.fullmatch(name):
                raise _inexpressible("a parameter's name is letters, digits and underscores", name)
            return f"PARAMETER {name} {quote(value)}"
        case Message(role=role, content=content):
            if role not in ROLES:
                raise _inexpressible(f"a role is one of {', '.join(ROLES)}", role)
            return f"MESSAGE {role} {quote(content)}"
        case _:
            return f"{item.word} {quote(item.value)}"


def _opened(value: str, name: str) -> str:
    """The value of FROM and the stage's name; one that ends like a name is put in quotes."""
    if not name:
        return f'"{value}"' if Opening.of_bare(value, None).name else quote(value)
    if (
        not value
        or quote(value) != value
        or Opening.of_bare(f"{value} AS {name}", None) != Opening(value, name)
    ):
        raise _inexpressible("AS follows a value without quotes, and a name without blanks", value)
    return f"{value} AS {name}"


def _one_line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise _inexpressible("a comment is one line", text)
    return text


def _apart(before: StagedInstruction | Comment, after: StagedInstruction | Comment) -> bool:
    """Whether the source had an empty line between two neighbours."""
    if before.span is None or after.span is None:
        return False
    return after.span.line - before.span.last_line > 1


def _inexpressible(why: str, value: str) -> ModelfileError:
    shown = value if len(value) <= 60 else value[:57] + "..."
    message = f"the Modelfile language cannot express {shown!r}: {why}"
    return ModelfileError([Problem(message, code="inexpressible")])
