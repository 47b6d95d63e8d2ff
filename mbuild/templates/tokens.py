"""Tokens of a template: what Go calls them, and what is wrong with those that are none."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from mbuild.templates import literals

if TYPE_CHECKING:
    from collections.abc import Callable

    from lark import Token

NUMBERS: dict[str, Callable[[str], int | float | complex]] = {
    "NUMBER": literals.number,
    "COMPLEX": literals.complex_number,
    "CHARACTER_CONSTANT": literals.character,
}
"""What each kind of number stands for; each raises ``ValueError`` with Go's words."""

SPACE = "".join(map(chr, (*range(9, 14), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B))))
SPACE += "\u2028\u2029\u202f\u205f\u3000"
"""What Go's ``unicode.IsSpace`` calls space."""

GAP = " \t\r\n"
"""The space that separates within actions and that trim marks remove."""

FAULTS: dict[str, Callable[[str], str]] = {
    "BAD_COMMENT_OPEN": lambda text: "unclosed comment",
    "BAD_COMMENT_END": lambda text: "comment ends before closing delimiter",
    "BAD_NUMBER": lambda text: f"bad number syntax: {literals.quote(text)}",
    "BAD_CHARACTER_CONSTANT": lambda text: "unterminated character constant",
    "BAD_STRING": lambda text: "unterminated quoted string",
    "BAD_RAW_STRING": lambda text: "unterminated raw quoted string",
    "BAD_COLON": lambda text: "expected :=",
    "BAD_WORD": lambda text: f"bad character {literals.unicode_name(text[-1])}",
    "BAD_SIGN": lambda text: "",
    "BAD_CHARACTER": lambda text: (
        f"unrecognized character in action: {literals.unicode_name(text)}"
    ),
}
"""What Go says of text that is no token. A sign that means nothing is a token to Go."""

CONTEXTS = {
    "LDELIM": "command",
    "IF": "if",
    "RANGE": "range",
    "WITH": "with",
    "ELSE": "else",
    "_END": "end",
    "_DEFINE": "define clause",
    "_BLOCK": "block clause",
    "_TEMPLATE": "template clause",
    "_BREAK": "{{break}}",
    "_CONTINUE": "{{continue}}",
    "_LPAREN": "parenthesized pipeline",
}
"""Where Go says it is, after each token that begins something."""

KEYWORDS = frozenset(CONTEXTS) - {"LDELIM", "_LPAREN"} | {"DOT", "NIL"}
CONSTANTS = frozenset({"BOOL", "DOT", "NIL", "STRING", "RAW_STRING", *NUMBERS})
"""What cannot be called: neither with the result of a command before it, nor has it fields."""

WORDS = frozenset({"IDENTIFIER", "FIELD", "VARIABLE", "DECLARED", "BAD_WORD", "BAD_NUMBER"})
"""What is made of letters, which are not quite Python's letters."""


def trim_token(token: Token, source: str) -> Token:
    """Text without the space that the trim marks of the actions beside it take away."""
    start, end = token.start_pos or 0, token.end_pos or 0
    value = str(token)
    if source.endswith("-}}", 0, start):
        value = value.lstrip(GAP)
    if source.startswith("{{-", end) and source[end + 3 : end + 4] in tuple(GAP):
        value = value.rstrip(GAP)
    return token.update(value=value)


def line_of(token: Token) -> int:
    """The line of a token's first character that is not space."""
    space = len(token) - len(token.lstrip(GAP))
    return (token.line or 1) + token.count("\n", 0, space)


def describe_token(token: Token) -> str:
    """A token as Go names it in a message."""
    if token.type in ("LDELIM", "_COMMENT"):
        return '"{"'
    text = token.strip(GAP)
    if token.type in KEYWORDS:
        return f"<{text}>"
    if token.type.startswith("BAD_COMMENT"):
        return '"{"'
    if len(text.encode("utf-8", "surrogatepass")) > 10:
        return literals.quote(text[:10]) + "..."
    return literals.quote(text)


def word_fault(token: Token) -> str:
    """Python takes numerals such as ``²`` for letters, Go does not."""
    for index, char in enumerate(token):
        if unicodedata.category(char) in ("No", "Nl"):
            fault = "bad character" if index else "unrecognized character in action:"
            if token.type == "BAD_NUMBER":
                fault = "unrecognized character in action:"
            return f"{fault} {literals.unicode_name(char)}"
    return ""
