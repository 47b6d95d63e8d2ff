"""Requests to run a model, as Ollama's API writes them, as values; and answers back into lines."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from mbuild.core.errors import UsageError
from mbuild.runtime.asked import Ask, ChatTurn, Finished, Piece
from mbuild.runtime.pool import seconds_of
from mbuild.server.stream import Line
from mbuild.templates.conversation import ToolCall

MAX_TOP_LOGPROBS = 20


def read_chat(fields: Mapping[str, Any]) -> Ask:
    """The request of ``/api/chat``; raises :class:`UsageError`."""
    turns = tuple(_turn(message) for message in fields.get("messages") or ())
    return Ask(turns, tools=tuple(fields.get("tools") or ()), **_common(fields))


def read_generate(fields: Mapping[str, Any]) -> Ask:
    """The request of ``/api/generate``; raises :class:`UsageError`."""
    raw = bool(fields.get("raw"))
    if raw and (fields.get("template") or fields.get("system") or fields.get("context")):
        raise UsageError("raw mode does not support template, system, or context")
    turn = ChatTurn("user", fields.get("prompt", ""), images=_images(fields.get("images")))
    return Ask(
        (turn,),
        complete=True,
        raw=raw,
        suffix=fields.get("suffix", ""),
        template=fields.get("template", ""),
        system=fields.get("system") or None,
        context=tuple(fields.get("context") or ()),
        **_common(fields),
    )


def _common(fields: Mapping[str, Any]) -> dict[str, Any]:
    think = fields.get("think")
    if think is not None and not isinstance(think, bool) and think not in THINK_LEVELS:
        raise UsageError(
            f'invalid think value: {json.dumps(think)} (must be "high", "medium", "low", "max",'
            " true, or false)"
        )
    top = fields.get("top_logprobs", 0)
    if not 0 <= top <= MAX_TOP_LOGPROBS:
        raise UsageError("top_logprobs must be between 0 and 20")
    keep, schema = fields.get("keep_alive"), fields.get("format")
    return {
        "options": fields.get("options") or {},
        "schema": None if schema == "" else schema,
        "think": think,
        "keep_alive": None if keep is None else seconds_of(keep),
        "logprobs": top if fields.get("logprobs") else None,
        "truncate": fields.get("truncate", True),
        "shift": fields.get("shift", True),
    }


THINK_LEVELS = ("low", "medium", "high", "max")


def _turn(message: Mapping[str, Any]) -> ChatTurn:
    calls = []
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        arguments = function.get("arguments")
        calls.append(
            ToolCall(
                str(function.get("name") or ""),
                arguments if isinstance(arguments, dict) else {},
                str(call.get("id") or ""),
                int(function.get("index") or index),
            )
        )
    return ChatTurn(
        str(message.get("role") or "").lower(),
        message.get("content") or "",
        message.get("thinking") or "",
        _images(message.get("images")),
        tuple(calls),
        message.get("tool_name") or "",
        message.get("tool_call_id") or "",
    )


def _images(texts: Any) -> tuple[bytes, ...]:
    try:
        return tuple(base64.b64decode(text, validate=True) for text in texts or ())
    except (binascii.Error, ValueError):
        raise UsageError("illegal base64 data in images") from None


def now() -> str:
    """The time as Go writes it: RFC 3339 in UTC."""
    second, ns = divmod(time.time_ns(), 10**9)
    return f"{_written(second)}.{ns:09}Z"


@lru_cache(1)
def _written(second: int) -> str:
    """A second of the clock, which many tokens share."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


class OllamaLines:
    """Pieces of an answer as lines of ``/api/chat``, or of ``/api/generate`` (``complete``)."""

    def __init__(self, model: str, *, complete: bool) -> None:
        self._model = model
        self._complete = complete

    def of(self, piece: Piece | Finished) -> Line:
        """The line of a piece."""
        if isinstance(piece, Finished):
            return self._last(piece)
        line = self._line(piece.content, piece.thinking, piece.calls, done=False)
        return {**line, "logprobs": list(piece.logprobs)} if piece.logprobs else line

    def whole(self, pieces: list[Piece], finished: Finished) -> Line:
        """All of an answer in one line."""
        text = "".join(piece.content for piece in pieces)
        thinking = "".join(piece.thinking for piece in pieces)
        calls = tuple(call for piece in pieces for call in piece.calls)
        line = {**self._last(finished), **self._line(text, thinking, calls, done=True)}
        logprobs = [row for piece in pieces for row in piece.logprobs]
        return {**line, "logprobs": logprobs} if logprobs else line

    def _line(
        self, text: str, thinking: str, calls: tuple[ToolCall, ...], *, done: bool
    ) -> dict[str, Any]:
        line: dict[str, Any] = {"model": self._model, "created_at": now()}
        found = [
            {
                "id": call.id,
                "function": {
                    "index": call.index,
                    "name": call.name,
                    "arguments": dict(call.arguments),
                },
            }
            for call in calls
        ]
        more = {"thinking": thinking} if thinking else {}
        tools = {"tool_calls": found} if found else {}
        if self._complete:
            line |= {"response": text, **more, **tools}
        else:
            line["message"] = {"role": "assistant", "content": text, **more, **tools}
        return {**line, "done": done}

    def _last(self, finished: Finished) -> dict[str, Any]:
        line = self._line("", "", (), done=True)
        line["done_reason"] = finished.reason
        if self._complete and finished.context:
            line["context"] = list(finished.context)
        if finished.given_count:  # Ollama does not say it; mbuild run tells its user
            line["prompt_given_count"] = finished.given_count
        return {**line, **statistics(finished)}


def statistics(finished: Finished) -> dict[str, int]:
    """Counts and times in nanoseconds, without those that are 0."""
    found = {
        "total_duration": finished.total_ns,
        "load_duration": finished.load_ns,
        "prompt_eval_count": finished.prompt_count,
        "prompt_eval_duration": finished.prompt_ns,
        "eval_count": finished.answer_count,
        "eval_duration": finished.answer_ns,
    }
    return {key: value for key, value in found.items() if value}
