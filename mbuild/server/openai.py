"""OpenAI's endpoints that run models, in its own forms: the same path as Ollama's."""

from __future__ import annotations

import base64
import json
import secrets
import struct
import time
from collections.abc import Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response

from mbuild.core.errors import UsageError
from mbuild.runtime.asked import Ask, ChatTurn, EndReason, Finished, Piece
from mbuild.server import shapes
from mbuild.server.answering import answer, arguments_of, image_of, model_of
from mbuild.server.inference import cut, runner_of
from mbuild.server.ollama import MAX_TOP_LOGPROBS, THINK_LEVELS
from mbuild.server.requests import parse_json, read_body
from mbuild.server.stream import Line
from mbuild.server.streaming import LineForm, until_gone
from mbuild.templates.conversation import ToolCall

if TYPE_CHECKING:
    from starlette.requests import Request

    from mbuild.server.service import Service

_OPTIONS: Mapping[str, str] = {
    "max_tokens": "num_predict",
    "max_completion_tokens": "num_predict",
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
"""OpenAI's names of options, and Ollama's. Its default of temperature and top_p is 1."""


def _event(line: Line) -> bytes:
    return b"data: " + json.dumps(line, ensure_ascii=False).encode() + b"\n\n"


EVENTS = LineForm(
    "text/event-stream",
    _event,
    lambda text: {"error": {"message": text, "type": "api_error", "param": None, "code": None}},
    b"data: [DONE]\n\n",
)
"""Server-sent events, as OpenAI streams."""


async def chat(service: Service, request: Request) -> Response:
    """Answer a conversation."""
    return await answer(service, request, shapes.V1_CHAT, _chat)


async def complete(service: Service, request: Request) -> Response:
    """Complete a prompt."""
    return await answer(service, request, shapes.V1_COMPLETION, _completion)


def _chat(fields: Mapping[str, Any]) -> tuple[Ask, OpenAIAnswers]:
    ask = read_openai_chat(fields)
    return ask, OpenAIAnswers(str(fields["model"]), complete=False, usage=_wants_usage(fields))


def _completion(fields: Mapping[str, Any]) -> tuple[Ask, OpenAIAnswers]:
    ask = read_completion(fields)
    return ask, OpenAIAnswers(str(fields["model"]), complete=True, usage=_wants_usage(fields))


def _options(fields: Mapping[str, Any]) -> dict[str, Any]:
    if fields.get("n", 1) != 1:
        raise UsageError("n must be 1: a request has one answer here")
    options: dict[str, Any] = {"temperature": 1.0, "top_p": 1.0}
    for theirs, ours in _OPTIONS.items():
        if fields.get(theirs) is not None:
            options[ours] = fields[theirs]
    stop = fields.get("stop")
    if stop is not None:
        options["stop"] = [stop] if isinstance(stop, str) else stop
    return options | dict(fields.get("options") or {})


def read_completion(fields: Mapping[str, Any]) -> Ask:
    """The request of ``/v1/completions``; raises :class:`UsageError`."""
    prompt = fields.get("prompt")
    prompt = prompt[0] if isinstance(prompt, list) and len(prompt) == 1 else prompt
    if not isinstance(prompt, str):
        raise UsageError("prompt must be a string or a list of one string")
    if fields.get("echo"):
        raise UsageError("echo must be false: an answer here does not repeat its prompt")
    if fields.get("best_of", 1) > 1:
        raise UsageError("best_of must be 1: an answer here is not chosen from several")
    number = fields.get("logprobs")
    return Ask(
        (ChatTurn("user", prompt),),
        _options(fields),
        complete=True,
        suffix=fields.get("suffix", ""),
        logprobs=_alternatives(number) if isinstance(number, int) else None,
        bias=_bias(fields),
    )


def _alternatives(number: int) -> int:
    if not 0 <= number <= MAX_TOP_LOGPROBS:
        raise UsageError(f"top_logprobs must be between 0 and {MAX_TOP_LOGPROBS}")
    return number


def _bias(fields: Mapping[str, Any]) -> Mapping[str, float]:
    """``logit_bias``: what is added to the logits of tokens, by their numbers."""
    found: Mapping[str, Any] = fields.get("logit_bias") or {}
    for token, value in found.items():
        if not token.isascii() or not token.isdigit() or not _is_bias(value):
            raise UsageError("logit_bias has for numbers of tokens a number from -100 to 100 each")
    return found


def _is_bias(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -100 <= value <= 100


def read_openai_chat(fields: Mapping[str, Any]) -> Ask:
    """The request of ``/v1/chat/completions``; raises :class:`UsageError`."""
    effort = fields.get("reasoning_effort")
    if effort not in (None, "none", *THINK_LEVELS):
        raise UsageError(f"reasoning_effort {effort!r} is none of none, {', '.join(THINK_LEVELS)}")
    return Ask(
        tuple(_turn(message) for message in fields.get("messages") or ()),
        _options(fields),
        tools=() if fields.get("tool_choice") == "none" else tuple(fields.get("tools") or ()),
        schema=_schema(fields.get("response_format")),
        think=False if effort == "none" else effort,
        logprobs=_alternatives(fields.get("top_logprobs", 0)) if fields.get("logprobs") else None,
        bias=_bias(fields),
    )


def _schema(form: Any) -> Any:
    if not isinstance(form, dict) or form.get("type") in (None, "text"):
        return None
    if form["type"] == "json_object":
        return "json"
    found = form.get("json_schema")
    schema = found.get("schema") if isinstance(found, dict) else None
    if form["type"] != "json_schema" or not isinstance(schema, dict):
        raise UsageError("response_format is neither json_object nor a json_schema with a schema")
    return schema


def _turn(message: Mapping[str, Any]) -> ChatTurn:
    texts, images = [], []
    content = message.get("content") or ""
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
        if part.get("type") == "text":
            texts.append(str(part.get("text") or ""))
        elif part.get("type") == "image_url":
            url = part.get("image_url")
            images.append(image_of(url.get("url") if isinstance(url, dict) else url))
        else:
            raise UsageError(f"a part of a message has the unknown type {part.get('type')!r}")
    calls = []
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        arguments = arguments_of(function.get("arguments") or "")
        name, number = str(function.get("name") or ""), str(call.get("id") or "")
        calls.append(ToolCall(name, arguments, number, index))
    role = str(message.get("role") or "").lower()
    return ChatTurn(
        "system" if role == "developer" else role,
        "\n".join(texts),
        str(message.get("reasoning") or ""),
        tuple(images),
        tuple(calls),
        str(message.get("name") or ""),
        str(message.get("tool_call_id") or ""),
    )


def _wants_usage(fields: Mapping[str, Any]) -> bool:
    options = fields.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


class OpenAIAnswers:
    """Pieces of an answer as OpenAI writes them."""

    form = EVENTS

    def __init__(self, model: str, *, complete: bool, usage: bool) -> None:
        self._complete = complete
        self.usage = usage
        kind = "text_completion" if complete else "chat.completion"
        self._head = {
            "id": ("cmpl-" if complete else "chatcmpl-") + secrets.token_hex(8),
            "object": kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": "fp_mbuild",
        }
        self._called = False

    def chunks(self, piece: Piece | Finished) -> list[Line]:
        """The events of a piece."""
        head = dict(self._head)
        if not self._complete:
            head["object"] = "chat.completion.chunk"
        if isinstance(piece, Finished):
            empty: dict[str, Any] = {"text": ""} if self._complete else {"delta": {}}
            choice = {"index": 0, **empty, "finish_reason": self._reason(piece)}
            lines: list[Line] = [{**head, "choices": [choice]}]
            return [*lines, {**head, "choices": [], "usage": _usage(piece)}][: 1 + self.usage]
        if self._complete:
            return [{**head, "choices": [self._choice({"text": piece.content}, piece, None)]}]
        delta = {"role": "assistant", **self._message(piece.content, piece.thinking, piece.calls)}
        return [{**head, "choices": [self._choice({"delta": delta}, piece, None)]}]

    def whole(self, pieces: list[Piece], finished: Finished) -> Line:
        """The whole answer."""
        content = "".join(piece.content for piece in pieces)
        thinking = "".join(piece.thinking for piece in pieces)
        calls = tuple(call for piece in pieces for call in piece.calls)
        all_of_it = Piece(content, thinking, calls, tuple(r for p in pieces for r in p.logprobs))
        body: dict[str, Any] = {"text": content}
        if not self._complete:
            message = self._message(content, thinking, calls)
            body = {"message": {"role": "assistant", **message}}
        choice = self._choice(body, all_of_it, self._reason(finished))
        return {**self._head, "choices": [choice], "usage": _usage(finished)}

    def _choice(self, body: Mapping[str, Any], piece: Piece, reason: str | None) -> Line:
        choice = {"index": 0, **body, "finish_reason": reason}
        if piece.logprobs:
            rows = list(piece.logprobs)
            choice["logprobs"] = _legacy(rows) if self._complete else {"content": rows}
        return choice

    def _message(self, content: str, thinking: str, calls: tuple[ToolCall, ...]) -> dict[str, Any]:
        message: dict[str, Any] = {"content": content}
        if thinking:
            message["reasoning"] = thinking
        if calls:
            self._called = True
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "index": call.index,
                    "type": "function",
                    "function": {
                        "name": call.name,
                        "arguments": json.dumps(dict(call.arguments), ensure_ascii=False),
                    },
                }
                for call in calls
            ]
        return message

    def _reason(self, finished: Finished) -> str:
        return (
            "tool_calls" if self._called and finished.reason is EndReason.STOP else finished.reason
        )


