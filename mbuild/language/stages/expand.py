r"""Arguments in values: ``${NAME}``, ``${NAME:-else}``, ``${NAME:+then}``; ``\${`` is literal."""

from __future__ import annotations

from collections.abc import Callable

from mbuild.core.patterns import regex

_NAME = regex(r"[A-Za-z_][A-Za-z0-9_]*")
_NEXT = regex(r'\\\$\{|\$\{|"')
_BRACE = regex(r"[{}]")

MAX_EXPANDED = 16 << 20
"""The longest value that arguments make, in characters: as much as a Modelfile may have."""

_NESTED = 50


class ExpansionError(ValueError):
    """What is wrong with a value's arguments, in words; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def _nothing(name: str) -> None:
    """Nobody wants to know."""


def expand(
    text: str,
    lookup: Callable[[str], str | None],
    *,
    unquote: bool = False,
    empty: Callable[[str], None] = _nothing,
) -> str:
    """A value with its arguments put in.

    ``lookup`` gives an argument's value, None for one without; it raises
    :class:`ExpansionError` for one that nobody declared. ``empty`` is told the name of one
    without a value that is put in nevertheless. ``unquote`` leaves quotes of the
    text out, but not those that arguments bring. Raises :class:`ExpansionError`.
    """
    if "${" not in text and not (unquote and '"' in text):
        return text
    out: list[str] = []
    at = 0
    while match := _NEXT.search(text, at):
        out.append(text[at : match.start()])
        if match[0] == '"':
            out.append("" if unquote else '"')
            at = match.end()
        elif match[0] == "${":
            end = _end_of(text, match.end())
            out.append(_value(text[match.end() : end], lookup, unquote, empty))
            at = end + 1
        else:
            out.append("${")
            at = match.end()
    out.append(text[at:])
    if sum(map(len, out)) > MAX_EXPANDED:
        raise ExpansionError("the value is too long once its arguments are put in", "shorten them")
    return "".join(out)


def _end_of(text: str, start: int) -> int:
    """Where the brace closes that opened before ``start``."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += 1 if match[0] == "{" else -1
        if not depth:
            return match.start()
    raise ExpansionError("${ is never closed", r"write }, or \${ for the two characters themselves")


def _value(
    inner: str,
    lookup: Callable[[str], str | None],
    unquote: bool,
    empty: Callable[[str], None],
) -> str:
    match = _NAME.match(inner)
    rest = inner[match.end() :] if match else ""
    if match is None or (rest and not rest.startswith((":-", ":+"))):
        raise ExpansionError(
            f"${{{inner:.60}}} is not an argument",
            r"write ${NAME}, ${NAME:-DEFAULT} or ${NAME:+VALUE}; \${ stands for itself",
        )
    if rest.count("${") > _NESTED:
        raise ExpansionError("arguments are nested too deep", "declare an ARG for the inner ones")
    value = lookup(match[0])
    if rest.startswith(":-"):
        return value or expand(rest[2:], lookup, unquote=unquote, empty=empty)
    if rest.startswith(":+"):
        return expand(rest[2:], lookup, unquote=unquote, empty=empty) if value else ""
    if value is None:
        empty(match[0])
    return value or ""
