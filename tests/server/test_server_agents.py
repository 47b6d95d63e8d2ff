"""The forms in which agents ask: Anthropic's messages, and OpenAI's responses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from live_server import Server, serving_here
from smollm import CHATML, TOOLS, build_models

from mbuild.core.errors import UsageError
from mbuild.runtime.asked import ChatTurn, EndReason, Finished, Piece
from mbuild.runtime.options import settings
from mbuild.runtime.process import has_engine
from mbuild.server import shapes
from mbuild.server.answering import arguments_of, decoded, function, image_of, parts_of, string
from mbuild.server.messages import MessageEvents, read_messages
from mbuild.server.responses import ResponseEvents, read_responses
from mbuild.server.security import AccessPolicy
from mbuild.templates.conversation import ToolCall

CALL = ToolCall("f", {"a": 1}, "call_x", 0)
ENDED = Finished(EndReason.STOP, prompt_count=5, answer_count=3)
CUT = Finished(EndReason.LENGTH, prompt_count=5, answer_count=3)
WHAT = "What is the capital of France?"
needs_engine = pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed")


def test_what_the_forms_have_in_common() -> None:
    """Texts that may be null, contents that may be one text, images without fetching anything."""
    assert (string(None, "x"), string("a", "x")) == ("", "a")
    assert parts_of("a", "x", "text") == [{"type": "text", "text": "a"}]
    assert parts_of(None, "x", "text") == []
    assert image_of("data:image/png;base64,YWI=") == decoded("YWI=") == b"ab"
    assert arguments_of("") == {} and arguments_of('{"a": 1}') == {"a": 1}
    assert function({"name": "f", "p": {}}, "p")["function"]["name"] == "f"
    for wrong in (
        lambda: string(5, "x"),
        lambda: parts_of([5], "x", "text"),
        lambda: image_of("http://x/y.png"),
        lambda: decoded("*"),
        lambda: arguments_of("{"),
        lambda: function({"name": 5}, "p"),
    ):
        with pytest.raises(UsageError):
            wrong()


# --- what is asked --------------------------------------------------------------------------------


def test_a_conversation_of_anthropic_s() -> None:
    """What tools answered stands in the user's messages; a turn of its own goes before them."""
    source = {"type": "base64", "media_type": "image/png", "data": "YWI="}
    use = {"type": "tool_use", "id": "i", "name": "f", "input": {"a": 1}}
    result = {
        "type": "tool_result",
        "tool_use_id": "i",
        "content": [{"type": "text", "text": "sun"}, {"type": "image", "source": source}],
    }
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    ask = read_messages(
        {
            "max_tokens": 7,
            "system": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
            "messages": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": [thought, {"type": "text", "text": "So"}, use]},
                {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
                {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}]},
            ],
            "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
            "stop_sequences": ["x"],
            "top_k": 3,
            "thinking": {"type": "enabled", "budget_tokens": 1024},
            "output_config": {"format": {"type": "json_schema", "schema": {"type": "array"}}},
        }
    )
    assert ask.turns == (
        ChatTurn("system", "Be brief."),
        ChatTurn("user", "Hi"),
        ChatTurn("assistant", "So", "hm", tool_calls=(ToolCall("f", {"a": 1}, "i", 0),)),
        ChatTurn("tool", "sun", images=(b"ab",), tool_name="f", tool_call_id="i"),
        ChatTurn("user", "And?"),
    )
    assert ask.options == {"num_predict": 7, "top_k": 3, "stop": ["x"]}
    parameters = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert ask.tools == ({"type": "function", "function": parameters},)
    assert (ask.think, ask.schema) == (True, {"type": "array"})


