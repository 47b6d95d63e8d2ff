"""Files of images and sounds that a prompt names by their paths."""

from __future__ import annotations

import re
from pathlib import Path

from mbuild.core.patterns import regex
from mbuild.core.system import unreadable
from mbuild.core.values import NamedTuple

_ENDING = r"\.(?:png|jpe?g|webp|wav|mp3)"
_PATH = regex(
    rf"\"([^\"\n]+{_ENDING})\"|'([^'\n]+{_ENDING})'|((?:\\.|[^\s\\])+{_ENDING})\b", re.IGNORECASE
)
"""A path in quotes, or bare with a backslash before each blank, as terminals write what is
dropped on them."""


class Looked(NamedTuple):
    """A prompt without the paths of its files, their bytes, and what is to be said of it."""

    text: str
    files: tuple[bytes, ...] = ()
    notes: tuple[str, ...] = ()


def looked(text: str, *, able: bool) -> Looked:
    """Take the files out of a prompt, for a model that is able to look at them.

    A path that names no file stays in the text, and so does every one where the model cannot
    look; the notes say so. Raises :class:`SourceError` for a file that cannot be read.
    """
    files: list[bytes] = []
    notes: list[str] = []

    def take(found: re.Match[str]) -> str:
        written = found[1] or found[2] or re.sub(r"\\(.)", r"\1", found[3])
        path = Path(written).expanduser()
        if not path.is_file():
            if able:
                notes.append(f"there is no file {written}: the model gets these words")
            return found[0]
        if not able:
            notes.append(f"the model cannot look at {written}: it gets the path's words")
            return found[0]
        try:
            files.append(path.read_bytes())
        except OSError as error:
            raise unreadable(written, error) from None
        return ""

    left = _PATH.sub(take, text)
    return Looked(left.strip() if files else left, tuple(files), tuple(notes))
