"""Values in the form that reads back as themselves: bare, in one quote or in three."""

from __future__ import annotations

from mbuild.core.errors import ModelfileError
from mbuild.core.patterns import regex
from mbuild.language.instructions import Problem
from mbuild.language.printable import HIDDEN, shape

_PAD = f"[ \t{HIDDEN}]*"
_STARTS_QUOTED = regex(f'{_PAD}"')
_CLOSES = regex(f'"{_PAD}[\r\n]')
_CLOSES_TRIPLE = regex(f'"{HIDDEN}*"{HIDDEN}*"{_PAD}[\r\n]')
_MAKES_TRIPLE = regex(f'{HIDDEN}*"{HIDDEN}*(?:"|\\Z)')


def quote(value: str) -> str:
    """A value in a form that reads back as itself: bare, in one quote or in three.

    Text of several lines prefers three quotes. Raises :class:`ModelfileError` for
    a text that no form can hold: one with a line that ends in three quotes (there
    are no escapes), or with half a surrogate pair.
    """
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise inexpressible("it holds half a surrogate pair", value)
    form = shape(value)
    several = "\n" in form or "\r" in form
    if not several and value == _trimmed(value, form) and not _STARTS_QUOTED.match(form):
        return value or '""'
    quoted = None if _CLOSES.search(form) or _MAKES_TRIPLE.match(form) else f'"{value}"'
    tripled = None if _CLOSES_TRIPLE.search(form) else f'"""{value}"""'
    chosen = (tripled or quoted) if several else (quoted or tripled)
    if chosen is None:
        raise inexpressible("one of its lines ends with three quotes", value)
    return chosen


def _trimmed(value: str, form: str) -> str:
    """Nothing if the ends of a bare value would be taken off or lost, else the value itself."""
    if not form.strip(f" \t{HIDDEN}"):
        return ""
    ends = value[: len(form) - len(form.lstrip(f" \t{HIDDEN}"))]
    ends += value[len(form.rstrip(f" \t{HIDDEN}")) :]
    return "" if any(char.isspace() for char in ends) else value


def inexpressible(why: str, value: str) -> ModelfileError:
    """The error for a value that the language cannot say."""
    shown = value if len(value) <= 60 else value[:57] + "..."
    message = f"the Modelfile language cannot express {shown!r}: {why}"
    return ModelfileError([Problem(message, code="inexpressible")])
