"""Requests that run models as values, and answers as Ollama and OpenAI write them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest

from mbuild.core.errors import UsageError
from mbuild.runtime.asked import EndReason, Finished, Piece
from mbuild.runtime.options import settings
from mbuild.server import shapes
from mbuild.server.inference import collect
from mbuild.server.ollama import OllamaLines, read_chat, read_generate, statistics
from mbuild.server.openai import EVENTS, OpenAIAnswers, read_completion, read_openai_chat
from mbuild.server.security import AccessPolicy
from mbuild.server.service import Service
from mbuild.server.streaming import LINES, LineStream
from mbuild.templates.conversation import ToolCall

ENDED = Finished(EndReason.STOP, 9, 1, 5, 2, 3, 4, (1, 2))
CALL = ToolCall("f", {"a": 1}, "call_x", 0)


def test_a_chat_is_read() -> None:
    """Roles in lower case, images decoded, calls with their arguments, options as they are."""
    message = {"role": "User", "content": "x", "images": ["YWI="]}
    call = {"id": "i", "function": {"name": "f", "arguments": {"a": 1}}}
    answer = {"role": "assistant", "tool_calls": [call], "thinking": "t"}
    ask = read_chat({"messages": [message, answer], "options": {"seed": 1}, "keep_alive": "1m",
                     "format": "", "logprobs": True, "top_logprobs": 2})  # fmt: skip
    assert (ask.turns[0].role, ask.turns[0].images) == ("user", (b"ab",))
    assert ask.turns[1].tool_calls == (ToolCall("f", {"a": 1}, "i", 0),)
    assert (ask.options, ask.keep_alive, ask.schema, ask.logprobs) == ({"seed": 1}, 60, None, 2)
    with pytest.raises(UsageError, match="think value"):
        read_chat({"think": "much"})


def test_a_prompt_is_read() -> None:
    """One turn; what only a prompt has beside it."""
    ask = read_generate({"prompt": "p", "suffix": "s", "context": [1], "truncate": False})
    assert (ask.turns[0].content, ask.suffix, ask.context) == ("p", "s", (1,))
    assert ask.complete and not ask.truncate and ask.system is None


def test_what_is_wrong_is_shown_as_json_has_it() -> None:
    """A value of the request as the request wrote it, not as Python does."""
    for value, shown in ((True, "true"), ("x", '"x"'), (["5m"], r'\["5m"\]')):
        with pytest.raises(UsageError, match=f"keep_alive {shown} is not a duration"):
            read_generate({"prompt": "p", "keep_alive": value})
    with pytest.raises(UsageError, match='think value: "much"'):
        read_generate({"prompt": "p", "think": "much"})


def test_lines_are_ollama_s() -> None:
    """Zeros are left out, a context only of completions, one line may be the whole answer."""
    chat, complete = OllamaLines("m", complete=False), OllamaLines("m", complete=True)
    line = chat.of(Piece("a", "t", (CALL,)))
    assert line["message"] == {
        "role": "assistant",
        "content": "a",
        "thinking": "t",
        "tool_calls": [
            {"id": "call_x", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}
        ],
    }
    assert complete.of(Piece("a"))["response"] == "a"
    assert complete.of(ENDED)["context"] == [1, 2] and "context" not in chat.of(ENDED)
    whole = complete.whole([Piece("a"), Piece("b", logprobs=({"token": "b"},))], ENDED)
    assert (whole["response"], whole["done"], len(whole["logprobs"])) == ("ab", True, 1)
    assert statistics(Finished(EndReason.LOAD, 7)) == {"total_duration": 7}


def test_openai_s_requests_are_read() -> None:
    """Its names of options, parts of content, arguments as text; images as data URLs alone."""
    url = {"url": "data:image/png;base64,YWI="}
    parts = [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": url}]
    call = {"id": "i", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [{"role": "developer", "content": "d"}, {"role": "user", "content": parts},
                {"role": "assistant", "tool_calls": [call]}]  # fmt: skip
    ask = read_openai_chat({"messages": messages, "max_tokens": 3, "stop": "x",
                            "reasoning_effort": "none"})  # fmt: skip
    assert [turn.role for turn in ask.turns] == ["system", "user", "assistant"]
    assert ask.turns[1].images == (b"ab",) and ask.turns[2].tool_calls[0].arguments == {"a": 1}
    assert ask.options == {"temperature": 1.0, "top_p": 1.0, "num_predict": 3, "stop": ["x"]}
    assert ask.think is False
    assert read_completion({"prompt": ["p"], "suffix": "s"}).suffix == "s"
    for wrong in (
        {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
        {"messages": [{"content": [{"type": "image_url", "image_url": "http://x/y.png"}]}]},
        {"messages": [{"content": [{"type": "image_url", "image_url": "data:;base64,*"}]}]},
        {"messages": [{"tool_calls": [{"function": {"arguments": "{"}}]}]},
        {"messages": [], "response_format": {"type": "xml"}},
    ):
        with pytest.raises(UsageError):
            read_openai_chat(wrong)


def test_openai_s_answers() -> None:
    """A call is why the answer ended; usage comes last if it was asked for."""
    form = OpenAIAnswers("m", complete=False, usage=True)
    (chunk,) = form.chunks(Piece("a", "t", (CALL,)))
    delta = chunk["choices"][0]["delta"]
    assert (delta["content"], delta["reasoning"]) == ("a", "t")
    assert delta["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    end, usage = form.chunks(ENDED)
    assert end["choices"][0]["finish_reason"] == "tool_calls"
    assert usage["usage"] == {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    plain = OpenAIAnswers("m", complete=True, usage=False)
    assert len(plain.chunks(ENDED)) == 1
    rows = [{"token": t, "logprob": -n, "top_logprobs": [{"token": t, "logprob": -n}]}
            for n, t in enumerate(("ab", "c"), start=1)]  # fmt: skip
    (chunk,) = plain.chunks(Piece("abc", logprobs=tuple(rows)))
    assert chunk["choices"][0]["logprobs"] == {
        "tokens": ["ab", "c"],
        "token_logprobs": [-1, -2],
        "top_logprobs": [{"ab": -1}, {"c": -2}],
        "text_offset": [0, 2],
    }
    whole = plain.whole([Piece("a"), Piece("b")], ENDED)
    assert whole["choices"][0]["text"] == "ab"


ANYTHING: list[Any] = [None, True, 0, -1, 1.5, 10**400, "", "x", "YWI=", [], [None], [5], [[]],
                       ["x"], [{}], {}, {"a": 1}, {"function": 5}]  # fmt: skip
"""Values of every type that JSON has."""


def _messages(value: Any) -> Iterator[Any]:
    """Messages with a value in each place of one."""
    yield value
    yield [value]
    for name in ("role", "content", "thinking", "images", "tool_calls", "tool_name", "reasoning",
                 "tool_call_id", "name"):  # fmt: skip
        yield [{"role": "user", name: value}]
    for name in ("id", "function"):
        yield [{"tool_calls": [{name: value}]}]
    for name in ("index", "name", "arguments"):
        yield [{"tool_calls": [{"function": {name: value}}]}]
    for part in ("type", "text", "image_url"):
        yield [{"content": [{"type": "text", "text": "x"} | {part: value}]}]
        yield [{"content": [{"type": "image_url"} | {part: value}]}]


@pytest.mark.parametrize(
    ("body", "read"),
    [
        (shapes.CHAT, read_chat),
        (shapes.GENERATE, read_generate),
        (shapes.V1_CHAT, read_openai_chat),
        (shapes.V1_COMPLETION, read_completion),
    ],
    ids=["chat", "generate", "v1 chat", "v1 completion"],
)
def test_any_value_in_any_field_is_read_or_refused(body: Any, read: Any) -> None:
    """Whatever a client sends where: a request, or an error that is the client's."""
    read_ones = 0
    for name in body.fields:
        for value in ANYTHING:
            for given in _messages(value) if name == "messages" else (value,):
                try:
                    ask = read(shapes.check(body, {"prompt": "p", name: given}))
                    settings({}, ask.options)
                    read_ones += 1
                except UsageError:
                    continue
    assert read_ones > 2 * len(body.fields)


