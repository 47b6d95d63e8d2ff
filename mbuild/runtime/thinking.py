"""Thoughts and answers of a model apart, as its text comes in."""

from __future__ import annotations

_BLANK = " \t\r\n"


class ThinkingSplitter:
    """Takes a text piece by piece; gives (thoughts, answer) as soon as it is sure of them.

    A thought stands first in the text or not at all. Blanks around the tags belong to neither.
    """

    def __init__(self, tags: tuple[str, str], *, inside: bool = False) -> None:
        """``inside``: the prompt ended with the opening tag."""
        self._open, self._close = tags
        self._text = ""
        self._state = "thought" if inside else "before"
        self._eats_blanks = inside

    @property
    def over(self) -> bool:
        """Whether the thoughts have ended, or there were none."""
        return self._state == "answer"

    def feed(self, piece: str) -> tuple[str, str]:
        """The thoughts and the answer that this piece makes sure."""
        self._text += piece
        thoughts = answer = ""
        if self._state == "before":
            start = self._text.lstrip(_BLANK)
            if start.startswith(self._open):
                self._text, self._state = start[len(self._open) :], "thought"
                self._eats_blanks = True
            elif not self._open.startswith(start):
                self._state = "answer"
            else:
                return "", ""
        if self._state == "thought":
            thoughts = self._thoughts()
        if self._state == "answer":
            answer = self._after_blanks()
        return thoughts, answer

    def _thoughts(self) -> str:
        text = self._after_blanks()
        before, found, after = text.partition(self._close)
        if found:
            self._text, self._state, self._eats_blanks = after, "answer", True
            return before
        held = overlap(text, self._close)
        self._text = text[len(text) - held :]
        return text[: len(text) - held]

    def _after_blanks(self) -> str:
        text, self._text = self._text, ""
        if self._eats_blanks:
            text = text.lstrip(_BLANK)
            self._eats_blanks = not text
        return text

    def end(self) -> tuple[str, str]:
        """What is left when the text has ended."""
        text, self._text = self._text, ""
        return (text, "") if self._state == "thought" else ("", text)


def overlap(text: str, tag: str) -> int:
    """How many characters at the end of the text may be the beginning of the tag."""
    most = min(len(text), len(tag) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(tag[:n])), 0)
