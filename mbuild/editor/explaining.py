"""What the word under the pointer is, and where what it names is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mbuild.core.values import NamedTuple
from mbuild.editor import choices
from mbuild.editor.around import Around
from mbuild.editor.meanings import Meaning, MeantWord, meaning_at
from mbuild.editor.open_text import OpenText
from mbuild.language.instructions import ROLES
from mbuild.language.parameters import DEPRECATED, PARAMETERS
from mbuild.language.stages.words import Opening
from mbuild.language.word_help import INSTRUCTIONS, KEYWORDS, PARAMETER_HELP

_MOST_LINES = 12
"""TextLines of a stage that are shown."""


class WordHelp(NamedTuple):
    """Markdown about a part of the text."""

    text: str
    start: int
    end: int


class Definition(NamedTuple):
    """A place: in another file where ``path`` is given, else in the text itself."""

    path: Path | None
    start: int
    end: int


_FILES_INSIDE = ("adapter_config.json", "config.json", "Modelfile")
"""What is opened of a folder, the first that is there."""


def explain(reading: OpenText, offset: int) -> WordHelp | None:
    """What is known of the word at a character."""
    argument = reading.argument_at(offset)
    if argument is not None:
        name, start, end = argument
        declared = reading.arguments(start).get(name)
        if declared is None:
            return WordHelp(f"No `ARG {name}` before this line.", start, end)
        default = "no default" if declared.default is None else f"default `{declared.default}`"
        return WordHelp(f"`ARG {name}`: {default}. `--build-arg {name}=VALUE` gives another"
                           " value.", start, end)  # fmt: skip
    found = meaning_at(reading, offset)
    text = "" if found is None else _text(reading, found)
    return WordHelp(text, found.start, found.end) if found and text else None


def _text(reading: OpenText, found: MeantWord) -> str:
    word = found.text
    match found.meaning:
        case Meaning.INSTRUCTION:
            return INSTRUCTIONS[word].markdown(word)
        case Meaning.KEYWORD:
            return _bold(word, KEYWORDS.get((found.item.word, word), ""))
        case Meaning.PARAMETER if word in PARAMETERS:
            return _bold(word, f"{PARAMETERS[word].value}. {PARAMETER_HELP[word]}")
        case Meaning.PARAMETER if word in DEPRECATED:
            return _bold(word, "has no effect any more.")
        case Meaning.ROLE if word in ROLES:
            return _bold(word, "whose turn it is.")
        case Meaning.KEY:
            return _bold(word, choices.KEYS.get(word, "a key of the GGUF metadata"))
        case Meaning.TYPE:
            return _of_type(word, choices.file_types())
        case Meaning.TENSOR_TYPE:
            return _of_type(word, choices.tensor_types())
        case Meaning.RULE:
            return _of_type(word.rpartition("=")[2], choices.tensor_types())
        case Meaning.MODEL:
            stage = reading.stage(word, found.start)
            return _of_stage(reading, stage) if stage else ""
        case Meaning.STAGE_NAME:
            return _of_stage(reading, found.item)
    return ""


def _bold(word: str, text: str) -> str:
    return f"**{word}**: {text}" if text else ""


def _of_type(word: str, known: dict[str, str]) -> str:
    name = next((each for each in known if each.lower() == word.lower()), "")
    return _bold(name, known[name]) if name else ""


def _of_stage(reading: OpenText, opening: Any) -> str:
    """The lines of a stage."""
    every = [opening, *reading.inside(opening)]
    lines = [_first_line(reading, item) for item in every[:_MOST_LINES]]
    more = ["..."] if len(every) > _MOST_LINES else []
    return "\n".join(["```modelfile", *lines, *more, "```"])


def _first_line(reading: OpenText, item: Any) -> str:
    text = reading.text[item.span.start : item.span.end]
    first = text.splitlines()[0]
    return first if first == text else f"{first} ..."


# Where it is written.


def target(reading: OpenText, offset: int, around: Around) -> Definition | None:
    """Where the stage, the argument or the file is that the word at a character names."""
    argument = reading.argument_at(offset)
    if argument is not None:
        declared = reading.arguments(argument[1]).get(argument[0])
        return Definition(None, declared.start, declared.end) if declared else None
    found = meaning_at(reading, offset)
    if found is None:
        return None
    if found.meaning is Meaning.MODEL:
        stage = reading.stage(found.text, found.start)
        if stage is not None:
            return Definition(None, *_name_of(stage))
    if found.meaning in (Meaning.FILE, Meaning.ADAPTER, Meaning.MODEL):
        path = _file(around.path(_expanded(reading, found)))
        return Definition(path, 0, 0) if path else None
    return None


def _name_of(stage: Opening) -> tuple[int, int]:
    """Where a stage's name stands."""
    assert stage.span is not None
    return stage.span.end - len(stage.name), stage.span.end


def _expanded(reading: OpenText, found: MeantWord) -> str:
    """A path with the arguments' defaults put in."""
    if not reading.staged:
        return found.text
    from mbuild.language.stages.expand import ExpansionError, expand

    known = reading.arguments(found.start)
    try:
        return expand(found.text, lambda name: known[name].default if name in known else "")
    except ExpansionError:
        return ""


def _file(path: Path | None) -> Path | None:
    """A file that an editor can show."""
    try:
        if path is None or path.is_file():
            return path
        inside = (path / name for name in _FILES_INSIDE)
        return next((each for each in inside if each.is_file()), None)
    except OSError:
        return None
