"""Instructions beside each other: hidden ones, one thing twice, what FROM names."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator

from mbuild.language.instructions import (
    Adapter,
    Edit,
    From,
    Modelfile,
    Parser,
    Problem,
    Renderer,
    Requires,
    Severity,
    System,
    Template,
)
from mbuild.language.stages.opening import SYNTAX_LINE
from mbuild.lint.edits import instead_of_value, without_line
from mbuild.lint.remedies import whole_line


def _hidden(modelfile: Modelfile) -> Iterator[Problem]:
    """Of these instructions only the last counts."""
    for kind in (From, Template, System, Renderer, Parser, Requires):
        *hidden, last = modelfile.every(kind) or (None,)
        if last is None or may_be_file(last):  # files add up, and go with no model's name
            continue
        for item in hidden:
            if item is None or item == last or may_be_file(item):
                continue
            line = f" on line {last.span.line}" if last.span else ""
            yield Problem(
                f"this {kind.word} is hidden by the {kind.word}{line}",
                item.span,
                Severity.WARNING,
                f"hidden-{kind.word.lower()}",
                "only the last one counts: remove this one",
                edit=without_line(item.span),
            )


def may_be_file(item: object) -> bool:
    """FROM lines that name files add up (a model and its projector)."""
    return isinstance(item, From) and bool(
        re.search(r"^[./~\\@]|^[A-Za-z]:[\\/]|\.(?:gguf|bin|safetensors)$", item.plain)
    )


def _adapters_without_effect(modelfile: Modelfile) -> Iterator[Problem]:
    seen: set[str] = set()
    for adapter in modelfile.every(Adapter):
        path = posixpath.normpath(adapter.plain.strip())
        if path in seen:
            yield Problem(
                f"ADAPTER {adapter.plain} is named twice; the second has no effect",
                adapter.span,
                Severity.WARNING,
                "adapter-without-effect",
                "remove one of them",
                edit=without_line(adapter.span),
            )
        seen.add(path)


def _more_than_a_name(modelfile: Modelfile) -> Iterator[Problem]:
    """FROM takes its whole line: stages of a Dockerfile and comments become part of the name."""
    for item in modelfile.every(From):
        found = whole_line(item.plain)
        if found is not None:
            message = f"FROM takes the whole line for the model's name: {item.plain!r}"
            code, hint, name = found
            edit = instead_of_value(item.span, name)
            if code == "from-stage":
                edit = Edit(0, 0, f"{SYNTAX_LINE}\n")
            yield Problem(message, item.span, Severity.WARNING, code, hint, edit=edit)


RULES: tuple[Callable[[Modelfile], Iterator[Problem]], ...] = (
    _hidden,
    _adapters_without_effect,
    _more_than_a_name,
)
"""One row a rule."""
