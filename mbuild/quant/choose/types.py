"""File types: what users name (``q4_K_M``), their numbers and their default tensor types.

Names, numbers and defaults are llama.cpp's (``llama_ftype`` and the options of
``llama-quantize``). Every spelling in upper, lower or mixed case is accepted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mbuild.core.errors import UsageError
from mbuild.core.suggest import did_you_mean, near
from mbuild.core.units import parse_size
from mbuild.gguf.types import GGMLType


@dataclass(frozen=True, slots=True)
class Budget:
    """How large a model may be: bytes of its file, or bits for each of its weights."""

    size: int | None = None
    bits: float | None = None

    def bytes_for(self, weights: int) -> int:
        """The bytes that a model of so many weights may take."""
        return self.size if self.size is not None else int((self.bits or 0) * weights / 8)


@dataclass(frozen=True, slots=True)
class FileType:
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


FILE_TYPES: tuple[FileType, ...] = (
    FileType("F32", 0, GGMLType.F32),
    FileType("F16", 1, GGMLType.F16),
    FileType("Q4_0", 2, GGMLType.Q4_0),
    FileType("Q4_1", 3, GGMLType.Q4_1),
    FileType("Q8_0", 7, GGMLType.Q8_0),
    FileType("Q5_0", 8, GGMLType.Q5_0),
    FileType("Q5_1", 9, GGMLType.Q5_1),
    FileType("Q2_K", 10, GGMLType.Q2_K),
    FileType("Q3_K_S", 11, GGMLType.Q3_K),
    FileType("Q3_K_M", 12, GGMLType.Q3_K),
    FileType("Q3_K_L", 13, GGMLType.Q3_K),
    FileType("Q4_K_S", 14, GGMLType.Q4_K),
    FileType("Q4_K_M", 15, GGMLType.Q4_K),
    FileType("Q5_K_S", 16, GGMLType.Q5_K),
    FileType("Q5_K_M", 17, GGMLType.Q5_K),
    FileType("Q6_K", 18, GGMLType.Q6_K),
    FileType("IQ2_XXS", 19, GGMLType.IQ2_XXS),
    FileType("IQ2_XS", 20, GGMLType.IQ2_XS),
    FileType("Q2_K_S", 21, GGMLType.Q2_K),
    FileType("IQ3_XS", 22, GGMLType.IQ3_S),
    FileType("IQ3_XXS", 23, GGMLType.IQ3_XXS),
    FileType("IQ1_S", 24, GGMLType.IQ1_S),
    FileType("IQ4_NL", 25, GGMLType.IQ4_NL),
    FileType("IQ3_S", 26, GGMLType.IQ3_S),
    FileType("IQ3_M", 27, GGMLType.IQ3_S),
    FileType("IQ2_S", 28, GGMLType.IQ2_XS),
    FileType("IQ2_M", 29, GGMLType.IQ2_S),
    FileType("IQ4_XS", 30, GGMLType.IQ4_XS),
    FileType("IQ1_M", 31, GGMLType.IQ1_M),
    FileType("BF16", 32, GGMLType.BF16),
    FileType("TQ1_0", 36, GGMLType.TQ1_0),
    FileType("TQ2_0", 37, GGMLType.TQ2_0),
    FileType("MXFP4_MOE", 38, GGMLType.MXFP4),
    FileType("Q1_0", 40, GGMLType.Q1_0),
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

_BITS = re.compile(r"(\d+(?:\.\d+)?)bpw", re.IGNORECASE)
_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([KMGT])(I?)B?|B)", re.IGNORECASE)


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
