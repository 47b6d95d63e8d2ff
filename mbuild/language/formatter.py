"""The canonical form of a Modelfile: what ``mbuild fmt`` writes.

Words in upper case, one blank, values quoted only where they need it, comments
kept, one empty line where the source had any. Parsing it again gives the same
instructions and comments.
"""

from __future__ import annotations

from mbuild.core.patterns import regex
from mbuild.language.instructions import (
    ROLES,
    Comment,
    Message,
    Modelfile,
    Parameter,
)
from mbuild.language.quoting import inexpressible, quote
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

_NAME = regex("[A-Za-z0-9_]*")
_KEY = regex(r"""[^ \t\r\n"\x00]+""")


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


def _is_syntax(item: StagedInstruction | Comment) -> bool:
    """Whether it is the line that opens the language."""
    return isinstance(item, Comment) and opens_stages(f"#{item.text}".encode())


def _written(item: StagedInstruction | Comment) -> str:
    match item:
        case Opening(value=value, name=name):
            return f"FROM {_opened(value, name)}"
        case SetKey(name=key, value=value):
            if not _KEY.fullmatch(key):
                raise inexpressible("a key of metadata has no blanks or quotes in it", key)
            return f"SET {key} {quote(value)}"
        case Arg() | Include() | QuantizeTo() | MergeIn() | Unset() | Drop() | Take() | CheckThat():
            read_clause(item)
            return f"{item.word} {written_clause(item)}"
        case Comment(text=text):
            return f"#{_one_line(text)}"
        case Parameter(name=name, value=value):
            if not _NAME.fullmatch(name):
                raise inexpressible("a parameter's name is letters, digits and underscores", name)
            return f"PARAMETER {name} {quote(value)}"
        case Message(role=role, content=content):
            if role not in ROLES:
                raise inexpressible(f"a role is one of {', '.join(ROLES)}", role)
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
        raise inexpressible("AS follows a value without quotes, and a name without blanks", value)
    return f"{value} AS {name}"


def _one_line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise inexpressible("a comment is one line", text)
    return text


def _apart(before: StagedInstruction | Comment, after: StagedInstruction | Comment) -> bool:
    """Whether the source had an empty line between two neighbours."""
    if before.span is None or after.span is None:
        return False
    return after.span.line - before.span.last_line > 1
