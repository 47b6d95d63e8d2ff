"""The values that templates compute with: Go's kinds of value, in Python's types.

======================  =========================================================
Go                      here
======================  =========================================================
``nil``, no value       ``None``
bool, string            ``bool``, ``str`` (bytes that are no UTF-8: surrogates)
int, uint               ``int``
float64, complex128     ``float``, ``complex``
slice                   ``list`` (:class:`Named` if its type has a ``String`` method)
map with string keys    ``dict`` (likewise)
struct, or pointer      :class:`Struct`
======================  =========================================================
"""

from __future__ import annotations

import json as python_json
import math
from typing import TYPE_CHECKING, Any

from mbuild.core.values import Frozen
from mbuild.templates.failure import RenderError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Value = Any


class Struct(Frozen):
    """A Go struct: its type's name, its fields in order, and what ``json`` calls them.

    ``json_names`` maps each field to its key and whether an empty value is left out.
    """

    type_name: str
    fields: Mapping[str, Value]
    json_names: Mapping[str, tuple[str, bool]]


class Named(Frozen):
    """A slice or map of a type with its own text: ``items`` acts, ``text`` is what prints.

    ``is_nil`` tells Go's nil slice or map, which ``json`` writes as ``null``.
    """

    items: list[Value] | dict[str, Value]
    text: Callable[[Named], str]
    is_nil: bool = False
    single: bool = False


def plain(value: Value) -> Value:
    """The list or dict of a :class:`Named`; any other value itself."""
    return value.items if isinstance(value, Named) else value


def truth(value: Value) -> bool:
    """What ``if`` makes of a value: zero, empty and nil are false, a struct is true."""
    value = plain(value)
    return True if isinstance(value, Struct) else bool(value)


def type_name(value: Value) -> str:
    """The name of the value's Go type, for messages."""
    if isinstance(value, Struct):
        return value.type_name
    names = {
        type(None): "<nil>",
        bool: "bool",
        str: "string",
        int: "int",
        float: "float64",
        complex: "complex128",
        list: "[]interface {}",
        dict: "map[string]interface {}",
    }
    return names[type(plain(value))]


def byte_order(text: str) -> bytes:
    """The key by which Go sorts strings."""
    return text.encode("utf-8", "surrogateescape")


# ---- fmt's %v


def show(value: Value, nested: bool = False) -> str:
    """What ``fmt`` writes for a value with ``%v``; nil is ``<nil>``."""
    if isinstance(value, Named) and not nested:
        return value.text(value)
    value = plain(value)
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case float():
            return float_text(value)
        case complex():
            sign = "" if float_text(value.imag)[0] in "+-" else "+"
            return f"({float_text(value.real)}{sign}{float_text(value.imag)}i)"
        case list():
            return "[" + " ".join(show(item) for item in value) + "]"
        case dict():
            pairs = (f"{key}:{show(value[key])}" for key in sorted(value, key=byte_order))
            return "map[" + " ".join(pairs) + "]"
        case Struct():
            return "{" + " ".join(show(item) for item in value.fields.values()) + "}"
        case _:
            return str(value)


def _shortest(value: float) -> tuple[str, str, int]:
    """Sign, shortest digits, and the power of ten of the first digit."""
    from decimal import Decimal  # which few templates need

    _, digits, exponent = Decimal(repr(abs(value))).as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, digits)).lstrip("0")
    exponent += len(text) - 1 if text else 0
    stripped = text.rstrip("0") or "0"
    return ("-" if math.copysign(1, value) < 0 else ""), stripped, exponent if text else 0


def float_text(value: float, low: int = -4, high: int = 21) -> str:
    """A float as Go's ``%v`` writes it: shortest, with an exponent when it is far from one."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    sign, digits, exponent = _shortest(value)
    if exponent < low or exponent >= high:
        point = f".{digits[1:]}" if len(digits) > 1 else ""
        return f"{sign}{digits[0]}{point}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if exponent < 0:
        return f"{sign}0.{'0' * (-exponent - 1)}{digits}"
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    return f"{sign}{whole}" + (f".{digits[exponent + 1 :]}" if len(digits) > exponent + 1 else "")


# ---- encoding/json

_JSON_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029\x7f"} | {0x7F: "\x7f"}


def json_string(text: str) -> str:
    """A string as Go's ``encoding/json`` writes it: HTML-safe, with its own short escapes."""
    clean = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return python_json.dumps(clean, ensure_ascii=False).translate(_JSON_ESCAPES)


def to_json(value: Value) -> str:
    """What Go's ``json.Marshal`` writes; raises :class:`RenderError` for what it cannot write."""
    if isinstance(value, Named):
        if value.is_nil:
            return "null"
        if value.single and len(value.items) == 1:
            return to_json(plain(value)[0])
    value = plain(value)
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return json_string(value)
        case float():
            return _json_float(value)
        case complex():
            raise RenderError("a complex number cannot be written as JSON")
        case list():
            return "[" + ",".join(to_json(item) for item in value) + "]"
        case dict():
            return _json_object([(key, value[key]) for key in sorted(value, key=byte_order)])
        case Struct():
            names = [(*value.json_names.get(f, (f, False)), v) for f, v in value.fields.items()]
            return _json_object(
                [(key, item) for key, optional, item in names if not (optional and _empty(item))]
            )
        case _:
            return str(value)


def _empty(value: Value) -> bool:
    return not isinstance(value, Struct) and not truth(value)


def _json_object(pairs: list[tuple[str, Value]]) -> str:
    return "{" + ",".join(f"{json_string(key)}:{to_json(item)}" for key, item in pairs) + "}"


def _json_float(value: float) -> str:
    if not math.isfinite(value):
        raise RenderError(f"{float_text(value)} cannot be written as JSON")
    text = float_text(value, low=-6, high=21)
    mantissa, mark, exponent = text.partition("e")
    return text if not mark else f"{mantissa}e{exponent[0]}{exponent[1:].lstrip('0')}"
