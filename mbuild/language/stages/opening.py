"""Whether a Modelfile opens the language ``mbuild/1``: light, because every build asks."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING

from mbuild.core.errors import UsageError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from mbuild.language.instructions import Comment

SYNTAX_LINE = "# syntax=mbuild/1"
"""The first line that opens the language, as ``mbuild fmt`` writes it."""

_FIRST = regex(rb"#[ \t]*syntax[ \t]*=[ \t]*mbuild/([^ \t\r\n]*)[ \t]*(?:[\r\n]|\Z)", re.I)


def opens_stages(data: bytes) -> bool:
    """Whether the first line of a Modelfile is ``# syntax=mbuild/1``.

    Another line with ``syntax=`` is a comment, as in Ollama. Raises :class:`UsageError` for
    a version of the language that this mbuild does not know.
    """
    match = _FIRST.match(data.removeprefix(codecs.BOM_UTF8))
    if match is None:
        return False
    if match[1] != b"1":
        version = match[1].decode(errors="replace")
        raise UsageError(
            f"the Modelfile wants the language mbuild/{version:.40}; this mbuild knows mbuild/1",
            hint=f"use a newer mbuild, or begin the file with {SYNTAX_LINE}",
        )
    return True


def language_named(comment: Comment) -> str:
    """The language that a comment was to open, as ``mbuild/1`` is, also misspelled; or nothing."""
    pattern = r"[ \t]*(?:syntax|sytnax|synatx|snytax)[ \t]*=[ \t]*(\S+)[ \t]*"
    match = re.fullmatch(pattern, comment.text, re.IGNORECASE)
    return match[1] if match else ""
