"""What ``mbuild check`` says of a text that is being written, and the changes it offers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mbuild.build.staging import MAX_BYTES, FilesBeside
from mbuild.core.errors import MbuildError, ModelfileError, SourceError
from mbuild.core.values import NamedTuple
from mbuild.editor.open_text import OpenText
from mbuild.editor.text_lines import TextLines
from mbuild.language.instructions import Edit, Problem, Severity
from mbuild.language.parser import parse_stages
from mbuild.language.stages.opening import opens_stages
from mbuild.lint import check
from mbuild.lint.stages import check_stages


class Inside(NamedTuple):
    """Where in another file a problem is."""

    path: Path
    line: int
    column: int


class Complaint(NamedTuple):
    """A problem at its place in this text; ``inside`` where it lies in an included file."""

    problem: Problem
    start: int
    end: int
    inside: Inside | None = None


class CheckedText(NamedTuple):
    """What is wrong, and the files that the text brings in."""

    complaints: tuple[Complaint, ...]
    brought: tuple[Path, ...] = ()


Unsaved = Callable[[Path], bytes | None]
"""The text of a file that is open in the editor, None for any other."""


class _OpenFiles(FilesBeside):
    """Files beside the Modelfile, as the editor has them."""

    def __init__(self, folder: Path, unsaved: Unsaved) -> None:
        super().__init__(folder)
        self._home = folder
        self._unsaved = unsaved

    def read(self, name: str) -> bytes:
        """The editor's text, else the file's; raises :class:`SourceError`."""
        data = self._unsaved(self._home / name)
        if data is None:
            return super().read(name)
        if len(data) > MAX_BYTES:
            raise SourceError(f"{name} is larger than {MAX_BYTES} bytes", hint="take a text file")
        return data


def check_text(
    reading: OpenText,
    path: Path,
    arguments: Mapping[str, str],
    unsaved: Unsaved,
    models: Callable[[], frozenset[str]] = frozenset,
) -> CheckedText:
    """What is wrong with a text that lies, or will lie, at a path."""
    bring = _OpenFiles(path.parent, unsaved)
    try:
        problems = _problems(reading, path, arguments, bring, models)
    except ModelfileError as error:
        problems = list(error.problems)
    except MbuildError as error:
        problems = [Problem(error.message, code="unreadable", suggestion=error.hint)]
    found = (_placed(reading, problem, path.parent) for problem in problems)
    brought = tuple(path.parent / name for name in bring.given)
    return CheckedText(tuple(dict.fromkeys(found)), brought)


def _problems(
    reading: OpenText,
    path: Path,
    arguments: Mapping[str, str],
    bring: FilesBeside,
    models: Callable[[], frozenset[str]],
) -> list[Problem]:
    if reading.included:
        parse_stages(reading.data, path.name, included=path.name)
        return []
    if not opens_stages(reading.data):
        return check(reading.data, path.name, path.parent)[1]
    found = check_stages(
        reading.data, path.name, bring, arguments, folder=path.parent, models=models()
    )
    return list(found.warnings)


def _placed(reading: OpenText, problem: Problem, folder: Path) -> Complaint:
    """Where a problem is shown: at its place, or at the INCLUDE that leads there."""
    span = problem.span
    if span is None:
        first = reading.instructions[0].span if reading.instructions else None
        return Complaint(problem, 0, first.end if first else TextLines(reading.text).end(0))
    if span.file and not reading.included:
        include = _include(reading, span.file)
        place = Inside(folder / span.file, span.line - 1, span.column - 1)
        start, end = (include.span.start, include.span.end) if include else (0, 0)
        return Complaint(problem, start, end, place)
    end = max(span.end, span.start)
    if span.last_line > span.line:  # a long text is not marked as a whole
        end = min(end, TextLines(reading.text).end(span.start))
    return Complaint(problem, span.start, end)


def _include(reading: OpenText, name: str) -> Any:
    """The INCLUDE that brings a file in, or the first one, which may bring it in by another."""
    every = [item for item in reading.instructions if item.word == "INCLUDE"]
    own = (i for i in every if os.path.normpath(i.value.split()[0].strip('"')) == name)
    return next(own, every[0] if every else None)


class QuickFix(NamedTuple):
    """A change that takes a problem away, and what to call it."""

    title: str
    edit: Edit
    complaint: Complaint


def offers(
    reading: OpenText, complaints: tuple[Complaint, ...], start: int, end: int
) -> list[QuickFix]:
    """The changes for the problems that lie between two characters."""
    found = []
    for each in complaints:
        edit = each.problem.edit
        if edit is not None and each.inside is None and each.start <= end and start <= each.end:
            whole = _with_line_end(reading, edit)
            found.append(QuickFix(_title(reading, edit), whole, each))
    return found


def _with_line_end(reading: OpenText, edit: Edit) -> Edit:
    """What leaves nothing of a line takes its end, too."""
    lines = TextLines(reading.text)
    start, end = lines.start(edit.start), lines.end(edit.end)
    rest = reading.text[start : edit.start] + reading.text[edit.end : end]
    if edit.text or rest.strip():
        return edit
    return Edit(start, lines.after(edit.end), "")


def _title(reading: OpenText, edit: Edit) -> str:
    written = " ".join(edit.text.split())
    shown = written if len(written) <= 60 else written[:57] + "..."
    if edit.start == edit.end:
        return f"Add {shown}"
    return (
        f"Write {shown}" if edit.text.strip() else "Remove it" if not edit.text else "Write a space"
    )


def is_error(problem: Problem) -> bool:
    """Whether a build would refuse the file."""
    return problem.severity is Severity.ERROR
