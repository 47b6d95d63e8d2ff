"""The stages of a Modelfile with what they say, as an editor lists a file's parts."""

from __future__ import annotations

from typing import Any

from mbuild.core.values import NamedTuple
from mbuild.editor.open_text import OpenText
from mbuild.language.instructions import Message, Parameter
from mbuild.language.stages.words import Opening, SetKey

_SHOWN = 60  # characters of a value


class OutlinePart(NamedTuple):
    """A part of the text with its parts; its name stands between ``name_start`` and ``end``."""

    name: str
    detail: str
    start: int
    end: int
    name_end: int
    is_stage: bool
    parts: tuple[OutlinePart, ...] = ()


def outline(reading: OpenText) -> list[OutlinePart]:
    """What stands before the first FROM, and each stage."""
    found = []
    first = reading.openings[0].span.start if reading.openings else len(reading.text) + 1
    found += [_line(reading, i) for i in reading.instructions if i.span.start < first]
    for number, opening in enumerate(reading.openings):
        parts = tuple(_line(reading, item) for item in reading.inside(opening))
        own = _line(reading, opening)
        name = getattr(opening, "name", "") or (f"stage {number}" if reading.staged else own.name)
        end = parts[-1].end if parts else own.end
        found.append(OutlinePart(name, _value(opening), own.start, end, own.end, True, parts))
    return found


def _line(reading: OpenText, item: Any) -> OutlinePart:
    span = item.span
    name = item.word
    if isinstance(item, (Parameter, SetKey)):
        name = f"{item.word} {item.name}"
    elif isinstance(item, Message):
        name = f"{item.word} {item.role}"
    return OutlinePart(name, _value(item), span.start, span.end, span.start + len(item.word), False)


def _value(item: Any) -> str:
    """The beginning of a value, in one line."""
    text = item.content if isinstance(item, Message) else item.value
    if isinstance(item, Opening) and item.name:
        text = f"{text} AS {item.name}"
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 3] + "..."
