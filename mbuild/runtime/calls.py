"""Calls of tools in the text that a model writes, as it comes in."""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mbuild.runtime.thinking import overlap
from mbuild.templates.conversation import ToolCall
from mbuild.templates.nodes import Branch, Field, ParsedTemplate, Text, walk

_BLANK = " \t\r\n"
_LETTERS = string.ascii_lowercase + string.digits
_DECODER = json.JSONDecoder()
_BARE = ("{", "[")


def tag_of(template: ParsedTemplate) -> str:
    """The text that begins a call, from how a template writes earlier ones; ``{`` without one."""
    for part in walk(template.body):
        if isinstance(part, Branch) and any(
            isinstance(inner, Field) and "ToolCalls" in inner.names for inner in walk([part.pipe])
        ):
            text = next((n.text for n in part.body if isinstance(n, Text) and n.text.strip()), "")
            return text.partition("{")[0].strip(_BLANK) or "{"
    return "{"


def names_of(tools: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The names of the functions in a request's tools."""
    functions = [tool.get("function") for tool in tools]
    return tuple(str(f["name"]) for f in functions if isinstance(f, dict) and f.get("name"))


class CallSplitter:
    """Takes a text piece by piece; gives the answer's text and the calls in it.

    A call is a JSON object with a known tool's name and ``arguments`` or ``parameters``, or a
    known name followed by the object of its arguments, after the tag. With a bare ``{`` or
    ``[`` for a tag the text must begin with it, for it stands in any text.
    """

    def __init__(self, tag: str, names: Sequence[str]) -> None:
        self._tag = tag
        self._names = tuple(names)
        self._text = ""
        self._state = "before"
        self._count = 0
        self._since = ""  # the text since a bare tag, which is the answer if no call is in it

    def feed(self, piece: str) -> tuple[str, list[ToolCall]]:
        """The text of the answer and the calls that this piece makes sure."""
        if self._state == "answer":
            return piece, []
        self._text += piece
        if self._tag in _BARE:
            self._since += piece
        answer = self._before() if self._state == "before" else ""
        return answer, list(self._calls()) if self._state == "calls" else []

    def _before(self) -> str:
        """The text before the tag."""
        text = self._text
        if self._tag in _BARE:
            start = text.lstrip(_BLANK)
            if not start:
                return ""
            if start.startswith(_BARE):
                self._state = "calls"
                return ""
            self._state, self._text = "answer", ""
            return text
        before, found, after = text.partition(self._tag)
        if found:
            self._text, self._state = after, "calls"
            return before.rstrip(_BLANK)
        held = overlap(text, self._tag)
        # Blanks before a tag are no answer, so those at the end wait for what follows.
        blank = len(text) - held - len(text[: len(text) - held].rstrip(_BLANK))
        self._text = text[len(text) - held - blank :]
        return text[: len(text) - held - blank]

    def _calls(self) -> Iterator[ToolCall]:
        while (start := self._text.find("{")) >= 0:
            try:
                value, end = _DECODER.raw_decode(self._text, start)
            except ValueError:
                if not self._skip_broken(start):
                    return
                continue
            before, self._text = self._text[:start], self._text[end:]
            call = self._call(before, value)
            if call is not None:
                self._count += 1
                yield call

    def _skip_broken(self, start: int) -> bool:
        """Step over a brace that no JSON begins with; False while more may come."""
        rest = self._text[start + 1 :].lstrip(_BLANK)
        if rest and rest[0] not in '"}':
            self._text = self._text[start + 1 :]
            return True
        return False

    def _call(self, before: str, value: Any) -> ToolCall | None:
        function = value.get("function") if isinstance(value.get("function"), dict) else value
        name = next(
            (
                n
                for key in ("name", "tool_name", "function")
                if (n := function.get(key)) in self._names
            ),
            "",
        )
        arguments: Any = None
        if name:
            arguments = function.get("arguments", function.get("parameters"))
            if isinstance(arguments, str):
                try:
                    arguments = json.loads(arguments)
                except ValueError:
                    return None
            arguments = {} if arguments is None else arguments
        else:
            found = [(before.rfind(n), len(n), n) for n in self._names if n in before]
            name = max(found)[2] if found else ""
            arguments = value
        if not name or not isinstance(arguments, dict):
            return None
        return ToolCall(name, arguments, new_id(), self._count)

    def end(self) -> str:
        """What is left as text when the answer has ended: nothing of a call begun after a tag."""
        text, self._text = self._text, ""
        if self._state == "before":
            return text
        return self._since if self._state == "calls" and not self._count else ""


def new_id() -> str:
    """An id for a call, of the form that Ollama gives it."""
    return "call_" + "".join(secrets.choice(_LETTERS) for _ in range(8))
