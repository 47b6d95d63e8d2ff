"""Metadata set and taken out: a text becomes a value of the type that the key has."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import UsageError
from mbuild.core.patterns import regex
from mbuild.core.suggest import did_you_mean, near
from mbuild.core.units import parse_number
from mbuild.core.values import replace
from mbuild.gguf.hyperparameters import OF_ARCHITECTURE, WHOLE
from mbuild.gguf.model import KV, Model
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from mbuild.gguf.model import MetadataEntry

OWN = frozenset(
    {
        *("general.architecture", "general.file_type", "general.quantization_version"),
        *("general.alignment", "general.type"),
    }
)
"""Keys that say how the file is made: mbuild writes them."""

LISTS = frozenset(("general.tags", "general.languages", "general.datasets"))
"""Keys whose value is a list in every model that has them, as converters write them."""

_SPLIT = "split."
_KEY = regex(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_NAMED = {
    "int": ValueType.INT32,
    "uint": ValueType.UINT32,
    "float": ValueType.FLOAT32,
    "bool": ValueType.BOOL,
    "str": ValueType.STRING,
}
_TYPED = regex(rf"({'|'.join(_NAMED)}):(.*)", re.S)
"""``TYPE:VALUE``, as llama.cpp's --override-kv has it."""

_RANGES = {
    ValueType.UINT8: (0, 1 << 8),
    ValueType.INT8: (-(1 << 7), 1 << 7),
    ValueType.UINT16: (0, 1 << 16),
    ValueType.INT16: (-(1 << 15), 1 << 15),
    ValueType.UINT32: (0, 1 << 32),
    ValueType.INT32: (-(1 << 31), 1 << 31),
    ValueType.UINT64: (0, 1 << 64),
    ValueType.INT64: (-(1 << 63), 1 << 63),
}
_FLOATS = (ValueType.FLOAT32, ValueType.FLOAT64)
_TRUTH = {"true": True, "false": False}


def set_key(model: Model, key: str, text: str) -> Model:
    """The model with a key set, where it stood or at the end.

    The type is the key's own, else the one that llama.cpp reads it in, else what the text
    says (``int:5``) or looks like. Raises :class:`UsageError` for a text that is none of
    that type, and for keys that are not to be set.
    """
    check_key(key)
    _check_single(key)
    entries = {entry.key: entry for entry in model.metadata}
    old = entries.get(key)
    if old is not None and old.type is ValueType.ARRAY:
        raise UsageError(
            f"SET {key}: it is a list of {len(old.value)} values, which SET cannot write",
            hint="change the files that the model is converted from",
        )
    type_ = old.type if old is not None else _known_type(key, entries)
    typed = _TYPED.fullmatch(text)
    if typed is not None and type_ is not ValueType.STRING:
        named, text = _NAMED[typed[1]], typed[2]
        type_ = type_ or named
    entry = KV(key, type_ or _looks_like(text), None)
    entry = replace(entry, value=_value(key, text, entry.type))
    kept = tuple(entry if each.key == key else each for each in model.metadata)
    return replace(model, metadata=kept if old is not None else (*kept, entry))


def unset_key(model: Model, key: str) -> Model:
    """The model without a key; raises :class:`UsageError` where it has none like it."""
    check_key(key)
    kept = tuple(entry for entry in model.metadata if entry.key != key)
    if len(kept) == len(model.metadata):
        names = [entry.key for entry in model.metadata]
        raise UsageError(
            f"UNSET {key}: the model has no such key",
            hint=did_you_mean(near(key, names), "remove the line"),
        )
    return replace(model, metadata=kept)


def check_setting(key: str, text: str) -> None:
    """Raise :class:`UsageError` for a setting that no model can take, whatever it is.

    The type is the one in which llama.cpp reads the key; of others nothing is known here.
    """
    check_key(key)
    row = WHOLE.get(key) or OF_ARCHITECTURE.get(key.partition(".")[2])
    _check_single(key)
    if row is not None and row.type is not ValueType.ARRAY:
        typed = _TYPED.fullmatch(text) if row.type is not ValueType.STRING else None
        _value(key, typed[2] if typed else text, row.type)


def _check_single(key: str) -> None:
    if key in LISTS:
        raise UsageError(
            f"SET {key}: it is a list, which SET cannot write",
            hint="change the files that the model is converted from",
        )


def check_key(key: str) -> None:
    """Raise :class:`UsageError` for what is no key, or says how the file is made."""
    if key in OWN or key.startswith(_SPLIT):
        raise UsageError(
            f"{key} says how the file is made, and cannot be changed",
            hint="QUANTIZE, OUTTYPE and SPLIT decide it",
        )
    if not _KEY.fullmatch(key) or len(key) > 200:
        raise UsageError(
            f"{key:.60} cannot be a key of metadata",
            hint="a key is made of lower-case letters, digits, _ and -, with dots between",
        )


def _known_type(key: str, entries: dict[str, MetadataEntry]) -> ValueType | None:
    """The type in which llama.cpp reads a key that the model does not have yet."""
    named = entries.get("general.architecture")
    prefix = f"{named.value}." if named is not None else ""
    row = WHOLE.get(key) or (OF_ARCHITECTURE.get(key.removeprefix(prefix)) if prefix else None)
    if row is not None:
        return row.type
    return ValueType.STRING if key.startswith("general.") else None


def _looks_like(text: str) -> ValueType:
    if text in _TRUTH:
        return ValueType.BOOL
    if re.fullmatch(r"[+-]?[0-9]{1,20}", text):
        number = int(text)
        fits = (ValueType.UINT32, ValueType.INT32, ValueType.INT64, ValueType.UINT64)
        return next((t for t in fits if _RANGES[t][0] <= number < _RANGES[t][1]), ValueType.STRING)
    if re.fullmatch(r"[+-]?(?:[0-9]+\.[0-9]*|\.?[0-9]+)(?:[eE][+-]?[0-9]+)?", text):
        return ValueType.FLOAT32
    return ValueType.STRING


def _value(key: str, text: str, type_: ValueType) -> Any:
    """The text as a value; raises :class:`UsageError`."""
    if type_ is ValueType.STRING:
        return text
    if type_ is ValueType.BOOL:
        if text in _TRUTH:
            return _TRUTH[text]
    elif type_ in _FLOATS:
        try:
            number = parse_number(text)
        except ValueError:
            number = math.nan
        if math.isfinite(number) and (type_ is not ValueType.FLOAT32 or abs(number) < 3.4028236e38):
            return number
    elif re.fullmatch(r"[+-]?[0-9]{1,20}", text):
        low, high = _RANGES[type_]
        if low <= int(text) < high:
            return int(text)
    words = {ValueType.BOOL: "true or false", **dict.fromkeys(_FLOATS, "a finite number")}
    what = words.get(type_, "a whole number")
    raise UsageError(f"SET {key} {text:.60}: its type is {type_.name}", hint=f"write {what}")
