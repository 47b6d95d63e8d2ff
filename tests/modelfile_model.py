"""The rule of the Modelfile language, told once more, one character at a time.

Written from the description of Ollama's reader and independent of the grammar, so
that the two can be compared on files that nobody thought of. It gives what Ollama
keeps: text without the characters that Go calls non-printable.
"""

from __future__ import annotations

from mbuild.language.printable import is_print

LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
NAME_CHARACTERS = LETTERS | frozenset("0123456789_")
BLANKS = frozenset(" \t")
NEWLINES = frozenset("\r\n")
WORDS = frozenset(
    {"from", "license", "template", "system", "adapter", "draft", "renderer", "parser"}
    | {"parameter", "message", "requires"}
)


class Refused(Exception):
    """Ollama does not take this file."""


class _Tape:
    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0

    def peek(self) -> str:
        return self.text[self.place : self.place + 1]

    def take(self) -> str:
        char = self.peek()
        self.place += 1
        return char

    def word_to_blank(self, allowed: frozenset[str]) -> str:
        """Characters of a set, then one blank, which goes too; anything else is refused."""
        word = ""
        while (char := self.take()) in allowed and char:
            word += char
        if char not in BLANKS or not char:
            raise Refused
        return word


def read(text: str) -> list[tuple[str, str, str]]:
    """Each instruction's word in lower case, its name or role if it has one, its value."""
    tape = _Tape(text)
    found = []
    while char := tape.peek():
        if char in BLANKS or char in NEWLINES:
            tape.take()
        elif char == "#":
            while tape.peek() and tape.peek() not in NEWLINES:
                tape.take()
        else:
            found.append(_instruction(tape))
    if not any(word == "from" for word, _, _ in found):
        raise Refused
    return found


def _instruction(tape: _Tape) -> tuple[str, str, str]:
    first = tape.take()
    word = (first if is_print(first) else "") + tape.word_to_blank(LETTERS)
    if word.lower() not in WORDS:
        raise Refused
    name = ""
    if word.lower() == "parameter":
        name = tape.word_to_blank(NAME_CHARACTERS)
    elif word.lower() == "message":
        name = tape.word_to_blank(LETTERS)
        if name not in {"system", "user", "assistant"}:
            raise Refused
    return word.lower(), name, _value(tape)


def _value(tape: _Tape) -> str:
    kept = ""
    while True:
        char = tape.take()
        if not char or char in NEWLINES:
            whole = kept.strip(" \t\r\n")
            for quotes in ('"""', '"'):
                if whole.startswith(quotes):
                    if len(whole) >= 2 * len(quotes) and whole.endswith(quotes):
                        return whole[len(quotes) : -len(quotes)]
                    break
            else:
                return whole
            if not char:
                raise Refused
        if char in BLANKS or char in NEWLINES or is_print(char):
            kept += char
