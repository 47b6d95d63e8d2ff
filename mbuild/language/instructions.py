"""What a Modelfile says, parsed: instructions with their spans, comments, problems.

This module and ``parameters`` import nothing heavy: a build with nothing to do
reads the parsed form back from a cache and never loads the grammar.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar, TypeVar, get_args

from mbuild.core.values import FrozenValue, NamedTuple, aside, replace
from mbuild.language.printable import HIDDEN, shape, visible
from mbuild.language.span import Span

ROLES = ("system", "user", "assistant")
"""The roles that MESSAGE takes, in this spelling only."""

_SHOWN = 100  # characters of a source line that a problem shows


class _Item(FrozenValue):
    """An instruction: a word, what it says, and where it was written.

    Equality ignores the span.
    """

    word: ClassVar[str]


class _Plain(_Item):
    """An instruction of one value, which is kept as written, hidden characters included.

    Its kinds add no fields; equality compares the type too.
    """

    value: str
    span: Span | None = aside(default=None)

    @property
    def plain(self) -> str:
        """The value as Ollama reads it: without non-printable characters.

        What names something (a model, a version) means this.
        """
        return visible(self.value)


class From(_Plain):
    """``FROM``: a model's name, a GGUF file or a directory."""

    word: ClassVar[str] = "FROM"


class Adapter(_Plain):
    """``ADAPTER``: a LoRA adapter's file."""

    word: ClassVar[str] = "ADAPTER"


class Draft(_Plain):
    """``DRAFT``: the GGUF of a draft model for speculative decoding."""

    word: ClassVar[str] = "DRAFT"


class Template(_Plain):
    """``TEMPLATE``: the prompt's template, in Go's text/template language."""

    word: ClassVar[str] = "TEMPLATE"


class System(_Plain):
    """``SYSTEM``: the system message."""

    word: ClassVar[str] = "SYSTEM"


class License(_Plain):
    """``LICENSE``: one licence's text."""

    word: ClassVar[str] = "LICENSE"


class Renderer(_Plain):
    """``RENDERER``: the name of a built-in prompt renderer."""

    word: ClassVar[str] = "RENDERER"


class Parser(_Plain):
    """``PARSER``: the name of a built-in output parser."""

    word: ClassVar[str] = "PARSER"


class Requires(_Plain):
    """``REQUIRES``: the least version of Ollama that runs the model."""

    word: ClassVar[str] = "REQUIRES"


class Parameter(_Item):
    """``PARAMETER``: a run-time option; name and value are as written, unchecked."""

    name: str
    value: str
    span: Span | None = aside(default=None)
    word: ClassVar[str] = "PARAMETER"

    @property
    def plain(self) -> str:
        """The value without non-printable characters: what numbers and truth values mean."""
        return visible(self.value)


class Message(_Item):
    """``MESSAGE``: one turn of a conversation; ``role`` is one of :data:`ROLES`."""

    role: str
    content: str
    span: Span | None = aside(default=None)
    word: ClassVar[str] = "MESSAGE"


Instruction = (
    From
    | Adapter
    | Draft
    | Template
    | System
    | License
    | Parameter
    | Message
    | Renderer
    | Parser
    | Requires
)
"""Everything that a Modelfile can say; closed."""

PlainT = TypeVar("PlainT", bound=_Plain)

TYPES: dict[str, type[Instruction]] = {kind.word: kind for kind in get_args(Instruction)}
"""Each instruction's type by its word, upper case."""


class Comment(FrozenValue):
    """A comment line: what follows the ``#``, blanks at the end left out."""

    text: str
    span: Span | None = aside(default=None)