def _legacy(rows: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Probabilities of tokens as ``/v1/completions`` has them: lists side by side."""
    tokens = [str(row["token"]) for row in rows]
    tops = [{top["token"]: top["logprob"] for top in row["top_logprobs"]} for row in rows]
    return {
        "tokens": tokens,
        "token_logprobs": [row["logprob"] for row in rows],
        "top_logprobs": tops,
        "text_offset": list(accumulate(map(len, tokens[:-1]), initial=0)),
    }


def _usage(finished: Finished) -> dict[str, int]:
    total = finished.prompt_count + finished.answer_count
    return {
        "prompt_tokens": finished.prompt_count,
        "completion_tokens": finished.answer_count,
        "total_tokens": total,
    }


async def embeddings(service: Service, request: Request) -> Response:
    """A vector for each text."""
    data = await read_body(request)
    if service.upstream is not None:
        return await service.upstream.forward(request, data)
    fields = shapes.check(shapes.V1_EMBEDDINGS, parse_json(data))
    form = str(fields.get("encoding_format") or "float").lower()
    if form not in ("float", "base64"):
        raise UsageError(f"encoding_format {form!r} is neither float nor base64")
    runner = runner_of(service)
    model, text = await model_of(runner, fields), str(fields["model"])
    given = fields.get("input")
    texts = [given] if isinstance(given, str) else given
    if not texts or not isinstance(texts, list) or any(not isinstance(item, str) for item in texts):
        raise UsageError("input must be a string or a list of strings")
    vectors, finished = await until_gone(runner.embed(model, texts, {}, None), request)
    rows = []
    for index, vector in enumerate(vectors):
        value: Any = cut(vector, fields.get("dimensions", 0))
        if form == "base64":
            value = base64.b64encode(struct.pack(f"<{len(value)}f", *value)).decode()
        rows.append({"object": "embedding", "embedding": value, "index": index})
    count = finished.prompt_count
    usage = {"prompt_tokens": count, "total_tokens": count}
    return JSONResponse({"object": "list", "data": rows, "model": text, "usage": usage})
