"""What an exception says, as values for programs: the end of a build that has no models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mbuild.core.errors import CancelledError, MbuildError, ModelfileError
from mbuild.core.events import BuildFailed, Failure


def failed(error: BaseException) -> BuildFailed:
    """The event about a build's end, for programs."""
    if isinstance(error, (KeyboardInterrupt, CancelledError)):
        return BuildFailed("stopped", ())
    problems: Sequence[Any] = ()
    if isinstance(error, ModelfileError):
        problems = error.problems
    elif isinstance(error, MbuildError) and error.problem is not None:
        problems = (error.problem,)
    if problems:
        return BuildFailed("failed", tuple(map(_failure, problems)))
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return BuildFailed("failed", (Failure(f"{place}{error.strerror or error}"),))
    return BuildFailed("failed", (Failure(str(error), getattr(error, "hint", "")),))


def _failure(problem: Any) -> Failure:
    line, column = (problem.span.line, problem.span.column) if problem.span else (0, 0)
    return Failure(
        problem.message, problem.suggestion, problem.filename, line, column, problem.code
    )