class Modelfile(FrozenValue):
    """A parsed Modelfile: its instructions in the order written.

    Equality compares instructions only: comments and layout build nothing.
    """

    instructions: tuple[Instruction, ...]
    comments: tuple[Comment, ...] = aside(default=())

    def every(self, kind: type[PlainT]) -> tuple[PlainT, ...]:
        """All instructions of one single-valued kind, in order (LICENSE, ADAPTER, ...)."""
        return tuple(item for item in self.instructions if isinstance(item, kind))

    def last(self, kind: type[PlainT]) -> PlainT | None:
        """The one that counts where the last wins: FROM, TEMPLATE, SYSTEM, RENDERER, ..."""
        return next((i for i in reversed(self.instructions) if isinstance(i, kind)), None)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """All PARAMETER instructions, in order."""
        return tuple(item for item in self.instructions if isinstance(item, Parameter))

    @property
    def messages(self) -> tuple[Message, ...]:
        """All MESSAGE instructions, in order."""
        return tuple(item for item in self.instructions if isinstance(item, Message))


class Edit(NamedTuple):
    """What to write in place of a part of the text, whose offsets are those of a span.

    Nothing in place of a whole line means that the line goes.
    """

    start: int
    end: int
    text: str


class Severity(StrEnum):
    """Whether a problem stops the build."""

    ERROR = "error"
    WARNING = "warning"


class Problem(NamedTuple):
    """Something wrong in a Modelfile.

    ``code`` is a stable name for programs (``unknown-parameter``), ``suggestion``
    the nearest right spelling or what to do instead, perhaps empty, and ``edit`` the change of
    the text that does it, where there is one that is surely meant; the offsets are those of
    the file that ``span`` is in. ``filename`` and ``line_text`` are filled in by :meth:`located`.
    """

    message: str
    span: Span | None = None
    severity: Severity = Severity.ERROR
    code: str = ""
    suggestion: str = ""
    filename: str = ""
    line_text: str = ""
    edit: Edit | None = None

    def located(self, text: str, filename: str) -> Problem:
        """The same problem with the file's name and the text of its line.

        ``text`` is the decoded file (:func:`mbuild.language.parser.decode`). Non-printable
        characters are replaced, so that the line is safe on a terminal.
        """
        line = ""
        if self.span is not None:
            start = self.span.start - self.span.column + 1
            line = _line_at(text, start)
        return replace(self, filename=filename, line_text=line)

    def __str__(self) -> str:
        """One line: ``Modelfile:2:1: message``, and the suggestion."""
        place = self.filename
        if self.span is not None:
            place = f"{place or 'Modelfile'}:{self.span.line}:{self.span.column}"
        hint = f" ({self.suggestion})" if self.suggestion else ""
        return f"{place}: {self.message}{hint}" if place else f"{self.message}{hint}"

    def render(self) -> str:
        """Several lines: severity and message, place, source line with a caret, suggestion."""
        lines = [f"{self.severity.value}: {self.message}"]
        if self.span is not None:
            lines.append(
                f"  --> {self.filename or 'Modelfile'}:{self.span.line}:{self.span.column}"
            )
            if self.line_text:
                lines += _caret(self.line_text, self.span)
        elif self.filename:
            lines.append(f"  --> {self.filename}")
        if self.suggestion:
            lines.append(f"  hint: {self.suggestion}")
        return "\n".join(lines)


def _line_at(text: str, start: int) -> str:
    ends = [end for end in (text.find("\n", start), text.find("\r", start)) if end >= 0]
    line = text[start : min(ends, default=len(text))]
    return shape(line).replace(HIDDEN, "\N{REPLACEMENT CHARACTER}")


def _caret(line: str, span: Span) -> list[str]:
    """The line, or its part around the column if it is long, and a caret below the column."""
    left = max(0, span.column - 1 - _SHOWN // 2) if len(line) > _SHOWN else 0
    shown = line[left : left + _SHOWN]
    before = line[left : span.column - 1]
    width = max(1, min(span.end - span.start, len(shown) - len(before)))
    margin = " " * len(str(span.line))
    indent = "".join(char if char == "\t" else " " for char in before)
    return [
        f"{margin} |",
        f"{span.line} | {shown}",
        f"{margin} | {indent}{'^' * width}",
    ]
