"""File types: what users name (``q4_K_M``), their numbers and their default tensor types.

Names, numbers and defaults are llama.cpp's (``llama_ftype`` and the options of
``llama-quantize``). Every spelling in upper, lower or mixed case is accepted.
"""

from __future__ import annotations

import re

from mbuild.core.errors import UsageError
from mbuild.core.patterns import regex
from mbuild.core.suggest import did_you_mean, near
from mbuild.core.units import parse_size
from mbuild.core.values import NamedTuple
from mbuild.gguf.types import MIXES, GGMLType


class Budget(NamedTuple):
    """How large a model may be: bytes of its file, or bits for each of its weights."""

    size: int | None = None
    bits: float | None = None

    def bytes_for(self, weights: int) -> int:
        """The bytes that a model of so many weights may take."""
        return self.size if self.size is not None else int((self.bits or 0) * weights / 8)


class FileType(NamedTuple):
    """A quantization as users name it.

    ``number`` is ``general.file_type``; ``default`` the type of tensors that the
    recipe has no rule for. With a ``budget`` no rule chooses the types but what each costs
    and loses; number and default are then those of a file that nobody knows.
    """

    name: str
    number: int
    default: GGMLType
    budget: Budget | None = None

    def __str__(self) -> str:
        return self.name


_NAMED = [(name, *row) for name, row in MIXES.items()]
_NAMED += [(t.name, t.file_type, t) for t in GGMLType if t.file_type is not None]

FILE_TYPES: tuple[FileType, ...] = tuple(
    FileType(*row) for row in sorted(_NAMED, key=lambda row: row[1])
)
"""Every file type, by number."""

ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""Short names that llama-quantize and Ollama accept."""

_BY_NAME = {t.name: t for t in FILE_TYPES}
_BY_NUMBER = {t.number: t for t in FILE_TYPES}


def file_type(text: str) -> FileType:
    """The file type that a user names: any case, an alias, or its number.

    A size (``4.2GB``) or bits a weight (``4.6bpw``) is one, too. Raises :class:`UsageError`
    with the nearest names otherwise.
    """
    name = text.strip().upper()
    name = ALIASES.get(name, name)
    if name in _BY_NAME:
        return _BY_NAME[name]
    if name.isascii() and name.isdigit() and len(name) < 4 and int(name) in _BY_NUMBER:
        return _BY_NUMBER[int(name)]
    if name[:1].isdigit() and (sized := _sized(text.strip())) is not None:
        return sized
    hint = did_you_mean(near(name, _BY_NAME, 3), f"one of {', '.join(_BY_NAME)}")
    parts = re.split("[, ]+", name)
    if parts[1:] and all(part in _BY_NAME or part in ALIASES for part in parts):
        hint = f"name each type by itself: {' and '.join(parts)}"
    raise UsageError(f"unknown quantization {text[:64]!r}", hint=hint)


_GUESSED = 1024
"""``LLAMA_FTYPE_GUESSED``: the number of a file that no file type describes."""

_BITS = regex(r"(\d+(?:\.\d+)?)bpw", re.IGNORECASE)
_BYTES = regex(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?)B?|B)", re.IGNORECASE)


def _sized(text: str) -> FileType | None:
    """The file type that a size or a number of bits stands for; None for neither."""
    match = _BITS.fullmatch(text)
    if match is not None:
        bits = float(match[1])
        if not 0 < bits <= 32:
            raise UsageError(
                f"{bits:g} bits a weight are not possible", hint="write for example 4.6"
            )
        return FileType(f"{_number(match[1])}bpw", _GUESSED, GGMLType.F16, Budget(bits=bits))
    match = _BYTES.fullmatch(text)
    if match is None:
        return None
    unit = (match[2] or "").upper() + (match[3] or "").lower()
    name = f"{_number(match[1])}{unit}B"
    return FileType(name, _GUESSED, GGMLType.F16, Budget(parse_size(name)))


def _number(digits: str) -> str:
    """Digits without zeros that say nothing: 4.6 for 04.60."""
    whole, point, rest = digits.partition(".")
    rest = rest.rstrip("0")
    return (whole.lstrip("0") or "0") + (point + rest if rest else "")


def tensor_type(text: str) -> GGMLType:
    """The tensor type that a user names, in any case; raises :class:`UsageError`."""
    name = text.strip().upper()
    if name in GGMLType.__members__:
        return GGMLType[name]
    known = GGMLType.__members__
    hint = did_you_mean(near(name, known, 3), f"one of {', '.join(known)}")
    raise UsageError(f"unknown tensor type {text[:64]!r}", hint=hint)
