"""JSON as Go's ``encoding/json`` writes it, byte for byte.

A model's id is the digest of its manifest's bytes, so what mbuild stores has to
be the text that Ollama (Go 1.22 or newer, ``json.NewEncoder(w).Encode(v)``) would
have stored: HTML characters escaped, Go's form of floating-point numbers, no
blanks, one newline at the end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from mbuild.core.errors import MbuildError

_UNSAFE = '[\\x00-\\x1f"\\\\<>&\u2028\u2029\ud800-\udfff]'
_SHORT = {
    '"': '\\"',
    "\\": "\\\\",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
}
_MAX_DEPTH = 200
_INTEGERS = range(-(2**63), 2**64)  # Go's int64 and uint64


class JsonError(MbuildError):
    """A value that has no JSON form."""


def dumps(value: object, *, sort_keys: bool = False) -> bytes:
    """The bytes that Go's JSON encoder writes for a value, with the final newline.

    Mappings with string keys, lists, tuples, strings, ints, floats, truth values
    and None. ``sort_keys`` gives the order of a Go map; without it a mapping keeps
    its order, as a struct does its fields. A float is printed as a float64. Raises
    :class:`JsonError` for NaN, infinities, integers over 64 bits, other types and
    nesting over 200 levels.
    """
    parts: list[str] = []
    _write(value, parts, sort_keys, 0)
    parts.append("\n")
    return "".join(parts).encode()


def _write(value: object, parts: list[str], sort_keys: bool, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise JsonError("json: nested too deeply")
    match value:
        case None | True | False:
            parts.append({None: "null", True: "true", False: "false"}[value])
        case str():
            parts.append(_string(value))
        case int() if value in _INTEGERS:
            parts.append(str(value))
        case float():
            parts.append(_number(value))
        case list() | tuple():
            _write_array(value, parts, sort_keys, depth)
        case Mapping():
            _write_object(value, parts, sort_keys, depth)
        case _:
            raise JsonError(f"json: unsupported type: {type(value).__name__}")


def _write_object(
    value: Mapping[object, object], parts: list[str], sort_keys: bool, depth: int
) -> None:
    keys = []
    for key in value:
        if not isinstance(key, str):
            raise JsonError(f"json: unsupported type: object key {key!r}")
        keys.append(key)
    opening = "{"
    for key in sorted(keys) if sort_keys else keys:  # code points sort as their UTF-8 does
        parts += [opening, _string(key), ":"]
        _write(value[key], parts, sort_keys, depth + 1)
        opening = ","
    parts.append("}" if keys else "{}")


def _write_array(
    value: list[object] | tuple[object, ...], parts: list[str], sort_keys: bool, depth: int
) -> None:
    opening = "["
    for item in value:
        parts.append(opening)
        _write(item, parts, sort_keys, depth + 1)
        opening = ","
    parts.append("]" if value else "[]")


def _string(text: str) -> str:
    return f'"{re.sub(_UNSAFE, _escape, text)}"'


def _escape(match: re.Match[str]) -> str:
    char = match[0]
    if "\ud800" <= char <= "\udfff":  # half of a pair: not encodable, so what Go calls invalid
        return "\\ufffd"
    return _SHORT.get(char) or f"\\u{ord(char):04x}"


def _number(value: float) -> str:
    """A float64 with the fewest digits that read back as itself, in Go's two forms."""
    if not math.isfinite(value):
        spelled = "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
        raise JsonError(f"json: unsupported value: {spelled}")
    sign = "-" if math.copysign(1.0, value) < 0 else ""
    digits, point = _digits(abs(value))
    if value != 0 and not 1e-6 <= abs(value) < 1e21:
        fraction = f".{digits[1:]}" if len(digits) > 1 else ""
        power = point - 1
        return f"{sign}{digits[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power)}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{digits}" if value != 0 else f"{sign}0"
    whole = digits[:point].ljust(point, "0")
    return f"{sign}{whole}.{digits[point:]}" if digits[point:] else f"{sign}{whole}"


def _digits(value: float) -> tuple[str, int]:
    """The shortest decimal digits of a number and where the point stands among them.

    ``(d1d2d3..., p)`` means 0.d1d2d3... times 10**p. Python's ``repr`` finds the
    same digits as Go: the fewest that read back, of these the nearest.
    """
    mantissa, _, exponent = repr(value).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    leading = len(whole + fraction) - len(digits)
    point = len(whole) - leading + int(exponent or "0")
    return digits.rstrip("0") or "0", point
