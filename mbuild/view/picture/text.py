"""Texts in pictures: how wide they are, where they break, and what cannot be in them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from mbuild.core.patterns import regex

_WIDTHS: tuple[tuple[str, float], ...] = (
    ("'|ijl", 0.32),
    (" !,./:;I[\\]ft", 0.41),
    ('"()-`r{}', 0.46),
    ("*?Jacekosvxyz_L", 0.62),
    ("@MW%mw", 1.0),
    ("&CDGHNOQRUVXYAKBP#+<=>~^", 0.78),
)
_OF = {char: width for chars, width in _WIDTHS for char in chars}
_OTHER = 0.68
"""Widths as parts of the font's size, in the widest of the usual sans-serif fonts (DejaVu Sans)."""

_BAD = regex(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]"
)
"""What XML forbids, what is no text, and what turns the direction of the text around it."""


def printable(text: str) -> str:
    """The text with the replacement character for what cannot be shown; lines stay."""
    return _BAD.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n").replace("\r", "\n"))


def one_line(text: str) -> str:
    """The same on one line."""
    return " ".join(printable(text).split())


def width(text: str, size: float) -> float:
    """How wide a text is at most in a font of that size, in the same unit."""
    return sum(_char_width(char) for char in text) * size


def _char_width(char: str) -> float:
    if char in _OF:
        return _OF[char]
    if unicodedata.combining(char):
        return 0.0
    wide = ord(char) > 0xFFFF or unicodedata.east_asian_width(char) in "WF"
    return 1.1 if wide else _OTHER if ord(char) < 0x250 else 0.85


def wrapped(text: str, most: float, size: float, lines: int) -> list[str]:
    """The text in at most so many lines of that width; what does not fit is cut, with an ellipsis.

    Breaks at spaces, else after ``/``, ``-``, ``_``, ``.`` and ``:``, else anywhere.
    """
    found: list[str] = []
    line = ""
    for piece in _pieces(one_line(text), most, size):
        if line and width((line + piece).rstrip(), size) > most:
            found.append(line.rstrip())
            line = ""
        line += piece
    found.append(line.rstrip())
    if len(found) > lines:
        found = [*found[: lines - 1], _cut("".join(found[lines - 1 :]), most, size)]
    return found


def _pieces(text: str, most: float, size: float) -> Iterator[str]:
    """What stays together, each piece narrow enough for a line of its own."""
    for word in re.findall(r"\S+ ?", text):
        parts = [word]
        if width(word.rstrip(), size) > most:
            parts = re.findall(r"[^-/_.:]+[-/_.:]* ?|[-/_.:]+ ?", word)
        for part in parts:
            while width(part.rstrip(), size) > most:
                fits = len(_prefix(part, most, size))
                yield part[:fits]
                part = part[fits:]
            yield part


def _prefix(text: str, most: float, size: float) -> str:
    taken = 0.0
    for place, char in enumerate(text):
        taken += _char_width(char) * size
        if taken > most and place:
            return text[:place]
    return text


def _cut(text: str, most: float, size: float) -> str:
    return _prefix(text, most - width("…", size), size).rstrip() + "…"
