"""The one exception of the Python API, with the texts of the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mbuild.core.errors import MbuildError, ModelfileError
from mbuild.core.events import Failure
from mbuild.core.failures import failed


class Error(Exception):
    """What went wrong; its text is what the command line would say, with the remedy.

    ``message`` and ``hint`` are those of the first of the ``problems``, of which a Modelfile
    may have several. ``stopped`` tells that the work was ended on purpose. The exception from
    which it was made is its ``__cause__``.
    """

    def __init__(self, text: str, problems: tuple[Failure, ...], *, stopped: bool = False) -> None:
        super().__init__(text)
        self.problems = problems
        self.message = problems[0].message if problems else text
        self.hint = problems[0].hint if problems else ""
        self.stopped = stopped


def _text(error: Exception, problems: tuple[Failure, ...]) -> str:
    """The lines that the command line writes about it, without the word ``error`` before them."""
    if isinstance(error, ModelfileError):
        return _without_word("\n".join(problem.render() for problem in error.problems))
    if isinstance(error, MbuildError) and error.problem is not None:
        return _without_word(error.problem.render())
    rows = [f"{p.message}\n  hint: {p.hint}" if p.hint else p.message for p in problems]
    return "\n".join(rows) or str(error)


def _without_word(text: str) -> str:
    return text.removeprefix("error: ")


@contextmanager
def one_error() -> Iterator[None]:
    """Turn what mbuild and the system raise into :class:`Error`; Ctrl-C stays what it is."""
    try:
        yield
    except (MbuildError, OSError) as error:
        end = failed(error)
        text, stopped = _text(error, end.problems), end.reason == "stopped"
        raise Error(text, end.problems, stopped=stopped) from error
