"""What the engine's events and errors say, as pieces of an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mbuild.runtime.asked import EndReason, Finished, Piece
from mbuild.runtime.calls import CallSplitter, new_id
from mbuild.runtime.failure import (
    TOO_LONG,
    EngineError,
    RequestError,
    TooLongError,
    UnreadAnswerError,
)
from mbuild.templates.conversation import ToolCall

if TYPE_CHECKING:
    from mbuild.runtime.thinking import ThinkingSplitter


def split_event(
    event: Mapping[str, Any],
    thoughts: ThinkingSplitter | None,
    calls: CallSplitter | None,
    *,
    ended: bool,
) -> Piece:
    """An event's text as thoughts, answer and calls."""
    thinking, text = "", event.get("content", "")
    if thoughts is not None:
        thinking, text = thoughts.feed(text)
        if ended:
            more = thoughts.end()
            thinking, text = thinking + more[0], text + more[1]
    found: list[ToolCall] = []
    if calls is not None:
        text, found = calls.feed(text)
        if ended:
            text += calls.end()
    return Piece(text, thinking, tuple(found), logprobs_of(event))


def logprobs_of(event: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The probabilities of an event's tokens, as the API has them."""
    return _logprob_rows(event.get("completion_probabilities"))


def _logprob_rows(rows: Any) -> tuple[Mapping[str, Any], ...]:
    if not rows:
        return ()

    def row(found: Mapping[str, Any]) -> dict[str, Any]:
        return {"token": found.get("token", ""), "logprob": found.get("logprob", 0.0)}

    return tuple(
        row(found) | {"top_logprobs": [row(top) for top in found.get("top_logprobs") or ()]}
        for found in rows
    )


def finished_of(event: Mapping[str, Any]) -> Finished:
    """The end of an answer, from the event that says so."""
    timings = event.get("timings") or {}
    reason = EndReason.LENGTH if event.get("stop_type") == "limit" else EndReason.STOP
    return _timed(reason, timings)


def _timed(reason: EndReason, timings: Mapping[str, Any]) -> Finished:
    def ns(key: str) -> int:
        return int(float(timings.get(key, 0.0)) * 1e6)

    return Finished(
        reason,
        prompt_count=int(timings.get("cache_n", 0)) + int(timings.get("prompt_n", 0)),
        prompt_ns=ns("prompt_ms"),
        answer_count=int(timings.get("predicted_n", 0)),
        answer_ns=ns("predicted_ms"),
    )


def native_piece(
    event: Mapping[str, Any], calls: dict[int, dict[str, str]]
) -> tuple[Piece, Finished | None]:
    """An event of ``/v1/chat/completions``; ``calls`` collects what comes in parts."""
    choice = (event.get("choices") or [{}])[0]
    delta = choice.get("delta") or {}
    for part in delta.get("tool_calls") or ():
        row = calls.setdefault(int(part.get("index", 0)), {"id": "", "name": "", "arguments": ""})
        function = part.get("function") or {}
        row["id"] = row["id"] or str(part.get("id") or "")
        row["name"] += function.get("name") or ""
        row["arguments"] += function.get("arguments") or ""
    reason = choice.get("finish_reason")
    found: list[ToolCall] = []
    if reason is not None:
        for index, row in sorted(calls.items()):
            try:
                arguments = json.loads(row["arguments"] or "{}")
            except ValueError:
                arguments = {}
            arguments = arguments if isinstance(arguments, dict) else {}
            found.append(ToolCall(row["name"], arguments, row["id"] or new_id(), index))
    logprobs = _logprob_rows((choice.get("logprobs") or {}).get("content"))
    piece = Piece(
        delta.get("content") or "", delta.get("reasoning_content") or "", tuple(found), logprobs
    )
    if reason is None:
        return piece, None
    ended = _timed(
        EndReason.LENGTH if reason == "length" else EndReason.STOP, event.get("timings") or {}
    )
    return piece, ended


def refused(status: int, body: Any) -> Exception:
    """The engine's own words for what it does not do."""
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    text = str(message or f"the engine answered with status {status}")
    if "exceeds the available context size" in text or ("exceed" in text and "context" in text):
        tokens = error.get("n_prompt_tokens") if isinstance(error, dict) else None
        return TooLongError(TOO_LONG, tokens=tokens if isinstance(tokens, int) else 0)
    if "Jinja Exception: " in text or "generate parser for this template" in text:
        said = text.rstrip().rpartition("\n")[2].rpartition("Jinja Exception: ")[2]
        return RequestError(f"the template in the model's weights refuses this request: {said}")
    if "does not match the expected" in text:
        return UnreadAnswerError(
            "what the model wrote begins like a call or a thought, and does not end like one",
            hint="ask again, with more tokens (num_predict), or without tools",
        )
    return RequestError(text) if status == 400 else EngineError(text)
