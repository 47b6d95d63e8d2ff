"""The bodies of requests: which fields they have and of which types, one table each.

A body is checked against its table before anything else looks at it, with the
texts that Go's decoder has for wrong types, and the OpenAPI document is made
from the same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any, NamedTuple

from mbuild.build.splitting import HALVES, SPLITTING
from mbuild.convert.conversion import CONVERSION, METADATA
from mbuild.core.errors import UsageError
from mbuild.core.suggest import did_you_mean, near
from mbuild.language.parameters import PARAMETERS
from mbuild.quant.choose import options

Check = Callable[[Any, str], None]
"""Checks a value; is given the name of its field for messages."""


class Type(NamedTuple):
    """A type of a field: Go's name of it, its JSON schema, and how it is checked."""

    go: str
    schema: Mapping[str, Any]
    check: Check


UNREAD = "unread fields"
"""The key below which :func:`check` puts what to say of fields that are not read."""


class Body(NamedTuple):
    """A request's body: Go's name of it, its fields, and which of them a client must give.

    ``meant``: of names that clients write by mistake, the field that has it. Where there
    are some, a field that is not read and is like one that is does not pass in silence.
    """

    name: str
    fields: Mapping[str, Type]
    required: tuple[str, ...] = ()
    example: Mapping[str, Any] = {}
    meant: Mapping[str, str] = {}


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


_MESSAGE_FIELDS: Mapping[str, tuple[str, Check]] = {
    "role": ("string", _scalar(str, "string")),
    "content": ("string", _scalar(str, "string")),
    "thinking": ("string", _scalar(str, "string")),
    "images": ("array", _list("[]api.ImageData", _scalar(str, "string"))),
    "tool_calls": ("array", _list("[]api.ToolCall", _mapping("api.ToolCall", None))),
    "tool_name": ("string", _scalar(str, "string")),
    "tool_call_id": ("string", _scalar(str, "string")),
}