@pytest.mark.parametrize(
    ("more", "think"),
    [
        ({}, None),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}, "low"),
        ({"output_config": {"effort": "xhigh"}}, "high"),
        ({"tool_choice": {"type": "none"}, "tools": [{"name": "f"}]}, None),
    ],
)
def test_how_much_anthropic_s_clients_want_thought(more: dict[str, Any], think: Any) -> None:
    """As ``thinking`` says, else as much as the effort."""
    ask = read_messages({"max_tokens": 1, "messages": [{"role": "user", "content": "x"}], **more})
    assert (ask.think, ask.tools) == (think, ())


def _said(*parts: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_tokens": 0}, "max_tokens is required"),
        (_said({"type": "document"}), "unknown type 'document'"),
        (_said({"type": "image", "source": {"type": "url", "url": "http://x"}}), "must be base64"),
        (_said({"type": "image", "source": {"type": "base64", "data": "*"}}), "illegal base64"),
        (_said({"type": "tool_use", "input": []}), "must be an object"),
        (_said({"type": "tool_result", "content": [{"type": "video"}]}), "'video'"),
        ({"system": 5}, "system must be a string"),
        ({"tools": [{"type": "web_search_20250305", "name": "w"}]}, "Anthropic's servers"),
        ({"tools": [{"type": "custom"}]}, "no name"),
        ({"tools": [{"name": "f", "input_schema": []}]}, "input_schema of the tool 'f'"),
        ({"thinking": {"type": "deep"}}, "unknown type 'deep'"),
        ({"output_config": {"effort": "huge"}}, "'huge' is none of low"),
        ({"output_config": {"format": {"type": "xml"}}}, "must be a json_schema"),
    ],
)
def test_what_anthropic_s_form_does_not_have(wrong: dict[str, Any], said: str) -> None:
    """Is refused, not left out."""
    with pytest.raises(UsageError, match=said):
        read_messages({"max_tokens": 1, "messages": [], **wrong})


def test_a_conversation_of_items() -> None:
    """Thoughts and calls belong to one turn of the assistant; calls are counted."""
    ask = read_responses(
        {
            "instructions": "Be brief.",
            "input": [
                {"role": "developer", "content": "d"},
                {
                    "role": "user",
                    "content": [
                        {"type": "input_text", "text": "see"},
                        {"type": "input_image", "image_url": "data:image/png;base64,YWI="},
                    ],
                },
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
                {"role": "assistant", "content": [{"type": "output_text", "text": "So"}]},
                {"type": "function_call", "call_id": "i", "name": "f", "arguments": '{"a": 1}'},
                {"type": "function_call", "call_id": "j", "name": "g", "arguments": ""},
                {"type": "function_call_output", "call_id": "i", "output": "sun"},
                {
                    "type": "function_call_output",
                    "call_id": "j",
                    "output": [{"type": "input_text", "text": "moon"}],
                },
                {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "ah"}]},
                {"type": "function_call", "call_id": "k", "name": "f", "arguments": "{}"},
            ],
            "max_output_tokens": 9,
            "temperature": 0,
            "reasoning": {"effort": "minimal"},
            "tools": [{"type": "function", "name": "f", "parameters": None}],
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "array"}}},
            "truncation": "disabled",
        }
    )
    calls = (ToolCall("f", {"a": 1}, "i", 0), ToolCall("g", {}, "j", 1))
    assert ask.turns == (
        ChatTurn("system", "Be brief."),
        ChatTurn("system", "d"),
        ChatTurn("user", "see", images=(b"ab",)),
        ChatTurn("assistant", "So", "hm", tool_calls=calls),
        ChatTurn("tool", "sun", tool_name="f", tool_call_id="i"),
        ChatTurn("tool", "moon", tool_name="g", tool_call_id="j"),
        ChatTurn("assistant", "", "ah", tool_calls=(ToolCall("f", {}, "k", 0),)),
    )
    assert ask.options == {"temperature": 0, "top_p": 1.0, "num_predict": 9}
    assert (ask.think, ask.schema, ask.truncate) == ("low", {"type": "array"}, False)
    assert ask.tools[0]["function"] == {"name": "f", "description": "", "parameters": {}}


