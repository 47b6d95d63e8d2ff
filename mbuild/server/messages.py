"""Anthropic's endpoint that runs models, ``/v1/messages``: the same path as Ollama's.

The form is that of Anthropic's Messages API, as far as Ollama has it: texts, images, thoughts and
tools of one's own. What Anthropic's servers do themselves (searching the web) is not here.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import UsageError
from mbuild.core.values import EMPTY
from mbuild.runtime.asked import Ask, ChatTurn, EndReason, Finished, Piece
from mbuild.server import shapes
from mbuild.server.answering import answer, decoded, function, named_event, parts_of, string
from mbuild.server.ollama import THINK_LEVELS
from mbuild.server.streaming import LineForm
from mbuild.templates.conversation import ToolCall

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from mbuild.server.service import Service
    from mbuild.server.stream import Line

PATH = "/v1/messages"
_OPTIONS = ("temperature", "top_p", "top_k")
"""What is called the same by Anthropic and by Ollama."""

_HIGHEST = "xhigh"  # an effort of Anthropic's between high and max


_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    503: "overloaded_error",
}


def refusal(status: int, text: str) -> Line:
    """An error as Anthropic writes it, with its own word for a status."""
    return {"type": "error", "error": {"type": _KINDS.get(status, "api_error"), "message": text}}


EVENTS = LineForm("text/event-stream", named_event, lambda text: refusal(500, text))
"""Server-sent events, as Anthropic streams."""


async def create(service: Service, request: Request) -> Response:
    """Answer a conversation; a model that cannot think answers without, as in Ollama."""
    return await answer(service, request, shapes.V1_MESSAGES, _read, may_think=True)


def _read(fields: Mapping[str, Any]) -> tuple[Ask, MessageEvents]:
    return read_messages(fields), MessageEvents(str(fields["model"]))


def read_messages(fields: Mapping[str, Any]) -> Ask:
    """The request of ``/v1/messages``; raises :class:`UsageError`."""
    most = fields.get("max_tokens", 0)
    if most < 1:
        raise UsageError("max_tokens is required, and must be at least 1")
    options = {"num_predict": most} | {
        key: fields[key] for key in _OPTIONS if fields.get(key) is not None
    }
    if fields.get("stop_sequences"):
        options["stop"] = fields["stop_sequences"]
    choice = fields.get("tool_choice") or EMPTY
    tools = () if choice.get("type") == "none" else tuple(fields.get("tools") or ())
    return Ask(
        (*_system(fields.get("system")), *_turns(fields.get("messages") or ())),
        options,
        tools=tuple(_tool(tool) for tool in tools),
        schema=_schema((fields.get("output_config") or EMPTY).get("format")),
        think=_think(fields),
    )


def _think(fields: Mapping[str, Any]) -> bool | str | None:
    """Whether to think: as ``thinking`` says, else as much as ``output_config`` does."""
    said = (fields.get("thinking") or EMPTY).get("type")
    if said not in (None, "enabled", "disabled", "adaptive", "between_tools"):
        raise UsageError(f"thinking has the unknown type {said!r:.64}")
    if said in ("enabled", "disabled"):
        return bool(said == "enabled")
    effort = (fields.get("output_config") or EMPTY).get("effort")
    if effort not in (None, _HIGHEST, *THINK_LEVELS):
        raise UsageError(f"effort {effort!r:.64} is none of {', '.join(THINK_LEVELS)}")
    return "high" if effort == _HIGHEST else effort


def _schema(form: Any) -> Any:
    if form is None:
        return None
    schema = form.get("schema") if isinstance(form, dict) else None
    if not isinstance(schema, dict) or form.get("type") != "json_schema":
        raise UsageError("format must be a json_schema with a schema")
    return schema


def _system(said: Any) -> Iterator[ChatTurn]:
    text = "".join(_texts(parts_of(said, "system", "text"), "system"))
    if text:
        yield ChatTurn("system", text)


def _texts(parts: list[Mapping[str, Any]], where: str) -> Iterator[str]:
    for part in parts:
        if part.get("type") != "text":
            raise UsageError(f"{where} has a part of the unknown type {part.get('type')!r:.64}")
        yield string(part.get("text"), "the text of a part")


def _turns(messages: Sequence[Mapping[str, Any]]) -> Iterator[ChatTurn]:
    """The turns of a conversation: what tools answered stands in messages of the user."""
    names: dict[str, str] = {}
    for message in messages:
        role = string(message.get("role"), "the role of a message").lower()
        yield from _turn(role, parts_of(message.get("content"), "content", "text"), names)


def _turn(role: str, parts: list[Mapping[str, Any]], names: dict[str, str]) -> Iterator[ChatTurn]:
    texts: list[str] = []
    thoughts: list[str] = []
    images: list[bytes] = []
    calls: list[ToolCall] = []
    for part in parts:
        match part.get("type"):
            case "text":
                texts.append(string(part.get("text"), "the text of a part"))
            case "thinking":
                thoughts.append(string(part.get("thinking"), "thinking"))
            case "redacted_thinking":
                pass  # only those who wrote it can read it
            case "image":
                images.append(_image(part))
            case "tool_use":
                calls.append(_call(part, len(calls)))
                names[calls[-1].id] = calls[-1].name
            case "tool_result":
                yield _result(part, names)
            case other:
                raise UsageError(f"a part of a message has the unknown type {other!r:.64}")
    if texts or thoughts or images or calls or not parts:
        text, thought = "".join(texts), "".join(thoughts)
        yield ChatTurn(role, text, thought, tuple(images), tuple(calls))


def _image(part: Mapping[str, Any]) -> bytes:
    source = part.get("source")
    if not isinstance(source, dict) or source.get("type") != "base64":
        raise UsageError("the source of an image must be base64")
    return decoded(source.get("data"))


def _call(part: Mapping[str, Any], index: int) -> ToolCall:
    given = part.get("input")
    if given is not None and not isinstance(given, dict):
        raise UsageError("the input of a tool_use must be an object")
    name = string(part.get("name"), "the name of a tool_use")
    return ToolCall(name, given or {}, string(part.get("id"), "the id of a tool_use"), index)


def _result(part: Mapping[str, Any], names: Mapping[str, str]) -> ChatTurn:
    """What a tool answered."""
    parts = parts_of(part.get("content"), "the content of a tool_result", "text")
    images = tuple(_image(each) for each in parts if each.get("type") == "image")
    texts = _texts([each for each in parts if each.get("type") != "image"], "a tool_result")
    number = string(part.get("tool_use_id"), "tool_use_id")
    name = names.get(number, "")
    return ChatTurn("tool", "".join(texts), images=images, tool_name=name, tool_call_id=number)


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise UsageError(
            f"the tool {tool.get('type')!r:.64} is run by Anthropic's servers",
            hint="send tools with a name and an input_schema, which the client runs",
        )
    return function(tool, "input_schema")


class MessageEvents:
    """Pieces of an answer as Anthropic writes them: blocks of thoughts, of text, of calls."""

    form = EVENTS

    def __init__(self, model: str) -> None:
        self._model = model
        self._id = f"msg_{secrets.token_hex(12)}"
        self._begun = False
        self._block = -1
        self._kind = ""  # of the block that is open
        self._called = False

    def chunks(self, piece: Piece | Finished) -> list[Line]:
        """The events of a piece."""
        return [*self._start(), *self._events(piece)]

    def _start(self) -> Iterator[Line]:
        if not self._begun:
            self._begun = True
            usage = {"input_tokens": 0, "output_tokens": 0}  # the last event but one has them
            yield {"type": "message_start", "message": self._message([], None, usage)}

    def _events(self, piece: Piece | Finished) -> Iterator[Line]:
        if isinstance(piece, Finished):
            yield from self._close()
            delta = {"stop_reason": self._reason(piece), "stop_sequence": None}
            yield {"type": "message_delta", "delta": delta, "usage": _usage(piece)}
            yield {"type": "message_stop"}
            return
        if piece.thinking:
            yield from self._within("thinking", {"thinking": "", "signature": ""})
            yield self._delta("thinking_delta", "thinking", piece.thinking)
        if piece.content:
            yield from self._within("text", {"text": ""})
            yield self._delta("text_delta", "text", piece.content)
        for call in piece.calls:
            self._called = True
            yield from self._close()
            yield from self._within("tool_use", {"id": call.id, "name": call.name, "input": {}})
            arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
            yield self._delta("input_json_delta", "partial_json", arguments)
            yield from self._close()

    def _within(self, kind: str, empty: Mapping[str, Any]) -> Iterator[Line]:
        """Begin a block of a kind unless one is open."""
        if self._kind != kind:
            yield from self._close()
            self._block, self._kind = self._block + 1, kind
            block = {"type": kind, **empty}
            yield {
                "type": "content_block_start",
                "index": self._block,
                "content_block": block,
            }

    def _delta(self, kind: str, key: str, text: str) -> Line:
        delta = {"type": kind, key: text}
        return {"type": "content_block_delta", "index": self._block, "delta": delta}

    def _close(self) -> Iterator[Line]:
        if self._kind:
            self._kind = ""
            yield {"type": "content_block_stop", "index": self._block}

    def whole(self, pieces: list[Piece], finished: Finished) -> Line:
        """The whole answer."""
        thinking = "".join(piece.thinking for piece in pieces)
        text = "".join(piece.content for piece in pieces)
        calls = [call for piece in pieces for call in piece.calls]
        self._called = bool(calls)
        content: list[Line] = []
        if thinking:
            content.append({"type": "thinking", "thinking": thinking, "signature": ""})
        if text:
            content.append({"type": "text", "text": text})
        for call in calls:
            found = {"id": call.id, "name": call.name, "input": dict(call.arguments)}
            content.append({"type": "tool_use", **found})
        return self._message(content, self._reason(finished), _usage(finished))

    def _message(self, content: list[Line], reason: str | None, usage: Mapping[str, int]) -> Line:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": None,
            "usage": usage,
        }

    def _reason(self, finished: Finished) -> str:
        if finished.reason is EndReason.LENGTH:
            return "max_tokens"
        return "tool_use" if self._called else "end_turn"


def _usage(finished: Finished) -> dict[str, int]:
    return {"input_tokens": finished.prompt_count, "output_tokens": finished.answer_count}
