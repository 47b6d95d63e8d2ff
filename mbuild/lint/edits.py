"""Changes of the text that a rule can offer: for an editor, which makes them at a click."""

from __future__ import annotations

from mbuild.core.errors import ModelfileError
from mbuild.language.instructions import Edit
from mbuild.language.span import Span


def without_line(span: Span | None) -> Edit | None:
    """The instruction goes."""
    return Edit(span.start, span.end, "") if span else None


def instead_of_value(span: Span | None, text: str) -> Edit | None:
    """Another value for the instruction, quoted where it has to be; None where no form holds it."""
    from mbuild.language.quoting import quote

    try:
        return Edit(span.value, span.end, quote(text)) if span else None
    except ModelfileError:
        return None