def test_a_text_is_one_turn() -> None:
    """And ``tool_choice`` none leaves the tools out."""
    tools = [{"type": "function", "name": "f"}]
    ask = read_responses({"input": "Hi", "tools": tools, "tool_choice": "none"})
    assert (ask.turns, ask.tools, ask.think) == ((ChatTurn("user", "Hi"),), (), None)
    assert ask.options == {"temperature": 1.0, "top_p": 1.0} and ask.truncate
    assert read_responses({"input": "x", "reasoning": {"effort": "none"}}).think is False
    assert read_responses({"input": "x", "text": {"format": {"type": "text"}}}).schema is None
    assert read_responses({"input": "x", "text": {"format": {"type": "json_object"}}}).schema


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"previous_response_id": "resp_1"}, "keeps no conversations"),
        ({"conversation": {"id": "c"}}, "conversation must be absent"),
        ({"background": True}, "background must be false"),
        ({"input": []}, "input is required"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "'item_reference'"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "'input_file'"),
        ({"input": [{"role": "user", "content": 5}]}, "content must be a string"),
        ({"input": [{"type": "function_call", "arguments": "{"}]}, "not JSON"),
        ({"input": [{"type": "function_call", "arguments": "[]"}]}, "not an object"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "data URLs"),
        ({"tools": [{"type": "web_search"}]}, "OpenAI's servers"),
        ({"reasoning": {"effort": "huge"}}, "'huge' is none of none"),
        ({"text": {"format": {"type": "xml"}}}, "neither text"),
    ],
)
def test_what_openai_s_new_form_does_not_have(wrong: dict[str, Any], said: str) -> None:
    """Is refused, not left out."""
    with pytest.raises(UsageError, match=said):
        read_responses({"input": "x", **wrong})


ANYTHING: list[Any] = [None, True, 0, -1, 1.5, 10**400, "", "x", "YWI=", "none", [], [None], [5],
                       [[]], ["x"], [{}], {}, {"a": 1}, {"type": 5}, {"type": "text"},
                       {"effort": []}, {"format": 5}, {"format": {"type": []}}]  # fmt: skip
"""Values of every type that JSON has."""

TYPES = ("text", "thinking", "image", "tool_use", "tool_result", "input_text", "output_text",
         "input_image", "message", "reasoning", "function_call", "function_call_output",
         "function", "custom")  # fmt: skip
KEYS = ("type", "role", "content", "text", "thinking", "source", "input", "id", "name", "summary",
        "tool_use_id", "arguments", "call_id", "output", "image_url", "parameters",
        "input_schema", "description")  # fmt: skip


def _inside(value: Any) -> Iterator[Any]:
    """Lists with a value in each place of an object of each type."""
    yield value
    yield [value]
    for kind in TYPES:
        for key in KEYS:
            yield [{"type": kind, key: value}]
            yield [{"role": "user", "content": [{"type": kind, key: value}]}]


@pytest.mark.parametrize(
    ("body", "read", "least"),
    [
        (shapes.V1_MESSAGES, read_messages, {"max_tokens": 1}),
        (shapes.V1_RESPONSES, read_responses, {"input": "x"}),
    ],
    ids=["messages", "responses"],
)
def test_any_value_in_any_place_is_read_or_refused(
    body: shapes.Body, read: Any, least: Mapping[str, Any]
) -> None:
    """Whatever a client sends where: a request, or an error that is the client's."""
    read_ones = 0
    for name in body.fields:
        for value in ANYTHING:
            deep = name in ("messages", "input", "system", "tools")
            for given in _inside(value) if deep else (value,):
                try:
                    ask = read(shapes.check(body, {**least, name: given}))
                    settings({}, ask.options)
                    read_ones += 1
                except UsageError:
                    continue
    assert read_ones > 2 * len(body.fields)


# --- what is answered -----------------------------------------------------------------------------

PIECES = [Piece(thinking="h"), Piece(thinking="m"), Piece("a"), Piece("b"), Piece(calls=(CALL,))]


