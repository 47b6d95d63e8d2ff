"""The bodies of requests: which fields they have and of which types, one table each.

A body is checked against its table before anything else looks at it, with the
texts that Go's decoder has for wrong types, and the OpenAPI document is made
from the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from mbuild.build.splitting import HALVES, SPLITTING
from mbuild.convert.conversion import CONVERSION, METADATA
from mbuild.core.errors import UsageError
from mbuild.core.suggest import did_you_mean, near
from mbuild.core.values import NamedTuple
from mbuild.language.parameters import PARAMETERS
from mbuild.quant.choose import options
from mbuild.server.fields import (
    ANY,
    BOOL,
    FILES,
    INTEGER,
    LIST,
    MESSAGES,
    NUMBERS,
    OBJECT,
    OBJECTS,
    OPENAI_MESSAGES,
    SIZE,
    STRING,
    TEXTS,
    Type,
    kind_of,
)

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
PUSH = PULL._replace(name="PushRequest")
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
    "n": INTEGER,
    "logit_bias": OBJECT,
    "logprobs": ANY,
    "options": OBJECT,
}

V1_CHAT = Body(
    "ChatCompletionRequest",
    {
        **_V1,
        "messages": OPENAI_MESSAGES,
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
    {**_V1, "prompt": ANY, "suffix": STRING, "echo": BOOL, "best_of": INTEGER},
    ("model", "prompt"),
    {"model": "mario", "prompt": "Hello"},
)
V1_MESSAGES = Body(
    "MessagesRequest",
    {
        "model": STRING,
        "max_tokens": INTEGER,
        "messages": OBJECTS,
        "system": ANY,
        "stream": BOOL,
        "stop_sequences": LIST,
        "temperature": ANY,
        "top_k": INTEGER,
        "top_p": ANY,
        "thinking": OBJECT,
        "output_config": OBJECT,
        "tools": OBJECTS,
        "tool_choice": OBJECT,
    },
    ("model", "max_tokens", "messages"),
    {
        "model": "mario",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hello"}],
    },
)
V1_RESPONSES = Body(
    "ResponsesRequest",
    {
        "model": STRING,
        "input": ANY,
        "instructions": STRING,
        "stream": BOOL,
        "max_output_tokens": INTEGER,
        "temperature": ANY,
        "top_p": ANY,
        "reasoning": OBJECT,
        "text": OBJECT,
        "tools": OBJECTS,
        "tool_choice": ANY,
        "truncation": STRING,
        "metadata": OBJECT,
        "background": BOOL,
        "previous_response_id": STRING,
        "conversation": ANY,
        "prompt": OBJECT,
    },
    ("model", "input"),
    {"model": "mario", "input": "Hello"},
)
V1_EMBEDDINGS = Body(
    "EmbeddingsRequest",
    {"model": STRING, "input": ANY, "encoding_format": STRING, "dimensions": INTEGER},
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