class _Failing:
    """An answer that fails after its first piece; knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = False

    async def lines(self) -> AsyncGenerator[dict[str, Any], None]:
        try:
            yield {"n": 1}
            raise UsageError("no more")
        finally:
            self.closed = True


@pytest.mark.parametrize(
    ("form", "end"),
    [(LINES, '{"error":"no more"}\n'), (EVENTS, "data: [DONE]\n\n")],
)
def test_an_error_in_a_stream_is_its_last_line(tmp_path: Path, form: Any, end: str) -> None:
    """In the stream's own form, for the status was sent."""
    failing = _Failing()
    sent: list[Any] = []

    async def scenario() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            await asyncio.sleep(60)

        lines = failing.lines()
        service = Service(tmp_path, AccessPolicy())
        await LineStream(service, await anext(lines), lines, form)({"type": "http"}, receive, send)

    asyncio.run(scenario())
    text = b"".join(message.get("body", b"") for message in sent).decode()
    assert "no more" in text and text.endswith(end) and failing.closed


def test_pieces_are_collected() -> None:
    """And the end apart from them."""

    async def pieces() -> AsyncGenerator[Piece | Finished, None]:
        yield Piece("a")
        yield ENDED

    assert asyncio.run(collect(pieces())) == ([Piece("a")], ENDED)
    assert json.loads(EVENTS.encode({"a": 1}).removeprefix(b"data: ")) == {"a": 1}