def test_blocks_of_an_answer() -> None:
    """Thoughts, text and calls are blocks of their own, each begun and ended."""
    form = MessageEvents("m")
    events = [event for piece in (*PIECES, ENDED) for event in form.chunks(piece)]
    assert [event["type"].removeprefix("content_block_") for event in events] == [
        "message_start",
        *("start", "delta", "delta", "stop"),
        *("start", "delta", "delta", "stop"),
        *("start", "delta", "stop"),
        "message_delta",
        "message_stop",
    ]
    assert [e["index"] for e in events if "index" in e] == [0] * 4 + [1] * 4 + [2] * 3
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2]["usage"] == {"input_tokens": 5, "output_tokens": 3}
    whole = MessageEvents("m").whole(PIECES, ENDED)
    assert whole["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "ab"},
        {"type": "tool_use", "id": "call_x", "name": "f", "input": {"a": 1}},
    ]
    assert (whole["stop_reason"], whole["usage"]["output_tokens"]) == ("tool_use", 3)
    assert MessageEvents("m").whole([Piece("a")], CUT)["stop_reason"] == "max_tokens"
    assert MessageEvents("m").whole([], ENDED)["stop_reason"] == "end_turn"
    assert [e["type"] for e in MessageEvents("m").chunks(ENDED)] == [
        "message_start",
        "message_delta",
        "message_stop",
    ]
    error = MessageEvents.form.encode(MessageEvents.form.error("gone"))
    name, data = error.decode().splitlines()[:2]
    assert name == "event: error"
    assert json.loads(data[6:])["error"] == {"type": "api_error", "message": "gone"}


def test_items_of_an_answer() -> None:
    """Each is added, grows and is done; the events are numbered, the last one has all of it."""
    form = ResponseEvents({"model": "m", "metadata": {"a": "b"}})
    events = [event for piece in (*PIECES, ENDED) for event in form.chunks(piece)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    names = [event["type"].removeprefix("response.") for event in events]
    assert names == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_summary_part.added",
        *["reasoning_summary_text.delta"] * 2,
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 2,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    response = events[-1]["response"]
    thought, message, call = response["output"]
    assert thought["summary"] == [{"type": "summary_text", "text": "hm"}]
    assert message["content"][0]["text"] == "ab"
    assert (call["name"], call["call_id"], call["arguments"]) == ("f", "call_x", '{"a": 1}')
    assert response["usage"]["total_tokens"] == 8 and response["metadata"] == {"a": "b"}
    assert events[0]["response"]["output"] == [] and events[0]["response"]["usage"] is None
    whole = ResponseEvents({"model": "m"}).whole([Piece("a")], CUT)
    assert (whole["status"], whole["incomplete_details"]["reason"]) == (
        "incomplete",
        "max_output_tokens",
    )
    assert whole["output"][0]["status"] == "incomplete"
    empty = ResponseEvents({"model": "m"}).whole([], ENDED)
    assert [item["content"][0]["text"] for item in empty["output"]] == [""]
    error = form.form.error("gone")
    assert (error["type"], error["sequence_number"]) == ("error", len(events))


# --- by a server ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = {
        "chat": f'TEMPLATE """{CHATML}"""\nPARAMETER stop <|im_end|>',
        "tools": f'TEMPLATE """{TOOLS}"""',
    }
    store = build_models(tmp_path_factory.mktemp("agents"), models)
    with serving_here(store.root, engine="") as running:
        yield running


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


