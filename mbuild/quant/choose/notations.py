"""How options write what is more than a word: metadata as KEY=TYPE:VALUE, layers as 3,7-8."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mbuild.core.errors import UsageError


def parse_entry(text: str) -> tuple[str, str, str]:
    """Metadata as ``--override-kv`` has it: a key, the name of a type, a value of that type.

    Raises :class:`UsageError` for anything else.
    """
    key, equals, rest = text.partition("=")
    type_, colon, value = rest.partition(":")
    hint = "write KEY=TYPE:VALUE, where TYPE is int, float, bool or str"
    if not (key and equals and colon) or type_ not in _ENTRY_TYPES or not key.isprintable():
        raise UsageError(f"malformed metadata {text!r:.80}", hint=hint)
    if max(len(key.encode()), len(value.encode())) > _LONGEST_ENTRY:
        raise UsageError(f"{text!r:.80} is longer than {_LONGEST_ENTRY} bytes")
    try:
        _ENTRY_TYPES[type_](value)
    except (ValueError, OverflowError):
        raise UsageError(f"{value!r:.60} is not a value of the type {type_}", hint=hint) from None
    return key, type_, value


def _whole(value: str) -> int:
    if not -(1 << 32) < int(value) < 1 << 32:
        raise ValueError(value)
    return int(value)


def _finite(value: str) -> float:
    if not abs(float(value)) < 3.4e38:
        raise ValueError(value)
    return float(value)


def _true_or_false(value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError(value)
    return value == "true"


_ENTRY_TYPES: Mapping[str, Callable[[str], Any]] = {
    "int": _whole,
    "float": _finite,
    "bool": _true_or_false,
    "str": str,
}

_LONGEST_ENTRY = 127
"""Bytes of a key and of a text in llama.cpp's ``llama_model_kv_override``."""

_MAX_LAYERS = 10_000
"""More layers than any model has."""


def parse_layers(given: Any) -> tuple[int, ...]:
    """Layers as llama-quantize takes them, ``3,7,8``, or with a range, ``3,7-8``; in order.

    Numbers in a list are as good; nothing in one, and an empty text, are no layers.
    Raises :class:`UsageError`.
    """
    found: set[int] = set()
    text = ",".join(map(str, given)) if isinstance(given, (list, tuple)) else str(given)
    for part in text.split(",") if text else ():
        first, dash, last = part.strip().partition("-")
        ends = (first, last) if dash else (first, first)
        if not all(end.isascii() and end.isdecimal() and int(end) < _MAX_LAYERS for end in ends):
            raise UsageError(f"{part!r:.64} is not a layer", hint="count from 0: 3,7,8 or 3,7-8")
        found |= set(range(int(ends[0]), int(ends[1]) + 1))
    return tuple(sorted(found))
