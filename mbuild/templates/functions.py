"""The functions that a template may call: Go's own and Ollama's.

Source: https://pkg.go.dev/text/template#hdr-Functions. ``and`` and ``or`` stand
in mbuild.templates.execute, for they evaluate their arguments one by one.
"""

from __future__ import annotations

import datetime
from itertools import pairwise
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from mbuild.templates.failure import RenderError
from mbuild.templates.govalues import (
    Struct,
    Value,
    byte_order,
    plain,
    show,
    to_json,
    truth,
    type_name,
)
from mbuild.templates.literals import is_print
from mbuild.templates.printf import printf

if TYPE_CHECKING:
    from collections.abc import Callable

_BASIC = (bool, str, int, float, complex)


def _basic(value: Value) -> type | None:
    """The kind by which values are compared; None for what has no such kind."""
    return type(value) if type(value) in _BASIC else None


def eq(first: Value, *others: Value) -> bool:
    """Whether the first value equals one of the others; of one kind, or one of them nil."""
    if not others:
        raise RenderError("missing argument for comparison")
    for other in others:
        if _basic(first) != _basic(other):
            if first is not None and other is not None:
                raise RenderError("incompatible types for comparison")
        elif _basic(first) is None and not (first is None or other is None):
            raise RenderError(
                f"non-comparable types {type_name(first)}: {show(first)}, "
                f"{type_name(other)}: {show(other)}"
            )
        elif first == other:
            return True
    return False


def lt(first: Value, second: Value) -> bool:
    """Whether one value is less than another of the same kind."""
    for value in (first, second):
        if _basic(value) is None:
            raise RenderError("invalid type for comparison")
    if _basic(first) != _basic(second):
        raise RenderError("incompatible types for comparison")
    if isinstance(first, bool | complex):
        raise RenderError("invalid type for comparison")
    if isinstance(first, str):
        return byte_order(first) < byte_order(second)
    return bool(first < second)


def le(first: Value, second: Value) -> bool:
    """Less or equal."""
    return lt(first, second) or eq(first, second)


def length(value: Value) -> int:
    """The number of items; of bytes for a string."""
    items = plain(value)
    if isinstance(items, str):
        return len(byte_order(items))
    if isinstance(items, list | dict):
        return len(items)
    if items is None:
        raise RenderError("len of nil pointer")
    raise RenderError(f"len of type {type_name(value)}")


def _position(value: Value, limit: int, what: str) -> int:
    if type(value) is not int:
        raise RenderError(f"cannot {what} with type {type_name(value)}")
    if not 0 <= value < limit:
        raise RenderError(f"index out of range: {value}")
    return value


def index(value: Value, *keys: Value) -> Value:
    """``value[key][key]...`` for maps, lists and strings (whose items are bytes)."""
    for key in keys:
        items = plain(value)
        if items is None:
            raise RenderError("index of untyped nil")
        if isinstance(items, str):
            data = byte_order(items)
            value = data[_position(key, len(data), "index slice/array")]
        elif isinstance(items, list):
            value = items[_position(key, len(items), "index slice/array")]
        elif isinstance(items, dict):
            if not isinstance(key, str):
                raise RenderError(f"value has type {type_name(key)}; should be string")
            value = items.get(key)
        else:
            raise RenderError(f"can't index item of type {type_name(value)}")
    return value


def slice_of(value: Value, *bounds: Value) -> Value:
    """``value[a:b]`` for lists and strings (in bytes); ``value[a:b:c]`` for lists."""
    items = plain(value)
    if items is None:
        raise RenderError("slice of untyped nil")
    if len(bounds) > 3:
        raise RenderError(f"too many slice indexes: {len(bounds)}")
    if not isinstance(items, str | list):
        raise RenderError(f"can't slice item of type {type_name(value)}")
    if isinstance(items, str) and len(bounds) == 3:
        raise RenderError("cannot 3-index slice a string")
    data = byte_order(items) if isinstance(items, str) else items
    places = [_position(bound, len(data) + 1, "index slice/array") for bound in bounds]
    if places != sorted(places):
        low, high = next(pair for pair in pairwise(places) if pair[0] > pair[1])
        raise RenderError(f"invalid slice index: {low} > {high}")
    part = data[slice(*places[:2])] if len(places) > 1 else data[sum(places) :]
    return part.decode("utf-8", "surrogateescape") if isinstance(part, bytes) else part


