"""Take a model's identifier apart: ``org/Base-7B-Instruct-v0.2``.

Parts between hyphens are recognized one by one as version, quantization
type, size or finetune; what stands before them is the base name. The rules
are those of ``Metadata.get_model_id_components`` in gguf-py.
"""

from __future__ import annotations

import re
from enum import StrEnum

from mbuild.core.patterns import regex
from mbuild.core.values import NamedTuple

_VERSION = regex(r"(v|iter)?\d+(\.\d+)*", re.IGNORECASE)
_QUANTIZATION = regex(r"i?q\d(_\w)*|b?fp?(16|32)", re.IGNORECASE)
_SIZE = regex(r"(a|\d+x)?\d+([._]\d+)?[kmbt]\d?|small|mini|medium|large|x?xl", re.IGNORECASE)
_FINETUNE = regex(r"chat|instruct|vision|lora", re.IGNORECASE)
_NOT_TITLED = regex(r"v\d+(\.\d+)*$|\d")

LONGEST = 1000
"""Longer identifiers are names and nothing else."""


class NamePart(StrEnum):
    """What a part of an identifier is; one may be two things for a while."""

    BASENAME = "basename"
    SIZE = "size_label"
    FINETUNE = "finetune"
    VERSION = "version"
    TYPE = "type"


class Name(NamedTuple):
    """An identifier's components; what is not there is empty."""

    full: str = ""
    organization: str = ""
    basename: str = ""
    finetune: str = ""
    version: str = ""
    size_label: str = ""


def title(text: str) -> str:
    """``tiny-llama v1`` as ``Tiny Llama v1``: lower-case words get a capital, versions do not."""
    words = text.strip().replace("-", " ").split()
    return " ".join(
        word.title() if word.islower() and not _NOT_TITLED.match(word) else word for word in words
    )


def parse_name(identifier: str, parameters: int) -> Name:
    """Components of an identifier.

    ``parameters`` is the model's size, by which a context length (``32K``) is
    told from a size; negative for an adapter, zero when it is not known.
    """
    if " " in identifier or len(identifier) > LONGEST:
        return Name(identifier)
    organization, slash, full = identifier.partition("/")
    if not slash:
        organization, full = "", identifier
    if organization.startswith("."):
        organization = ""
    parts = [part for part in full.split("-") if part]
    kinds: list[set[NamePart]] = []
    for number, part in enumerate(parts):
        parts[number], kind = _classify(part, number, parameters)
        kinds.append({kind} if kind else set())
    _drop_words_as_sizes(parts, kinds)
    _mark_basename(parts, kinds)
    found = list(zip(parts, kinds, strict=True))
    sizes = dict.fromkeys(text for text, kind in found if NamePart.SIZE in kind)
    finetune = "-".join(text for text, kind in found if NamePart.FINETUNE in kind)
    version = "-".join(
        text for text, kind in found if NamePart.VERSION in kind and NamePart.BASENAME not in kind
    )
    basename = "-".join(text for text, kind in found if NamePart.BASENAME in kind)
    if not (sizes or finetune or version):
        basename = ""  # nothing but a base name is too ambiguous
    return Name(full, organization, basename, finetune, version, "-".join(sizes))


def _classify(part: str, number: int, parameters: int) -> tuple[str, NamePart | None]:
    """A part, perhaps in normal form, and what it is when taken alone."""
    if _VERSION.fullmatch(part):
        return part, NamePart.VERSION
    if _QUANTIZATION.fullmatch(part):
        return part.upper(), NamePart.TYPE
    if number > 0 and _SIZE.fullmatch(part):
        return _size(part, parameters)
    if number > 0 and _FINETUNE.fullmatch(part):
        redundant = parameters < 0 and part.lower() == "lora"
        return part, NamePart.TYPE if redundant else NamePart.FINETUNE
    return part, None


def _size(part: str, parameters: int) -> tuple[str, NamePart]:
    """``7b1`` as ``7.1B``; a size that cannot be this model's is a context length."""
    part = part.replace("_", ".")
    if part[-1].isdecimal():
        part = f"{part[:-2]}.{part[-1]}{part[-2]}"
    if len(part) > 1 and part[-2].isdecimal() and part[-1] in "kmbt":
        part = part[:-1] + part[-1].upper()
    try:
        size = float(part[:-1]) * 1000.0 ** " KMBT".find(part[-1])
    except ValueError:
        return part, NamePart.SIZE
    if parameters and not _fits(size, parameters):
        return part[:-1] + part[-1].lower(), NamePart.FINETUNE
    return part, NamePart.SIZE


def _fits(size: float, parameters: int) -> bool:
    """Whether a size can be the model's; an adapter need not have all layers."""
    if parameters < 0:
        return size >= abs(parameters) // 8
    return abs(size - parameters) <= 7 * parameters // 8


def _drop_words_as_sizes(parts: list[str], kinds: list[set[NamePart]]) -> None:
    """``mini`` is no size when there is a number for it."""
    sizes = [part for part, kind in zip(parts, kinds, strict=True) if NamePart.SIZE in kind]
    if any(c.isdecimal() for part in sizes for c in part):
        for part, kind in zip(parts, kinds, strict=True):
            if part.isalpha():
                kind.discard(NamePart.SIZE)


def _mark_basename(parts: list[str], kinds: list[set[NamePart]]) -> None:
    """The base name: the words at the start and versions among them, but not at its end."""
    at_start = True
    for part, kind in zip(parts, kinds, strict=True):
        if at_start and ((not kind and part[0].isalpha()) or NamePart.VERSION in kind):
            kind.add(NamePart.BASENAME)
            continue
        at_start = False
        if not kind:
            kind.add(NamePart.FINETUNE)
    for kind in reversed(kinds):
        if NamePart.BASENAME not in kind or len(kind) == 1:
            break
        kind.remove(NamePart.BASENAME)
