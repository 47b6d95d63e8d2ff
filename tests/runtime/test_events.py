"""What the engine's events and errors become."""

from __future__ import annotations

from typing import Any

import pytest

from mbuild.runtime.asked import EndReason, Piece
from mbuild.runtime.calls import CallSplitter
from mbuild.runtime.events import finished_of, logprobs_of, native_piece, refused, split_event
from mbuild.runtime.failure import EngineError, RequestError, TooLongError
from mbuild.runtime.thinking import ThinkingSplitter

TIMINGS = {"cache_n": 3, "prompt_n": 2, "prompt_ms": 1.5, "predicted_n": 4, "predicted_ms": 2.0}


def test_the_last_event_has_counts_and_times() -> None:
    """What was in the cache counts as prompt; milliseconds become nanoseconds."""
    ended = finished_of({"stop": True, "stop_type": "limit", "timings": TIMINGS})
    assert (ended.reason, ended.prompt_count, ended.answer_count) == (EndReason.LENGTH, 5, 4)
    assert (ended.prompt_ns, ended.answer_ns) == (1_500_000, 2_000_000)
    assert finished_of({"stop_type": "word"}).reason is EndReason.STOP


def test_a_text_is_split_into_thoughts_answer_and_calls() -> None:
    """In this order: what is thought is not looked through for calls."""
    thoughts = ThinkingSplitter(("<t>", "</t>"))
    calls = CallSplitter("<c>", ["f"])
    first = split_event({"content": "<t>a<c></t>b<c>f"}, thoughts, calls, ended=False)
    assert (first.thinking, first.content) == ("a<c>", "b")
    last = split_event({"content": "{}</c>"}, thoughts, calls, ended=True)
    assert [call.name for call in last.calls] == ["f"] and last.content == ""
    assert split_event({"content": "x"}, None, None, ended=True) == Piece("x")


def test_probabilities_keep_their_alternatives() -> None:
    """Bytes and ids of the engine's own are left out."""
    rows = [{"id": 1, "token": "a", "logprob": -1.0, "bytes": [97],
             "top_logprobs": [{"id": 2, "token": "b", "logprob": -2.0}]}]  # fmt: skip
    top = {"token": "b", "logprob": -2.0}
    expected = {"token": "a", "logprob": -1.0, "top_logprobs": [top]}
    assert logprobs_of({"completion_probabilities": rows}) == (expected,)
    assert logprobs_of({}) == ()


def _event(reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"delta": delta, "finish_reason": reason}], "timings": TIMINGS}


def test_calls_come_in_parts_and_leave_whole() -> None:
    """The engine streams a call's arguments as text; a broken one has none."""
    calls: dict[int, dict[str, str]] = {}
    part = {"index": 0, "id": "i", "function": {"name": "f", "arguments": '{"a"'}}
    piece, ended = native_piece(_event(tool_calls=[part]), calls)
    assert not any(piece) and ended is None
    more = {"index": 0, "function": {"arguments": ": 1}"}}
    broken = {"index": 1, "function": {"name": "g", "arguments": "{"}}
    native_piece(_event(tool_calls=[more, broken]), calls)
    piece, ended = native_piece(_event("tool_calls"), calls)
    assert [(c.name, c.arguments, c.index) for c in piece.calls] == [
        ("f", {"a": 1}, 0),
        ("g", {}, 1),
    ]
    assert piece.calls[0].id == "i" and piece.calls[1].id.startswith("call_")
    assert ended is not None and ended.reason is EndReason.STOP and ended.answer_count == 4
    piece, ended = native_piece(_event("length", content="x", reasoning_content="t"), {})
    assert (piece.content, piece.thinking) == ("x", "t")
    assert ended is not None and ended.reason is EndReason.LENGTH


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "request (9 tokens) exceeds the available context size (8 tokens)", TooLongError),
        (400, "Failed to initialize samplers", RequestError),
        (500, "the current context does not support logits computation. skipping", EngineError),
    ],
)
def test_refusals_have_the_engine_s_words(status: int, text: str, kind: type[Exception]) -> None:
    """A prompt that is too long, a wrong request, a failure: three kinds of error."""
    assert type(refused(status, {"error": {"message": text}})) is kind
    assert "status 503" in str(refused(503, None))
