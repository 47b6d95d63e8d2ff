"""What a template is executed on: messages and tools, and the values Ollama makes of them.

Source: Ollama v0.32, ``template/template.go`` and ``api/types.go``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.core.values import FrozenValue, NamedTuple, replace
from mbuild.templates.govalues import Named, Struct, Value, show, to_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class ToolCall(FrozenValue):
    """A call that the model made: a function's name and its arguments (a JSON object)."""

    name: str
    arguments: Mapping[str, Any]
    id: str = ""
    index: int = 0


class ChatMessage(NamedTuple):
    """One turn; ``role`` is ``system``, ``user``, ``assistant`` or ``tool``."""

    role: str
    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_name: str = ""
    tool_call_id: str = ""


class Values(NamedTuple):
    """What a request brings to a template.

    ``tools`` are JSON objects as the API takes them. With a ``prompt`` and a
    ``suffix`` the template fills in the middle and the messages do not count.
    """

    messages: tuple[ChatMessage, ...] = ()
    tools: tuple[Mapping[str, Any], ...] | None = None
    prompt: str = ""
    suffix: str = ""
    think: bool = False
    think_level: str = ""
    is_think_set: bool = False


def collate(messages: Sequence[ChatMessage]) -> tuple[str, list[ChatMessage]]:
    """All system texts as one, and the messages with neighbours of one role joined.

    Tool messages stay apart, for each answers a call of its own.
    """
    joined: list[ChatMessage] = []
    for message in messages:
        if joined and joined[-1].role == message.role and message.role != "tool":
            content = f"{joined[-1].content}\n\n{message.content}"
            joined[-1] = replace(joined[-1], content=content)
        else:
            joined.append(message)
    return "\n\n".join(m.content for m in messages if m.role == "system"), joined


def message_value(message: ChatMessage) -> Struct:
    """A message as the struct that templates see."""
    calls = [
        Struct(
            "template.templateToolCall",
            {
                "ID": call.id,
                "Function": Struct(
                    "template.templateToolCallFunction",
                    {
                        "Index": call.index,
                        "Name": call.name,
                        "Arguments": Named(from_json(dict(call.arguments)), to_json),
                    },
                    {},
                ),
            },
            {},
        )
        for call in message.tool_calls
    ]
    fields = {
        "Role": message.role,
        "Content": message.content,
        "Thinking": message.thinking,
        "Images": Named([], _plain_text, is_nil=True),
        "ToolCalls": Named(calls, _plain_text, is_nil=not calls),
        "ToolName": message.tool_name,
        "ToolCallID": message.tool_call_id,
    }
    return Struct("*template.templateMessage", fields, {})


def tools_value(tools: Sequence[Mapping[str, Any]] | None) -> Named:
    """The tools as templates see them: a list that prints as JSON."""
    return Named([_tool(tool) for tool in tools or ()], to_json, is_nil=tools is None)


def _plain_text(value: Named) -> str:
    return show(value, nested=True)


def from_json(value: Any) -> Value:
    """A value of JSON as Go holds it: every number is a float."""
    match value:
        case bool() | str() | None:
            return value
        case int() | float():
            return float(value)
        case dict():
            return {str(key): from_json(item) for key, item in value.items()}
        case _:
            return [from_json(item) for item in value]


def _text(source: Mapping[str, Any], key: str) -> str:
    value = source.get(key)
    return value if isinstance(value, str) else ""


def _object(source: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = source.get(key)
    return value if isinstance(value, dict) else {}


def _tool(tool: Mapping[str, Any]) -> Struct:
    function = _object(tool, "function")
    parameters = _object(function, "parameters")
    required = [str(name) for name in parameters.get("required") or ()]
    schema = {
        "Type": _text(parameters, "type"),
        "Defs": from_json(parameters.get("$defs")),
        "Items": from_json(parameters.get("items")),
        "Required": Named(required, _plain_text, is_nil=parameters.get("required") is None),
        "Properties": _properties(parameters.get("properties")),
    }
    names = {
        "Type": ("type", False),
        "Defs": ("$defs", True),
        "Items": ("items", True),
        "Required": ("required", True),
        "Properties": ("properties", False),
    }
    about = {
        "Name": _text(function, "name"),
        "Description": _text(function, "description"),
        "Parameters": Struct("template.templateToolFunctionParameters", schema, names),
    }
    return Struct(
        "template.templateTool",
        {
            "Type": _text(tool, "type"),
            "Items": from_json(tool.get("items")),
            "Function": Struct(
                "template.templateToolFunction",
                about,
                {name: (name.lower(), False) for name in about},
            ),
        },
        {"Type": ("type", False), "Items": ("items", True), "Function": ("function", False)},
    )


def _properties(source: Any) -> Named:
    items = source if isinstance(source, dict) else {}
    found = {str(name): _property(item) for name, item in items.items()}

    def text(value: Named) -> str:
        return "{}" if value.is_nil else to_json(value)

    return Named(found, text, is_nil=not isinstance(source, dict))


_PROPERTY_NAMES = {
    "AnyOf": ("anyOf", True),
    "Type": ("type", True),
    "Items": ("items", True),
    "Description": ("description", True),
    "Enum": ("enum", True),
    "Properties": ("properties", True),
    "Required": ("required", True),
}


def _property(source: Any) -> Struct:
    source = source if isinstance(source, dict) else {}
    kind = source.get("type")
    kinds = [kind] if isinstance(kind, str) else [str(k) for k in kind or ()]
    fields = {
        "AnyOf": [_property(item) for item in source.get("anyOf") or ()],
        "Type": Named(kinds, _kinds_text, single=True),
        "Items": from_json(source.get("items")),
        "Description": _text(source, "description"),
        "Enum": from_json(source.get("enum") or []),
        "Properties": _properties(source["properties"]) if source.get("properties") else None,
        "Required": [str(name) for name in source.get("required") or ()],
    }
    return Struct("api.ToolProperty", fields, _PROPERTY_NAMES)


def _kinds_text(value: Named) -> str:
    """One type as its name, several in brackets."""
    match value.items:
        case [name]:
            return str(name)
        case []:
            return ""
        case _:
            return show(value, nested=True)
