"""OpenAI's newer endpoint that runs models, ``/v1/responses``: the same path as Ollama's.

The form is that of OpenAI's Responses API, as far as Ollama has it: texts, images, thoughts and
functions. Nothing is kept between requests, so each brings its whole conversation.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mbuild.core.errors import UsageError
from mbuild.core.values import EMPTY, replace
from mbuild.runtime.asked import Ask, ChatTurn, EndReason, Finished, Piece
from mbuild.server import shapes
from mbuild.server.answering import (
    answer,
    arguments_of,
    function,
    image_of,
    named_event,
    parts_of,
    string,
)
from mbuild.server.streaming import LineForm
from mbuild.templates.conversation import ToolCall

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from mbuild.server.service import Service
    from mbuild.server.stream import Line

_EFFORTS: Mapping[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "max",
}
"""OpenAI's efforts of thinking, as Ollama's levels."""

_KEPT = ("previous_response_id", "conversation", "prompt")
"""Fields that mean what an earlier request left behind."""


async def create(service: Service, request: Request) -> Response:
    """Answer a conversation."""
    return await answer(service, request, shapes.V1_RESPONSES, _read)


def _read(fields: Mapping[str, Any]) -> tuple[Ask, ResponseEvents]:
    return read_responses(fields), ResponseEvents(fields)


def read_responses(fields: Mapping[str, Any]) -> Ask:
    """The request of ``/v1/responses``; raises :class:`UsageError`."""
    for name in _KEPT:
        if fields.get(name):
            raise UsageError(
                f"{name} must be absent: this server keeps no conversations",
                hint="send the whole conversation in input",
            )
    if fields.get("background"):
        raise UsageError("background must be false: an answer is made while its client waits")
    effort = string((fields.get("reasoning") or EMPTY).get("effort"), "effort")
    if effort and effort not in _EFFORTS:
        raise UsageError(f"effort {effort!r:.64} is none of {', '.join(_EFFORTS)}")
    options: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}
    options |= {key: fields[key] for key in options if fields.get(key) is not None}
    if fields.get("max_output_tokens") is not None:
        options["num_predict"] = fields["max_output_tokens"]
    tools = () if fields.get("tool_choice") == "none" else tuple(fields.get("tools") or ())
    instructions = fields.get("instructions", "")
    first = (ChatTurn("system", instructions),) if instructions else ()
    turns = _turns(fields.get("input"))
    if not turns:
        raise UsageError("input is required")
    return Ask(
        (*first, *turns),
        options,
        tools=tuple(_tool(tool) for tool in tools),
        schema=_schema((fields.get("text") or EMPTY).get("format")),
        think=_EFFORTS[effort] if effort else None,
        truncate=fields.get("truncation") != "disabled",
    )


def _schema(form: Any) -> Any:
    kind = form.get("type") if isinstance(form, dict) else form
    if kind in (None, "text"):
        return None
    if kind == "json_object":
        return "json"
    if kind != "json_schema" or not isinstance(form.get("schema"), dict):
        raise UsageError("format is neither text, json_object nor a json_schema with a schema")
    return form["schema"]


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    if tool.get("type") != "function":
        raise UsageError(
            f"tools of the type {tool.get('type')!r:.64} are run by OpenAI's servers",
            hint="send tools of the type function, which the client runs",
        )
    return function(tool, "parameters")


def _turns(given: Any) -> Sequence[ChatTurn]:
    """The turns of a conversation; a thought and calls belong to the message beside them."""
    if isinstance(given, str):
        return (ChatTurn("user", given),)
    turns: list[ChatTurn] = []
    names: dict[str, str] = {}
    thought = ""
    for item in parts_of(given, "input", "message"):
        match item.get("type") or "message":
            case "reasoning":
                thought = _thought(item)
                continue
            case "message":
                turn = _message(item)
            case "function_call":
                call = _call(item)
                names[call.id] = call.name
                turn = ChatTurn("assistant", tool_calls=(call,))
            case "function_call_output":
                turn = _output(item, names)
            case other:
                raise UsageError(f"input has an item of the unknown type {other!r:.64}")
        if turn.role == "assistant":
            turn, thought = replace(turn, thinking=thought), ""
            if turn.tool_calls and turns and turns[-1].role == "assistant":
                turn = _joined(turns.pop(), turn)
        turns.append(turn)
    return turns


def _joined(before: ChatTurn, call: ChatTurn) -> ChatTurn:
    """A turn with one more call, which has its place among them."""
    index = len(before.tool_calls)
    calls = tuple(replace(one, index=index) for one in call.tool_calls)
    thinking = call.thinking or before.thinking
    return replace(before, thinking=thinking, tool_calls=(*before.tool_calls, *calls))


def _thought(item: Mapping[str, Any]) -> str:
    """A thought that an earlier answer had; one in cipher only its writer can read."""
    for key, kind in (("content", "reasoning_text"), ("summary", "summary_text")):
        parts = parts_of(item.get(key), key, kind)
        if parts:
            return "".join(string(part.get("text"), "the text of a thought") for part in parts)
    return ""


def _message(item: Mapping[str, Any]) -> ChatTurn:
    role = string(item.get("role"), "the role of a message").lower()
    text, images = _content(item.get("content"))
    return ChatTurn("system" if role == "developer" else role, text, images=images)


def _content(given: Any) -> tuple[str, tuple[bytes, ...]]:
    texts: list[str] = []
    images: list[bytes] = []
    for part in parts_of(given, "content", "input_text"):
        match part.get("type"):
            case "input_text" | "output_text" | "text":
                texts.append(string(part.get("text"), "the text of a part"))
            case "input_image":
                images.append(image_of(part.get("image_url")))
            case other:
                raise UsageError(f"a part of a message has the unknown type {other!r:.64}")
    return "".join(texts), tuple(images)


def _call(item: Mapping[str, Any]) -> ToolCall:
    arguments = arguments_of(string(item.get("arguments"), "arguments"))
    return ToolCall(string(item.get("name"), "name"), arguments, string(item.get("call_id"), "id"))


def _output(item: Mapping[str, Any], names: Mapping[str, str]) -> ChatTurn:
    """What a tool answered."""
    text, images = _content(item.get("output"))
    number = string(item.get("call_id"), "call_id")
    name = names.get(number, "")
    return ChatTurn("tool", text, images=images, tool_name=name, tool_call_id=number)


class ResponseEvents:
    """Pieces of an answer as OpenAI's Responses API writes them: items of three kinds."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self._id = f"resp_{secrets.token_hex(16)}"
        self._created = int(time.time())
        self._number = 0
        self._items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None  # the item that pieces are added to
        self._text = ""
        self.form = LineForm("text/event-stream", named_event, self._failed)

    def chunks(self, piece: Piece | Finished) -> list[Line]:
        """The events of a piece."""
        found = [*self._start(), *self._events(piece)]
        lines: list[Line] = []
        for line in found:
            lines.append({**line, "sequence_number": self._number})
            self._number += 1
        return lines

    def whole(self, pieces: list[Piece], finished: Finished) -> Line:
        """The whole answer."""
        for piece in pieces:
            self.chunks(piece)
        (*_, last) = self.chunks(finished)
        response: Line = last["response"]
        return response

    def _failed(self, text: str) -> Line:
        error = {"message": text, "type": "server_error", "code": "server_error", "param": None}
        line = {"type": "error", "code": "server_error", "message": text, "param": None}
        return {**line, "sequence_number": self._number, "error": error}

    def _start(self) -> Iterator[Line]:
        if not self._number:
            yield {"type": "response.created", "response": self._response("in_progress")}
            yield {"type": "response.in_progress", "response": self._response("in_progress")}

    def _events(self, piece: Piece | Finished) -> Iterator[Line]:
        if isinstance(piece, Finished):
            yield from self._end(piece)
            return
        if piece.thinking:
            yield from self._within("reasoning")
            self._text += piece.thinking
            yield {
                **self._at("reasoning_summary_text.delta", summary_index=0),
                "delta": piece.thinking,
            }
        if piece.content:
            yield from self._within("message")
            self._text += piece.content
            delta = {"delta": piece.content, "logprobs": []}
            yield {**self._at("output_text.delta", content_index=0), **delta}
        for call in piece.calls:
            yield from self._close()
            yield from self._called(call)

    def _end(self, finished: Finished) -> Iterator[Line]:
        """The last events; an answer that was cut has its last item unfinished."""
        status = "incomplete" if finished.reason is EndReason.LENGTH else "completed"
        if not self._items:
            yield from self._within("message")
        yield from self._close(status)
        response = self._response(status, finished)
        yield {"type": f"response.{status}", "response": response}

    def _at(self, event: str, **place: int) -> dict[str, Any]:
        """What an event about the last item begins with."""
        return {
            "type": f"response.{event}",
            "item_id": self._items[-1]["id"],
            "output_index": len(self._items) - 1,
            **place,
        }

    def _item(self, event: str) -> Line:
        index = len(self._items) - 1
        return {
            "type": f"response.output_item.{event}",
            "output_index": index,
            "item": dict(self._items[-1]),
        }

    def _within(self, kind: str) -> Iterator[Line]:
        """Begin an item of a kind unless one is open."""
        if self._open is not None and self._open["type"] == kind:
            return
        yield from self._close()
        item: dict[str, Any] = {"type": kind, "status": "in_progress"}
        if kind == "message":
            item |= {"id": f"msg_{secrets.token_hex(16)}", "role": "assistant", "content": []}
        else:
            item |= {"id": f"rs_{secrets.token_hex(16)}", "summary": []}
        self._items.append(item)
        self._open, self._text = item, ""
        yield self._item("added")
        yield {**self._part("added"), "part": self._written("")}

    def _part(self, event: str) -> dict[str, Any]:
        assert self._open is not None
        if self._open["type"] == "message":
            return self._at(f"content_part.{event}", content_index=0)
        return self._at(f"reasoning_summary_part.{event}", summary_index=0)

    def _written(self, text: str) -> Line:
        assert self._open is not None
        if self._open["type"] == "message":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "summary_text", "text": text}

    def _close(self, status: str = "completed") -> Iterator[Line]:
        """End the open item, if there is one."""
        item, text = self._open, self._text
        if item is None:
            return
        part = self._written(text)
        if item["type"] == "message":
            done = {"text": text, "logprobs": []}
            yield {**self._at("output_text.done", content_index=0), **done}
            item["content"] = [part]
        else:
            yield {**self._at("reasoning_summary_text.done", summary_index=0), "text": text}
            item["summary"] = [part]
        yield {**self._part("done"), "part": part}
        item["status"], self._open = status, None
        yield self._item("done")

    def _called(self, call: ToolCall) -> Iterator[Line]:
        arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
        item = {
            "type": "function_call",
            "id": f"fc_{secrets.token_hex(16)}",
            "call_id": call.id,
            "name": call.name,
            "arguments": "",
            "status": "in_progress",
        }
        self._items.append(item)
        yield self._item("added")
        yield {**self._at("function_call_arguments.delta"), "delta": arguments}
        done = {"arguments": arguments, "name": call.name}
        yield {**self._at("function_call_arguments.done"), **done}
        item |= {"arguments": arguments, "status": "completed"}
        yield self._item("done")

    def _response(self, status: str, finished: Finished | None = None) -> Line:
        """The answer as far as it is; the request's own settings stand in it, too."""
        given = self._fields
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        reasoning = given.get("reasoning") or EMPTY
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "completed_at": int(time.time()) if status == "completed" else None,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": cut,
            "instructions": given.get("instructions"),
            "max_output_tokens": given.get("max_output_tokens"),
            "max_tool_calls": None,
            "metadata": given.get("metadata") or {},
            "model": given["model"],
            "output": [dict(item) for item in self._items],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
            "service_tier": "default",
            "store": False,
            "temperature": given.get("temperature", 1.0),
            "text": given.get("text") or {"format": {"type": "text"}},
            "tool_choice": given.get("tool_choice", "auto"),
            "tools": given.get("tools") or [],
            "top_logprobs": 0,
            "top_p": given.get("top_p", 1.0),
            "truncation": given.get("truncation", "auto"),
            "usage": None if finished is None else _usage(finished),
        }


def _usage(finished: Finished) -> dict[str, Any]:
    return {
        "input_tokens": finished.prompt_count,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": finished.answer_count,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": finished.prompt_count + finished.answer_count,
    }
