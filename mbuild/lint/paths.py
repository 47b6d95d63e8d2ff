"""What a look at the Modelfile's folder tells; nothing is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mbuild.language.instructions import (
    From,
    License,
    Modelfile,
    Problem,
    Severity,
    System,
    Template,
)
from mbuild.lint.content import PATH, path_as_text
from mbuild.lint.neighbours import may_be_file

NAME_AND_FILE = "from-name-and-file"

_LONGEST = 255  # characters of a text that could be a file's name


def check(modelfile: Modelfile, folder: Path) -> list[Problem]:
    """Warnings that depend on what lies in the folder."""
    return [*_names_beside_files(modelfile, folder), *_texts_that_are_files(modelfile, folder)]


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
