"""What is wrong where the grammar cannot go on, in words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Container
from dataclasses import dataclass

from mbuild.modelfile.instructions import ROLES, TYPES
from mbuild.modelfile.parameters import PARAMETERS
from mbuild.modelfile.printable import HIDDEN

_FIRST_WORD = re.compile(f"[^ \t\r\n{HIDDEN}]*")
_LETTERS = re.compile("[A-Za-z]*")
_INDENTED_LETTERS = re.compile(f"[ \t{HIDDEN}]*([A-Za-z]*)")
_TRIPLE = re.compile(f'"{HIDDEN}*"{HIDDEN}*"')
_SHOWN = 60  # characters of a word that a message quotes

# Words of modctl's Modelfile (CNCF ModelPack), whose format shares only the name.
_MODCTL = frozenset(
    {"NAME", "ARCH", "FAMILY", "FORMAT", "PARAMSIZE", "PRECISION", "QUANTIZATION"}
    | {"CONFIG", "MODEL", "CODE", "DATASET", "DOC"}
)


@dataclass(frozen=True, slots=True)
class Description:
    """An error between two character offsets; the rest as in :class:`Problem`."""

    start: int
    end: int
    message: str
    code: str
    suggestion: str


def describe(shape: str, offset: int, expected: Container[str]) -> Description:
    """Describe an error at an offset of the prepared text.

    ``expected`` holds the names of the terminals that the grammar would have taken.
    """
    kind = next((t for t in _DESCRIBE if t in expected), "FROM")
    return _DESCRIBE[kind](shape, offset)


def meant_instruction(shape: str, offset: int) -> str | None:
    """The instruction that the line at an offset was probably meant to be."""
    match = _INDENTED_LETTERS.match(shape, offset)
    return _nearest_word(match[1]) if match else None


def _bad_role(shape: str, offset: int) -> Description:
    end = _run(_FIRST_WORD, shape, offset)
    role = _clipped(shape[offset:end])
    message = 'message role must be one of "system", "user", or "assistant"'
    near = difflib.get_close_matches(role.lower(), ROLES, n=1)
    hint = f"did you mean {near[0]}?" if near else "one blank, then the role, a blank, the text"
    if role in ROLES:
        hint = f"the text must stand on the same line: MESSAGE {role} TEXT"
    return Description(offset, end, message, "bad-role", hint)


def _bad_name(shape: str, offset: int) -> Description:
    end = _run(_FIRST_WORD, shape, offset)
    name = _clipped(shape[offset:end])
    if re.fullmatch("[A-Za-z0-9_]*", name):
        message, hint = "PARAMETER needs a name and a value", "write both on one line"
    else:
        message = f'"{name}" cannot be a parameter\'s name'
        hint = "names are made of letters, digits and underscores"
    near = difflib.get_close_matches(name.lower(), PARAMETERS, n=1)
    if near:
        hint += f": PARAMETER {near[0]} VALUE"
    return Description(offset, end, message, "bad-name", hint)


def _unclosed(shape: str, offset: int) -> Description:
    start = shape.index('"', offset)
    quotes = '"""' if _TRIPLE.match(shape, start) else '"'
    message = f"the value that {quotes} opens is never closed"
    hint = f"{quotes} ends a value only as the last thing on its line; there are no escapes"
    return Description(start, start + len(quotes), message, "unclosed", hint)


def _bad_instruction(shape: str, offset: int) -> Description:
    start = offset + shape.startswith(HIDDEN, offset)
    end = _run(_FIRST_WORD, shape, start)
    word = shape[start:end]
    if word.isascii() and word.upper() in TYPES and not shape.startswith(HIDDEN, end):
        message = f"{word.upper()} needs a value on the same line"
        hint = 'an empty value is written ""'
        return Description(start, end, message, "missing-value", hint)
    if not word:
        message = "a character that cannot be seen stands where an instruction starts"
        return Description(offset, start, message, "unknown-instruction", "remove it")
    message = f'unknown instruction "{_clipped(word)}"'
    near = _nearest_word(word)
    hint = f"did you mean {near}?" if near else f"one of {', '.join(TYPES)}"
    if word in _MODCTL:
        hint = "this is modctl's Modelfile format (CNCF ModelPack), not Ollama's"
    return Description(start, end, message, "unknown-instruction", hint)


# By a terminal that the grammar would have taken, most telling first.
_DESCRIBE = {"ROLE": _bad_role, "NAME": _bad_name, "BARE": _unclosed, "FROM": _bad_instruction}


def _run(pattern: re.Pattern[str], shape: str, offset: int) -> int:
    match = pattern.match(shape, offset)
    return match.end() if match else offset


def _nearest_word(word: str) -> str | None:
    """The instruction that a word was probably meant to be."""
    letters = _LETTERS.match(word)
    candidates = [word[:_SHOWN].upper(), letters[0][:_SHOWN].upper() if letters else ""]
    for candidate in candidates:
        if near := difflib.get_close_matches(candidate, TYPES, n=1):
            return near[0]
    return None


def _clipped(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