def sprint(*values: Value) -> str:
    """The values' texts; with a space between two neighbours of which neither is a string."""
    text = ""
    for place, value in enumerate(values):
        if place and not isinstance(value, str) and not isinstance(values[place - 1], str):
            text += " "
        text += show(value)
    return text


def sprintln(*values: Value) -> str:
    """The values' texts with spaces between them and a newline at the end."""
    return " ".join(map(show, values)) + "\n"


_HTML = str.maketrans(
    {'"': "&#34;", "'": "&#39;", "&": "&amp;", "<": "&lt;", ">": "&gt;", "\0": "\ufffd"}
)
_JS = {"\\": "\\\\", "'": "\\'", '"': '\\"', "<": "\\u003C", ">": "\\u003E", "&": "\\u0026"}
_JS["="] = "\\u003D"


def html(*values: Value) -> str:
    """The text with HTML's special characters escaped."""
    return _escapable(values).translate(_HTML)


def js(*values: Value) -> str:
    """The text as the content of a JavaScript string."""

    def escape(char: str) -> str:
        if char in _JS:
            return _JS[char]
        if char < " ":
            return f"\\u{ord(char):04X}"
        return char if char < "\x80" or is_print(char) else f"\\u{ord(char):04X}"

    return "".join(map(escape, _escapable(values)))


def urlquery(*values: Value) -> str:
    """The text as a part of a URL's query."""
    return quote_plus(byte_order(_escapable(values)), safe="-_.~")


def _escapable(values: tuple[Value, ...]) -> str:
    return sprint(*("<no value>" if value is None else value for value in values))


def call(function: Value, *arguments: Value) -> Value:
    """Calls a value that is a function: there is none among a template's values."""
    if function is None:
        raise RenderError("call of nil")
    raise RenderError(f"non-function of type {type_name(function)}")


_TYPESCRIPT = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "array": "any[]",
    "object": "Record<string, any>",
    "null": "null",
}


def typescript(value: Value) -> str:
    """A tool's parameter as a type of TypeScript (Ollama's ``toTypeScriptType``)."""
    if not isinstance(value, Struct) or value.type_name != "api.ToolProperty":
        return "any"
    if value.fields["AnyOf"]:
        return " | ".join(typescript(item) for item in value.fields["AnyOf"])
    names = plain(value.fields["Type"])
    return " | ".join(_TYPESCRIPT.get(name, "any") for name in names) or "any"


def _printf(form: Value, *values: Value) -> str:
    if not isinstance(form, str):
        raise RenderError(f"wrong type for value; expected string; got {type_name(form)}")
    return printf(form, values)


def _no_strings(values: tuple[Value, ...]) -> None:
    for value in values:
        if not isinstance(value, str):
            raise RenderError(f"wrong type for value; expected string; got {type_name(value)}")


Signature = tuple["Callable[..., Value]", int, "int | None"]


def functions(today: datetime.date | None = None) -> dict[str, Signature]:
    """Every function with the least and the most arguments it takes (None: any number).

    ``today`` is the day that ``currentDate`` tells; the present day without it.
    """

    def current(*form: Value) -> str:
        _no_strings(form)
        return (today or datetime.date.today()).isoformat()

    def yesterday(*form: Value) -> str:
        _no_strings(form)
        return ((today or datetime.date.today()) - datetime.timedelta(days=1)).isoformat()

    return {
        "call": (call, 1, None),
        "currentDate": (current, 0, None),
        "eq": (eq, 1, None),
        "ge": (lambda a, b: not lt(a, b), 2, 2),
        "gt": (lambda a, b: not le(a, b), 2, 2),
        "html": (html, 0, None),
        "index": (index, 1, None),
        "js": (js, 0, None),
        "json": (to_json, 1, 1),
        "le": (le, 2, 2),
        "len": (length, 1, 1),
        "lt": (lt, 2, 2),
        "ne": (lambda a, b: not eq(a, b), 2, 2),
        "not": (lambda a: not truth(a), 1, 1),
        "print": (sprint, 0, None),
        "printf": (_printf, 1, None),
        "println": (sprintln, 0, None),
        "slice": (slice_of, 1, None),
        "toTypeScriptType": (typescript, 1, 1),
        "urlquery": (urlquery, 0, None),
        "yesterdayDate": (yesterday, 0, None),
    }