def _message(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise wrong_type(value, where, "api.Message")
    for name, (_, check) in _MESSAGE_FIELDS.items():
        if value.get(name) is not None:
            check(value[name], f"{where}.{name}")


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

_NAMES: Mapping[str, Type] = {"model": STRING, "name": STRING}

_OF_OPTIONS: Mapping[options.OptionKind, Type] = {
    options.FLAG: BOOL,
    options.CHOICE: STRING,
    options.FILE: FILES,
    options.TYPE: STRING,
    options.RULES: TEXTS,
    options.SIZE: SIZE,
    options.COUNT: INTEGER,
    options.ENTRIES: TEXTS,
    options.NAMES: TEXTS,
    options.LAYERS: STRING,
    METADATA: OBJECT,
}
"""The type of a field that is an option of a build."""

CREATE = Body(
    "CreateRequest",
    {
        **_NAMES,
        "from": STRING,
        "files": FILES,
        "adapters": FILES,
        "template": STRING,
        "license": TEXTS,
        "system": STRING,
        "parameters": OBJECT,
        "messages": MESSAGES,
        "stream": BOOL,
        "quantize": STRING,
        "quantization": STRING,
        "renderer": STRING,
        "parser": STRING,
        "requires": STRING,
        "draft_files": FILES,
        "draft_quantize": STRING,
        "info": OBJECT,
        "modelfile": STRING,
        "path": STRING,
        "remote_host": STRING,
        "capabilities": LIST,
        **{row.name: _OF_OPTIONS[row.kind] for row in options.OPTIONS.values()},
        **{row.name: _OF_OPTIONS[row.kind] for row in SPLITTING.values()},
        **{row.name: _OF_OPTIONS[row.kind] for row in CONVERSION.values()},
        **{row.name: _OF_OPTIONS[row.kind] for row in HALVES.values()},
    },
    ("model",),
    {"model": "mario", "from": "tiny", "system": "You are Mario.", "stream": False},
    {
        "options": "parameters",
        "params": "parameters",
        "option": "parameters",
        "settings": "parameters",
        **dict.fromkeys(PARAMETERS, "parameters"),
        "systemprompt": "system",
        "systemmessage": "system",
        "base": "from",
        "basemodel": "from",
        "file": "files",
        "blobs": "files",
        "lora": "adapters",
        "draft": "draft_files",
        "quant": "quantize",
        "quantise": "quantize",
        "quantizelevel": "quantize",
        "quantizationlevel": "quantize",
        "licence": "license",
        "history": "messages",
        "prompttemplate": "template",
        "chattemplate": "template",
    },
)
CHECK = Body(
    "CheckRequest",
    {"modelfile": STRING, "files": FILES},
    ("modelfile",),
    {"modelfile": "FROM tiny\nSYSTEM You are Mario.\n"},
)
SHOW = Body(
    "ShowRequest",
    {**_NAMES, "verbose": BOOL, "system": STRING, "template": STRING, "options": OBJECT},
    ("model",),
    {"model": "mario"},
)
COPY = Body(
    "CopyRequest",
    {"source": STRING, "destination": STRING},
    ("source", "destination"),
    {"source": "mario", "destination": "mario-backup"},
)
DELETE = Body("DeleteRequest", _NAMES, ("model",), {"model": "mario-backup"})
PULL = Body(
    "PullRequest",
    {**_NAMES, "insecure": BOOL, "username": STRING, "password": STRING, "stream": BOOL},
    ("model",),
    {"model": "mario"},
)
_ASKED: Mapping[str, Type] = {
    "model": STRING,
    "stream": BOOL,
    "format": ANY,
    "options": OBJECT,
    "think": ANY,
    "keep_alive": ANY,
    "truncate": BOOL,
    "shift": BOOL,
    "logprobs": BOOL,
    "top_logprobs": INTEGER,
    "_debug_render_only": BOOL,
}
"""What every request has that runs a model by a prompt."""

GENERATE = Body(
    "GenerateRequest",
    {
        **_ASKED,
        "prompt": STRING,
        "suffix": STRING,
        "system": STRING,
        "template": STRING,
        "context": NUMBERS,
        "raw": BOOL,
        "images": LIST,
    },
    ("model",),
    {"model": "mario", "prompt": "", "keep_alive": 0},
)
CHAT = Body(
    "ChatRequest",
    {**_ASKED, "messages": MESSAGES, "tools": OBJECTS},
    ("model",),
    {"model": "mario", "messages": [], "keep_alive": 0},
)
EMBED = Body(
    "EmbedRequest",
    {
        "model": STRING,
        "input": ANY,
        "truncate": BOOL,
        "dimensions": INTEGER,
        "keep_alive": ANY,
        "options": OBJECT,
    },
    ("model",),
    {"model": "mario", "input": "Hello"},
)
EMBEDDINGS = Body(
    "EmbeddingRequest",
    {"model": STRING, "prompt": STRING, "keep_alive": ANY, "options": OBJECT},
    ("model",),
    {"model": "mario", "prompt": "Hello"},
)

_V1: Mapping[str, Type] = {
    "model": STRING,
    "stream": BOOL,
    "stream_options": OBJECT,
    "max_tokens": INTEGER,
    "max_completion_tokens": INTEGER,
    "temperature": ANY,
    "top_p": ANY,
    "seed": INTEGER,
    "frequency_penalty": ANY,
    "presence_penalty": ANY,
    "stop": TEXTS,
    "logprobs": ANY,
    "options": OBJECT,
}

V1_CHAT = Body(
    "ChatCompletionRequest",
    {
        **_V1,
        "messages": OBJECTS,
        "tools": OBJECTS,
        "tool_choice": ANY,
        "response_format": OBJECT,
        "reasoning_effort": STRING,
        "top_logprobs": INTEGER,
    },
    ("model", "messages"),
    {"model": "mario", "messages": [{"role": "user", "content": "Hello"}]},
)
V1_COMPLETION = Body(
    "CompletionRequest",
    {**_V1, "prompt": ANY, "suffix": STRING},
    ("model", "prompt"),
    {"model": "mario", "prompt": "Hello"},
)
V1_EMBEDDINGS = Body(
    "EmbeddingsRequest",
    {"model": STRING, "input": ANY, "encoding_format": STRING},
    ("model", "input"),
    {"model": "mario", "input": "Hello"},
)


def check(body: Body, value: Any) -> dict[str, Any]:
    """The body's known fields, in lower case as Go matches them, without nulls.

    Null is an empty body. Raises :class:`UsageError` with Go's text for a
    value of the wrong type; fields that nobody knows are ignored, but see :data:`UNREAD`.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(
            f"json: cannot unmarshal {kind_of(value)} into Go value of type api.{body.name}"
        )
    found: dict[str, Any] = {}
    for key, item in value.items():
        name = key.lower()
        kind = body.fields.get(name)
        if kind is not None and item is not None:
            kind.check(item, f"{body.name}.{name}")
            found[name] = item
    keys = islice(value, MAX_UNREAD)
    if body.meant and (unread := [text for key in keys if (text := _unread(body, key))]):
        found[UNREAD] = unread
    return found


def _unread(body: Body, key: str) -> str:
    """What to say of a field that is not read and is like one that is; else nothing."""
    if key.lower() in body.fields:
        return ""
    plain = key[:_LONGEST].lower().replace("_", "").replace("-", "")
    meant = body.meant.get(key.lower()) or body.meant.get(plain)
    meant = meant or next(iter(near(plain, body.fields, cutoff=0.8)), "")
    return f"the field {key!r} is not read: {did_you_mean([repr(meant)])}" if meant else ""


MAX_UNREAD = 200
"""Fields of a body that are compared with those that are read."""

_LONGEST = 40  # characters of a field's name that are compared
