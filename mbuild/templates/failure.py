"""What is wrong with a template, in Go's words and with the line."""

from __future__ import annotations

from mbuild.core.errors import MbuildError

MAX_REASON = 400
"""Go quotes a faulty number whole, however long it is."""


class TemplateError(MbuildError):
    """A template that Go's parser, or Ollama right after it, refuses.

    ``line`` counts from 1 within the template; ``reason`` is what Go says, which
    Ollama shows as ``template: :LINE: REASON``. ``function`` is the name that was taken
    for a function's and is none's, where that is what is wrong.
    """

    def __init__(self, line: int, reason: str, *, hint: str = "", function: str = "") -> None:
        if len(reason) > MAX_REASON:
            reason = reason[:MAX_REASON] + "..."
        super().__init__(f"line {line}: {reason}", hint=hint)
        self.line = line
        self.reason = reason
        self.function = function


class RenderError(MbuildError):
    """A template that parses but cannot be executed on the values at hand."""


class LimitError(RenderError):
    """A template that would take more time, depth or text than mbuild gives it."""
