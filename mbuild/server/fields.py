"""The types of fields in requests' bodies: Go's name of each, its JSON schema, and its check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mbuild.core.errors import UsageError
from mbuild.core.values import NamedTuple

Check = Callable[[Any, str], None]
"""Checks a value; is given the name of its field for messages."""


class Type(NamedTuple):
    """A type of a field: Go's name of it, its JSON schema, and how it is checked."""

    go: str
    schema: Mapping[str, Any]
    check: Check


_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "bool"),
    ((int, float), "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)


def kind_of(value: Any) -> str:
    """What Go calls the JSON type of a value."""
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "null")


def wrong_type(value: Any, where: str, wanted: str) -> UsageError:
    """Go's error for a value of another type."""
    return UsageError(
        f"json: cannot unmarshal {kind_of(value)} into Go struct field {where} of type {wanted}"
    )


def _scalar(kind: type, go: str) -> Check:
    def check(value: Any, where: str) -> None:
        # bool is an int for Python, but not in JSON.
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise wrong_type(value, where, go)

    return check


def _anything(value: Any, where: str) -> None:
    """Every JSON value is one."""


def _mapping(go: str, item: Check | None) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise wrong_type(value, where, go)
        if item is not None:
            for each in value.values():
                item(each, where)

    return check


def _list(go: str, item: Check) -> Check:
    def check(value: Any, where: str) -> None:
        if not isinstance(value, list):
            raise wrong_type(value, where, go)
        for each in value:
            item(each, where)

    return check


def _fields(go: str, fields: Mapping[str, Check]) -> Check:
    """An object; each of these fields of it is checked unless it is null."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise wrong_type(value, where, go)
        for name, each in fields.items():
            if value.get(name) is not None:
                each(value[name], f"{where}.{name}")

    return check


_CALL = _fields(
    "api.ToolCall",
    {
        "id": _scalar(str, "string"),
        "function": _fields(
            "api.ToolCallFunction",
            {
                "index": _scalar(int, "int"),
                "name": _scalar(str, "string"),
                "arguments": _mapping("api.ToolCallFunctionArguments", None),
            },
        ),
    },
)

_MESSAGE_FIELDS: Mapping[str, tuple[str, Check]] = {
    "role": ("string", _scalar(str, "string")),
    "content": ("string", _scalar(str, "string")),
    "thinking": ("string", _scalar(str, "string")),
    "images": ("array", _list("[]api.ImageData", _scalar(str, "string"))),
    "tool_calls": ("array", _list("[]api.ToolCall", _CALL)),
    "tool_name": ("string", _scalar(str, "string")),
    "tool_call_id": ("string", _scalar(str, "string")),
}


_message = _fields("api.Message", {name: check for name, (_, check) in _MESSAGE_FIELDS.items()})


def _size(value: Any, where: str) -> None:
    """A size: a text such as 40GB, or bytes."""
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise wrong_type(value, where, "string")


def _texts(value: Any, where: str) -> None:
    """One text or a list of texts; null among them is an empty one."""
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise UsageError(f"json: cannot unmarshal {kind_of(value)} into Go value of type []string")
    for item in value:
        if item is not None and not isinstance(item, str):
            raise UsageError(f"json: cannot unmarshal {kind_of(item)} into Go value of type string")


STRING = Type("string", {"type": "string"}, _scalar(str, "string"))
BOOL = Type("bool", {"type": "boolean"}, _scalar(bool, "bool"))
ANY = Type("interface {}", {}, _anything)
OBJECT = Type(
    "map[string]interface {}",
    {"type": "object"},
    _mapping("map[string]interface {}", None),
)
FILES = Type(
    "map[string]string",
    {"type": "object", "additionalProperties": {"type": "string"}},
    _mapping("map[string]string", _scalar(str, "string")),
)
TEXTS = Type(
    "interface {}",
    {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]},
    _texts,
)
MESSAGES = Type(
    "[]api.Message",
    {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {name: {"type": kind} for name, (kind, _) in _MESSAGE_FIELDS.items()},
        },
    },
    _list("[]api.Message", _message),
)

LIST = Type(
    "[]string",
    {"type": "array", "items": {"type": "string"}},
    _list("[]string", _scalar(str, "string")),
)
OBJECTS = Type(
    "[]map[string]interface {}",
    {"type": "array", "items": {"type": "object"}},
    _list("[]map[string]interface {}", _mapping("map[string]interface {}", None)),
)
NUMBERS = Type(
    "[]int", {"type": "array", "items": {"type": "integer"}}, _list("[]int", _scalar(int, "int"))
)
INTEGER = Type("int", {"type": "integer"}, _scalar(int, "int"))
SIZE = Type("string", {"oneOf": [{"type": "string"}, {"type": "integer"}]}, _size)


def _content(value: Any, where: str) -> None:
    """A text, or its parts."""
    if not isinstance(value, str):
        _list("[]openai.ContentPart", _PART)(value, where)


_PART = _fields(
    "openai.ContentPart", {"type": _scalar(str, "string"), "text": _scalar(str, "string")}
)

_OPENAI_CALL = _fields(
    "openai.ToolCall",
    {
        "id": _scalar(str, "string"),
        "function": _fields(
            "openai.ToolCallFunction",
            {"name": _scalar(str, "string"), "arguments": _scalar(str, "string")},
        ),
    },
)

OPENAI_MESSAGES = Type(
    "[]openai.Message",
    {"type": "array", "items": {"type": "object"}},
    _list(
        "[]openai.Message",
        _fields(
            "openai.Message",
            {
                "role": _scalar(str, "string"),
                "content": _content,
                "reasoning": _scalar(str, "string"),
                "tool_calls": _list("[]openai.ToolCall", _OPENAI_CALL),
                "name": _scalar(str, "string"),
                "tool_call_id": _scalar(str, "string"),
            },
        ),
    ),
)
"""Messages as OpenAI has them: their content may come in parts, arguments come as text."""
