"""What the word at a place of an instruction stands for: a type, a stage, a file."""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Any

from mbuild.core.values import NamedTuple
from mbuild.editor.open_text import OpenText, value_start
from mbuild.language.instructions import (
    Adapter,
    Draft,
    From,
    Message,
    Parameter,
    System,
    Template,
)
from mbuild.language.instructions import License as Licence
from mbuild.language.stages.clauses import following
from mbuild.language.stages.words import CLAUSES, Opening, SetKey


class Meaning(Enum):
    """What a word is."""

    INSTRUCTION = auto()
    KEYWORD = auto()
    MODEL = auto()
    """What FROM can name: a stage, a stored model, a file or a folder."""
    ADAPTER = auto()
    FILE = auto()
    TYPE = auto()
    TENSOR_TYPE = auto()
    OUTTYPE = auto()
    RULE = auto()
    """``REGEX=TYPE``."""
    RECIPE = auto()
    PARAMETER = auto()
    ROLE = auto()
    KEY = auto()
    STAGE_NAME = auto()
    VALUE = auto()
    """Anything else."""


VALUES: dict[tuple[str, str], Meaning] = {
    ("INCLUDE", ""): Meaning.FILE,
    ("MERGE", ""): Meaning.ADAPTER,
    ("TAKE", "FROM"): Meaning.MODEL,
    ("QUANTIZE", ""): Meaning.TYPE,
    ("QUANTIZE", "IMATRIX"): Meaning.FILE,
    ("QUANTIZE", "FROM"): Meaning.FILE,
    ("QUANTIZE", "TENSOR"): Meaning.RULE,
    ("QUANTIZE", "OUTPUT"): Meaning.TENSOR_TYPE,
    ("QUANTIZE", "EMBEDDING"): Meaning.TENSOR_TYPE,
    ("QUANTIZE", "RECIPE"): Meaning.RECIPE,
    ("QUANTIZE", "OUTTYPE"): Meaning.OUTTYPE,
    ("UNSET", ""): Meaning.KEY,
    ("UNSET", "PARAMETER"): Meaning.PARAMETER,
    ("CHECK", "TEXT"): Meaning.FILE,
}
"""What a word of a clause is, by the instruction and the keyword before it."""


class MeantWord(NamedTuple):
    """A word with its meaning; ``item`` is the instruction, ``before`` the keyword before it."""

    meaning: Meaning
    text: str
    start: int
    end: int
    item: Any
    before: str = ""


def clause_meaning(instruction: str, before: str, count: int) -> Meaning:
    """What a word of a clause is, of which ``count`` stand between it and the keyword."""
    if instruction == "INCLUDE" and count:
        return Meaning.VALUE
    return VALUES.get((instruction, before), Meaning.VALUE)


def meaning_at(reading: OpenText, offset: int) -> MeantWord | None:
    """The word at a character of a whole instruction; None for a text, and between words."""
    item = reading.at(offset)
    if item is None:
        return None
    start: int = item.span.start
    if offset <= start + len(item.word):
        return MeantWord(Meaning.INSTRUCTION, item.word, start, start + len(item.word), item)
    found = _words(reading, item)
    return next((each for each in found if each.start <= offset <= each.end), None)


def _words(reading: OpenText, item: Any) -> list[MeantWord]:
    if isinstance(item, CLAUSES):
        return _of_clause(reading, item)
    first, start, end = item.span.start, value_start(item), item.span.end
    value = reading.text[start:end]
    if isinstance(item, (Opening, From)):
        return _of_opening(item, value, start)
    if isinstance(item, (Parameter, Message, SetKey)):
        name = item.role if isinstance(item, Message) else item.name
        behind = first + len(item.word) + 1
        kind = {Parameter: Meaning.PARAMETER, Message: Meaning.ROLE, SetKey: Meaning.KEY}
        found = [MeantWord(kind[type(item)], name, behind, behind + len(name), item)]
        return found + _of_file(reading, item, value, start)
    if isinstance(item, (Adapter, Draft)):
        meaning = Meaning.ADAPTER if isinstance(item, Adapter) else Meaning.FILE
        return [MeantWord(meaning, item.value, start, end, item)]
    if isinstance(item, (System, Template, Licence)):
        return _of_file(reading, item, value, start)
    return []


def _of_file(reading: OpenText, item: Any, value: str, start: int) -> list[MeantWord]:
    """``@PATH`` in place of a text."""
    match = re.match('"?@(?!@)', value) if reading.staged else None
    if match is None:
        return []
    at = start + match.end()
    text = value[match.end() :].rstrip('"')
    return [MeantWord(Meaning.FILE, text, at, at + len(text), item)]


def _of_opening(item: Any, value: str, start: int) -> list[MeantWord]:
    if not getattr(item, "name", ""):
        return [MeantWord(Meaning.MODEL, item.value, start, start + len(value), item)]
    at = start + len(value) - len(item.name)
    return [
        MeantWord(Meaning.MODEL, item.value, start, start + len(item.value), item),
        MeantWord(Meaning.STAGE_NAME, item.name, at, at + len(item.name), item),
    ]


def _of_clause(reading: OpenText, item: Any) -> list[MeantWord]:
    begun = following(item.word, item.value)
    found: list[MeantWord] = []
    before, count = "", 0
    for terminal, word in begun.tokens if begun else ():
        start = value_start(item) + word.start
        end = start + len(word.text)
        if terminal == "WORD":
            meaning = clause_meaning(item.word, before, count)
            text = word.text.replace('"', "")
            found.append(MeantWord(meaning, text, start, end, item, before))
            count += 1
        else:
            before, count = terminal, 0
            found.append(MeantWord(Meaning.KEYWORD, terminal, start, end, item))
    return found
