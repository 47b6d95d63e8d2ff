"""What a look at the Modelfile's folder tells; nothing is opened."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mbuild.core.patterns import regex
from mbuild.language.instructions import (
    Adapter,
    Draft,
    From,
    License,
    Modelfile,
    Problem,
    Severity,
    System,
    Template,
)
from mbuild.language.recipe import ModelChange, Recipe
from mbuild.language.span import Span
from mbuild.lint.content import PATH, path_as_text
from mbuild.lint.neighbours import may_be_file
from mbuild.lint.remedies import missing

NAME_AND_FILE = "from-name-and-file"

NO_FILE = "no-such-file"

_LONGEST = 255  # characters of a text that could be a file's name
_CLEARLY_A_PATH = regex(r"\.{0,2}/.*|\.{1,2}|[^:]*\.(?:gguf|safetensors)", re.DOTALL)


def check(modelfile: Modelfile, folder: Path) -> list[Problem]:
    """Warnings that depend on what lies in the folder."""
    named = [item for item in modelfile.instructions if isinstance(item, (From, Adapter, Draft))]
    return [
        *_names_beside_files(modelfile, folder),
        *_texts_that_are_files(modelfile, folder),
        *(
            p
            for item in named
            for p in _leads_nowhere(item.word, "", item.plain, item.span, folder)
        ),
    ]


def check_changes(changes: Iterable[ModelChange], folder: Path) -> Iterator[Problem]:
    """The same of lines of mbuild/1 that name adapters and other models: MERGE and TAKE."""
    for change in changes:
        if change.kind == "merge":
            yield from _leads_nowhere("MERGE", "", change.name, change.span, folder)
        elif change.kind == "take":
            recipe = Recipe.from_json(change.value[1])
            for each in recipe.models:
                if each.span is None:  # else it is a stage's, and warned of there
                    before = f"TAKE {change.name} "
                    yield from _leads_nowhere("FROM", before, each.value, change.span, folder)


def _leads_nowhere(
    word: str, before: str, value: str, span: Span | None, folder: Path
) -> Iterator[Problem]:
    """A path that the build will not find; what may be a model's name is nobody's matter here."""
    value = value.strip()
    if not _CLEARLY_A_PATH.fullmatch(value) or _is_there(folder, value):
        return
    message = f"{before}{word} {value}: no such file or directory"
    hint = missing(folder, value, word)
    yield Problem(message, span, Severity.WARNING, NO_FILE, hint)


def _is_there(folder: Path, name: str) -> bool:
    try:
        return os.path.exists(folder / os.path.expanduser(name))
    except (OSError, ValueError):
        return False


def _names_beside_files(modelfile: Modelfile, folder: Path) -> Iterator[Problem]:
    """A model's name and a file in FROM lines: a build refuses both together."""
    every = modelfile.every(From)
    files = [item for item in every if may_be_file(item) or _is_there(folder, item.plain)]
    for item in every:
        if files and item not in files:
            yield Problem(
                f"FROM names the model {item.plain} here and the file {files[-1].plain} elsewhere:"
                " a build takes one model's name, or files",
                item.span,
                Severity.WARNING,
                NAME_AND_FILE,
                "name the model's file here too, or remove one of the lines",
            )


def _texts_that_are_files(modelfile: Modelfile, folder: Path) -> Iterator[Problem]:
    """A single word as a text, and a file of that name."""
    for item in modelfile.instructions:
        if not isinstance(item, (System, Template, License)):
            continue
        text = item.plain.strip()
        if not text or len(text) > _LONGEST or text != text.split()[0] or PATH.fullmatch(text):
            continue
        if os.path.isfile(folder / text):
            yield path_as_text(item, text)