@needs_engine
def test_a_model_answers_in_both_forms(server: Server) -> None:
    """The same words, whole and as a stream; a wish to think is no error to Anthropic's form."""
    turns = [{"role": "user", "content": WHAT}]
    body = {"model": "chat", "max_tokens": 12, "messages": turns, "temperature": 0}
    body["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    message = server.http.post("/v1/messages", json=body, timeout=100).json()
    (block,) = message["content"]
    assert "Paris" in block["text"] and message["usage"]["output_tokens"]
    events = _lines(server.http.post("/v1/messages", json={**body, "stream": True}).text)
    deltas = [e["delta"]["text"] for e in events if e["type"] == "content_block_delta"]
    assert "".join(deltas) == block["text"] and events[-1]["type"] == "message_stop"

    body = {"model": "chat", "input": WHAT, "max_output_tokens": 12, "temperature": 0}
    response = server.http.post("/v1/responses", json=body).json()
    assert response["output"][0]["content"][0]["text"] == block["text"]
    events = _lines(server.http.post("/v1/responses", json={**body, "stream": True}).text)
    deltas = [e["delta"] for e in events if e["type"] == "response.output_text.delta"]
    assert "".join(deltas) == block["text"] and events[-1]["response"]["status"] == "completed"


@needs_engine
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_a_stream_that_fails_ends_with_an_error(server: Server, path: str) -> None:
    """Of a kind that the official clients raise; the next request is answered."""
    turns = [{"role": "user", "content": "Write a very long story."}]
    body: dict[str, Any] = {"model": "chat", "input": turns, "messages": turns, "stream": True,
                            "temperature": 0}  # fmt: skip
    last, killed = "", False
    with server.http.stream("POST", path, json={**body, "max_tokens": 2000}) as answer:
        for line in answer.iter_lines():
            if "delta" in line and not killed:
                (pid,) = _engines()
                os.kill(int(pid), signal.SIGKILL)
                killed = True
            last = line or last
    error = json.loads(last.removeprefix("data: "))
    assert error["type"] == "error" and killed
    assert "while running the model" in error["error"]["message"]
    whole = {**body, "stream": False, "max_tokens": 4, "max_output_tokens": 4}
    assert server.http.post(path, json=whole, timeout=100).is_success


def _engines() -> list[str]:
    command = ["pgrep", "-P", str(os.getpid()), "-f", "mbuild.runtime.child"]
    return subprocess.run(command, capture_output=True, text=True).stdout.split()


@needs_engine
def test_errors_have_the_form_of_who_asks(server: Server) -> None:
    """Anthropic's clients find a kind and a message, OpenAI's theirs."""
    tool = {"name": "f", "input_schema": {"type": "object"}}
    turns = [{"role": "user", "content": "Hi"}]
    base = {"max_tokens": 1, "messages": turns}
    for body, status, kind in (
        ({"model": "nope"}, 404, "not_found_error"),
        ({"model": "chat", "tools": [tool]}, 400, "invalid_request_error"),
        ({"model": "chat", "messages": []}, 400, "invalid_request_error"),
        ({"model": "chat", "max_tokens": "x"}, 400, "invalid_request_error"),
    ):
        answer = server.http.post("/v1/messages", json={**base, **body})
        assert (answer.status_code, answer.json()["type"]) == (status, "error"), answer.text
        assert answer.json()["error"]["type"] == kind
    tools = [{"type": "function", **tool}]
    answer = server.http.post("/v1/responses", json={"model": "chat", "input": "x", "tools": tools})
    assert answer.status_code == 400
    assert "does not support tools" in answer.json()["error"]["message"]


def test_a_key_is_a_token_to_anthropic_s_path(tmp_path: Path) -> None:
    """Its clients send a header of their own; elsewhere that counts nothing."""
    key = {"x-api-key": "a-secret-of-some-length"}
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    policy = AccessPolicy(token=key["x-api-key"])
    with serving_here(tmp_path / "store", engine="", policy=policy) as server:
        assert server.http.post("/v1/messages", json=body).status_code == 401
        refused = server.http.post("/v1/messages", json=body, headers={"x-api-key": "other"})
        assert refused.json()["error"]["type"] == "authentication_error"
        assert server.http.post("/v1/messages", json=body, headers=key).status_code in (404, 501)
        assert server.http.post("/api/show", json={"model": "m"}, headers=key).status_code == 401
