"""What a build's record says of this machine's folders is taken out before it is answered."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mbuild.build.history import BuildRecord, modelfile_text
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from mbuild.store import Store

Scrub = Callable[[str], str]

_FOLDERS = ("folder", "directory", "place")
"""Fields of a record that are nothing but a place on the disk."""

_PATH = regex(
    r"""(?<![^\s'"(=,;:\[@])                  # where a word begins
    (?:[A-Za-z]:[\\/]|~/|\\\\|/(?!/|api/|v1/|v2/))  # an absolute path, no URL, none of the API's
    [^\s'"()<>,;:]*[\\/]                    # its folders
    (?=[^\s'"()<>,;:\\/])                   # and a name""",
    re.VERBOSE,
)
_ELSEWHERE = "\N{HORIZONTAL ELLIPSIS}/"
"""Stands for the folders before a name."""

_NAMING = regex(r"\s*(?:FROM|ADAPTER|DRAFT|MERGE|INCLUDE|ARG|QUANTIZE|CHECK)\b", re.I)
"""Lines of a Modelfile in which paths can stand."""


def cut(text: str) -> str:
    """The text with each absolute path in it cut to the name at its end."""
    return _PATH.sub(_ELSEWHERE, text)


def without_places(record: BuildRecord, scrub: Scrub) -> BuildRecord:
    """The record with files called by their names alone; ``scrub`` knows the store and the home."""
    known = sorted(_places(record), key=len, reverse=True)

    def shown(text: str) -> str:
        for place in known:
            text = text.replace(f"{place}/", _ELSEWHERE)
        return cut(scrub(text))

    return BuildRecord.from_json(_walked(record.to_json(), shown))


def modelfile_of(record: BuildRecord, store: Store, scrub: Scrub) -> str:
    """The Modelfile of a build, if it is known, its absolute paths cut to the names."""
    script = record.request.script
    data = modelfile_text(script.text, store) if script else None
    lines = (data or b"").decode("utf-8", "replace").splitlines(keepends=True)
    return "".join(cut(scrub(line)) if _NAMING.match(line) else line for line in lines)


def _places(record: BuildRecord) -> set[str]:
    """The folders that the record names: with one that has blanks in it no pattern can deal."""
    script = record.request.script
    found = {script.folder, script.directory} if script else set()
    found |= {m.place.rpartition("/")[0] for step in record.steps for m in step.materials}
    return {place for place in found if os.path.isabs(place) and len(place) > 1}


def _walked(value: Any, shown: Scrub, key: str = "") -> Any:
    """JSON with every text in it, but for the names of fields, as it is shown."""
    if isinstance(value, str):
        return "" if key in _FOLDERS else shown(value)
    if isinstance(value, Mapping):
        return {name: _walked(item, shown, name) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_walked(item, shown, key) for item in value]
    return value
