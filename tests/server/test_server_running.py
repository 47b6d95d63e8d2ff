"""The endpoints that run models, on a real small one: Ollama's and OpenAI's."""

from __future__ import annotations

import base64
import json
import os
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live_server import Server, lines_of, serving_here
from smollm import CHATML, TOOLS, build_models

from mbuild.runtime.process import has_engine

pytestmark = pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed")

HI = [{"role": "user", "content": "Hi"}]
OWN_ROLE = '{{ range .Messages }}{{ if eq .Role "control" }}<C>{{ end }}{{ .Content }}{{ end }}'
FEW = {"num_predict": 4, "temperature": 0}
STOP = "PARAMETER stop <|im_end|>\nPARAMETER num_ctx 1024\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("running")
    models = {
        "chat": f'TEMPLATE """{CHATML}"""\nSYSTEM Be brief.\nMESSAGE user Ping\n{STOP}',
        "tools": f'TEMPLATE """{TOOLS}"""\n{STOP}',
        "own": f'TEMPLATE """{OWN_ROLE}"""\n{STOP}',
        "fill": f"TEMPLATE <P>{{{{ .Prompt }}}}<S>{{{{ .Suffix }}}}<M>\n{STOP}",
    }
    store = build_models(root, models)
    with serving_here(store.root, engine="") as running:
        yield running


def _post(server: Server, path: str, status: int = 200, **body: Any) -> dict[str, Any]:
    answer = server.http.post(path, json={"stream": False, **body})
    assert answer.status_code == status, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_chat_streams_and_ends_with_statistics(server: Server) -> None:
    """One line a token, the last with reason, counts and times; the whole is the same text."""
    body = {"model": "chat", "messages": HI, "options": FEW}
    answer = server.http.post("/api/chat", json=body)
    assert answer.headers["content-type"] == "application/x-ndjson"
    *lines, last = lines_of(answer)
    assert all(line["done"] is False and line["model"] == "chat" for line in lines)
    assert last["done"] and last["done_reason"] == "length" and last["eval_count"] == 4
    assert last["message"] == {"role": "assistant", "content": ""}
    assert last["total_duration"] > last["eval_duration"] > 0
    whole = _post(server, "/api/chat", **body)
    text = "".join(line["message"]["content"] for line in lines)
    assert whole["message"]["content"] == text
    assert whole["prompt_eval_count"] == last["prompt_eval_count"]


def test_prompts_are_the_template_s(server: Server) -> None:
    """SYSTEM, the lines of MESSAGE, then the request; its own system message takes the place."""
    shown = _post(server, "/api/chat", model="chat", messages=HI, _debug_render_only=True)
    start = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nPing\n\nHi<|im_end|>\n"
    assert shown["_debug_info"]["rendered_template"] == start + "<|im_start|>assistant\n"
    own = [{"role": "system", "content": "Sing."}, *HI]
    shown = _post(server, "/api/chat", model="chat", messages=own, _debug_render_only=True)
    assert "Sing." in str(shown) and "Be brief." not in str(shown)
    body = {"model": "chat", "prompt": "A", "system": "B", "_debug_render_only": True}
    assert "B<|im_end|>" in str(_post(server, "/api/generate", **body))
    body = {"model": "chat", "prompt": "A", "template": "[{{ .Prompt }}]"}
    shown = _post(server, "/api/generate", **body, _debug_render_only=True)
    assert shown["_debug_info"]["rendered_template"].endswith("A]")


def test_a_raw_prompt_is_continued(server: Server) -> None:
    """No template, no context in the answer; what contradicts raw is refused."""
    body = {"model": "chat", "prompt": "The capital of France is", "raw": True}
    answer = _post(server, "/api/generate", **body, options=FEW)
    assert "Paris" in answer["response"] and "context" not in answer
    refused = _post(server, "/api/generate", 400, **body, system="x")
    assert refused["error"] == "raw mode does not support template, system, or context"


def test_a_context_goes_before(server: Server) -> None:
    """The tokens of prompt and answer, which the next request can bring."""
    first = _post(server, "/api/generate", model="chat", prompt="Hi", options=FEW)
    assert all(isinstance(token, int) for token in first["context"])
    body = {"model": "chat", "prompt": "And?", "context": first["context"], "options": FEW}
    second = _post(server, "/api/generate", **body)
    assert second["prompt_eval_count"] > len(first["context"])
    assert second["context"][: len(first["context"])] == first["context"]


def test_filling_in_needs_a_template_for_it(server: Server) -> None:
    """The template has .Suffix, or the request is refused."""
    body = {"model": "fill", "prompt": "a", "suffix": "b", "_debug_render_only": True}
    shown = _post(server, "/api/generate", **body)
    assert shown["_debug_info"]["rendered_template"] == "<P>a<S>b<M>"
    refused = _post(server, "/api/generate", 400, model="chat", prompt="a", suffix="b")
    assert refused["error"].endswith("does not support insert")


def test_the_same_seed_gives_the_same_text(server: Server) -> None:
    """Again and again; another seed another one."""
    options = {"num_predict": 12, "temperature": 1.5, "seed": 7}
    body = {"model": "chat", "prompt": "Tell me a story", "options": options}
    first, again = (_post(server, "/api/generate", **body)["response"] for _ in range(2))
    body["options"] = {**options, "seed": 8}
    assert first == again != _post(server, "/api/generate", **body)["response"]


SCHEMAS: list[dict[str, Any]] = [
    {"type": "object", "properties": {"a": {"type": "integer", "maximum": 99}}, "required": ["a"]},
    {"type": "object", "properties": {"n": {"type": "string", "maxLength": 8}}, "required": ["n"]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 2},
    {"enum": ["red", "green"]},
    {"const": 42},
    {"type": "boolean"},
    {"type": "null"},
    {"type": "string", "maxLength": 5},
    {"type": "string", "pattern": "^[a-c]{3}$"},
    {"type": "integer", "minimum": 1, "maximum": 3},
    {"type": "number", "minimum": 0, "maximum": 1, "multipleOf": 0.5},
    {"anyOf": [{"const": "x"}, {"const": "y"}]},
    {"oneOf": [{"type": "boolean"}, {"type": "null"}]},
    {"type": "array", "prefixItems": [{"const": 1}, {"const": "b"}], "items": False},
    {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3},
    {"type": "object", "properties": {}, "additionalProperties": False},
    {"type": "object", "properties": {"d": {"type": "string", "format": "date"}},
     "required": ["d"], "additionalProperties": False},
    {"$defs": {"c": {"enum": ["a", "b"]}}, "type": "object",
     "properties": {"c": {"$ref": "#/$defs/c"}}, "required": ["c"], "additionalProperties": False},
    {"type": ["integer", "null"], "maximum": 9, "minimum": 0},
    {"allOf": [{"type": "integer", "minimum": 2}, {"type": "integer", "maximum": 4}]},
    {"type": "object", "properties": {"below": {"type": "array", "items": {"$ref": "#"},
     "maxItems": 1}, "n": {"const": 1}}, "required": ["n"], "additionalProperties": False},
    {"enum": [1, "two", None, True, 3.5, [1, 2], {"k": "v"}]},
    {"type": "array", "items": {"type": "array", "items": {"enum": [0, 1]}, "minItems": 1,
     "maxItems": 2}, "minItems": 2, "maxItems": 2},
    {"type": "object", "properties": {"größe": {"type": "boolean"}, "名": {"enum": ["太郎"]}},
     "required": ["größe", "名"], "additionalProperties": False},
    {"type": "object", "patternProperties": {"^[ab]$": {"enum": [1, 2]}}, "minProperties": 1,
     "additionalProperties": False},
    {"oneOf": [{"type": "object", "properties": {"k": {"const": "a"}, "v": {"enum": [1]}},
     "required": ["k", "v"], "additionalProperties": False}, {"type": "object", "properties":
     {"k": {"const": "b"}}, "required": ["k"], "additionalProperties": False}]},
    {},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_an_answer_follows_its_schema(server: Server, schema: dict[str, Any]) -> None:
    """It parses, and a validator agrees."""
    import jsonschema

    body = {"model": "chat", "messages": HI, "format": schema}
    answer = _post(server, "/api/chat", **body, options={"num_predict": 48, "temperature": 0})
    jsonschema.validate(json.loads(answer["message"]["content"]), schema)


def test_a_schema_that_only_the_engine_refuses_is_an_error(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would answer with any text: its compiler may know less than the one that checks here."""
    monkeypatch.setattr("mbuild.runtime.schema._problem", lambda schema: "")
    body = {"model": "chat", "messages": HI, "options": FEW}
    # The engine says so in its log, which a thread of its own writes, perhaps after the answer.
    for count in (1, 2, 20):
        for stream in (False, True):
            asked = {**body, "stream": stream, "options": {**FEW, "num_predict": count}}
            refused = _post(server, "/api/chat", 400, **asked, format={"type": "colour"})
            assert "cannot follow this schema" in refused["error"]
    assert _post(server, "/api/chat", **body, format={"type": "boolean"})["done"]


def test_odd_options_mean_what_ollama_says(server: Server) -> None:
    """Every context for the repetitions, the smallest batch, no stop, the whole prompt kept."""
    odd = [{"repeat_last_n": -1}, {"num_batch": 0}, {"stop": [""]}, {"num_keep": -1},
           {"num_thread": 10**6, "num_predict": 1}, {"seed": 2**40}]  # fmt: skip
    for options in odd:
        body = {"model": "chat", "prompt": "word " * 150, "options": {**FEW, "num_ctx": 128}}
        body["options"] |= options
        answer = _post(server, "/api/generate", **body)
        assert 0 < answer["eval_count"] <= body["options"]["num_predict"]
        assert answer["prompt_eval_count"] < 128
    _post(server, "/api/generate", model="chat", keep_alive=0)
    assert _engines() == []


def test_biased_tokens_do_not_come(server: Server) -> None:
    """OpenAI's logit_bias: what would have come first does not."""
    options = {**FEW, "num_predict": 1}
    first = _post(server, "/api/generate", model="chat", prompt="Hi", options=options)
    body = {"model": "chat", "messages": HI, "temperature": 0, "max_tokens": 1}
    texts = []
    for bias in ({}, {str(first["context"][-1]): -100}):
        answer = _post(server, "/v1/chat/completions", **body, logit_bias=bias)
        texts.append(answer["choices"][0]["message"]["content"])
    assert texts[0] == first["response"] != texts[1]
    del body["messages"]
    texts = []
    for bias in ({}, {str(first["context"][-1]): -100}):
        answer = _post(server, "/v1/completions", **body, prompt="Hi", logit_bias=bias)
        texts.append(answer["choices"][0]["text"])
    assert texts[0] == first["response"] != texts[1]


def test_wrong_requests_are_said(server: Server) -> None:
    """Statuses and words of Ollama's, or better ones."""
    rows = [
        ("/api/chat", 404, {"model": "nope", "messages": HI}, "model 'nope' not found"),
        ("/api/generate", 404, {"model": "nope", "prompt": "x"}, "model 'nope' not found"),
        ("/api/embed", 404, {"model": "nope", "input": "x"}, "try pulling it first"),
        ("/api/chat", 400, {"messages": HI}, "model is required"),
        ("/api/chat", 400, {"model": "chat", "messages": HI, "format": "xml"}, "invalid format"),
        ("/api/chat", 400, {"model": "chat", "messages": HI, "options": {"top_k": "x"}}, "top_k"),
        ("/api/chat", 400, {"model": "chat", "messages": HI, "think": True}, "support thinking"),
        ("/api/chat", 400, {"model": "chat", "messages": HI, "top_logprobs": 21}, "between 0"),
        ("/api/chat", 400, {"model": "chat", "messages": HI, "keep_alive": "x"}, "duration"),
        ("/api/chat", 400, {"model": "chat", "messages": HI, "tools": [{"type": "x"}]}, "tools"),
        ("/api/chat", 400, {"model": "chat", "messages": [{**HI[0], "images": ["AA=="]}]},
         "support vision"),
        ("/api/chat", 400, {"model": "chat", "messages": [{**HI[0], "images": ["*"]}]}, "base64"),
        ("/api/embed", 400, {"model": "chat", "input": [1]}, "invalid input type"),
        ("/api/embed", 400, {"model": "chat", "input": True}, "invalid input type"),
        ("/v1/embeddings", 400, {"model": "chat", "input": {"a": "b"}}, "input must be"),
        ("/v1/embeddings", 400, {"model": "chat", "input": ["a", ""]}, "input 2 of 2 is empty"),
        ("/api/generate", 400, {"model": "chat", "prompt": "x", "options": {"repeat_penalty": 0}},
         "repeat_penalty"),
        ("/v1/chat/completions", 400, {"model": "chat", "messages": []}, "messages is required"),
        ("/v1/completions", 400, {"model": "chat", "prompt": 7}, "prompt must be"),
        ("/api/generate", 404, {"prompt": "x"}, "model '' not found"),
        ("/api/generate", 400, {"model": "chat", "prompt": "x", "context": [10**9]}, "context"),
        ("/api/chat", 400, {"model": "chat", "messages": HI, "format": []}, "invalid format"),
        ("/api/chat", 400, {"model": "chat", "messages": HI, "format": {"pattern": "(?=a)"}},
         "look-around"),
        ("/v1/chat/completions", 400, {"model": "chat", "messages": HI, "n": 2}, "n must be 1"),
        ("/v1/completions", 400, {"model": "chat", "prompt": "x", "echo": True}, "echo must be"),
        ("/v1/completions", 400, {"model": "chat", "prompt": "x", "best_of": 2}, "best_of must be"),
        ("/v1/completions", 400, {"model": "chat", "prompt": "x", "best_of": "2"}, "best_of"),
        ("/v1/completions", 400, {"model": "chat", "prompt": "x", "logit_bias": {"1": 101}},
         "logit_bias"),
        ("/v1/embeddings", 400, {"model": "chat", "input": "x", "encoding_format": "hex"},
         "'hex' is neither float nor base64"),
        ("/v1/chat/completions", 400, {"model": "chat", "messages": HI, "logit_bias": {"a": 1}},
         "logit_bias"),
        ("/v1/chat/completions", 400, {"model": "chat", "messages": HI, "logprobs": True,
         "top_logprobs": 21}, "between 0 and 20"),
    ]  # fmt: skip
    for path, status, body, words in rows:
        assert words in json.dumps(_post(server, path, status, **body)), (path, body)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_no_message_is_left_out_for_its_role(server: Server, path: str) -> None:
    """Most templates would: the number, the role and those that there are; else all is well."""
    for message, said in (
        ({"role": "Robot", "content": "x"}, "the unknown role 'robot'"),
        ({"role": "", "content": "x"}, "no role"),
        ({"content": "x"}, "no role"),
        ({"role": "developers", "content": "x"}, "the unknown role 'developers'"),
    ):
        messages = [*HI, message]
        text = json.dumps(_post(server, path, 400, model="fill", messages=messages))
        assert f"message 2 has {said}; the roles are system, user, assistant, tool" in text
    messages = [{"role": "System", "content": "x"}, *HI]
    _post(server, path, model="chat", messages=messages, options=FEW)
    own = [{"role": "control", "content": "x"}, *HI]
    _post(server, path, model="own", messages=own, options=FEW)
    _post(server, path, 400, model="fill", messages=own)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_what_a_tool_answered_is_refused_by_a_model_without_tools(
    server: Server, path: str
) -> None:
    """Its template would leave it out; one that writes any role takes it."""
    answered = {"role": "tool", "content": "sunny", "tool_name": "f", "tool_call_id": "1"}
    refused = json.dumps(_post(server, path, 400, model="fill", messages=[answered]))
    assert "message 1 has the role 'tool', and the model's template leaves out what" in refused
    _post(server, path, model="chat", messages=[answered], max_tokens=1, options=FEW)


def test_a_template_that_writes_roles_takes_any(server: Server) -> None:
    """As ChatML's does; a message without one is none."""
    own = [{"role": "ipython", "content": "x"}, *HI]
    shown = _post(server, "/api/chat", model="chat", messages=own, _debug_render_only=True)
    assert "<|im_start|>ipython\nx<|im_end|>" in shown["_debug_info"]["rendered_template"]
    _post(server, "/v1/chat/completions", model="chat", messages=own, max_tokens=1)
    _post(server, "/api/chat", 400, model="chat", messages=[{"content": "x"}, *HI])


def test_openai_s_developer_is_system(server: Server) -> None:
    """At /v1 alone, for only OpenAI has that role."""
    messages = [{"role": "developer", "content": "x"}, *HI]
    _post(server, "/v1/chat/completions", model="chat", messages=messages, max_tokens=1)
    refused = _post(server, "/api/chat", 400, model="fill", messages=messages)
    assert "'developer'" in refused["error"]


def test_probabilities_come_with_tokens(server: Server) -> None:
    """As many alternatives as asked, the text of all tokens is the answer."""
    body = {"model": "chat", "messages": HI, "options": FEW, "logprobs": True, "top_logprobs": 3}
    answer = _post(server, "/api/chat", **body)
    rows = answer["logprobs"]
    assert "".join(row["token"] for row in rows).startswith(answer["message"]["content"][:3])
    assert all(len(row["top_logprobs"]) == 3 and row["logprob"] <= 0 for row in rows)


def test_a_long_conversation_loses_its_first_turns(server: Server) -> None:
    """Until it fits; where it may not, the request is refused."""
    turns = [{"role": "user" if n % 2 == 0 else "assistant", "content": f"{n} " * 20}
             for n in range(15)]  # fmt: skip
    options = {**FEW, "num_ctx": 128}
    loaded = {"model": "chat", "options": options}
    answer = _post(server, "/api/chat", **loaded, messages=turns)
    assert 0 < answer["prompt_eval_count"] < 128
    body = {**loaded, "messages": turns, "truncate": False}
    assert "context length" in _post(server, "/api/chat", 400, **body)["error"]
    body = {**loaded, "prompt": "word " * 300}
    cut = _post(server, "/api/generate", **body)
    assert cut["prompt_eval_count"] < 128 < 300 < cut["prompt_given_count"]
    assert "context length" in _post(server, "/api/generate", 400, **body, shift=False)["error"]
    _post(server, "/api/generate", model="chat", keep_alive=0)
    assert _engines() == []


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def _rounds() -> list[dict[str, Any]]:
    """Three questions that were answered by a call, and a fourth."""
    turns: list[dict[str, Any]] = []
    for city in ("Oslo", "Rome", "Lima"):
        call = {"function": {"name": "get_weather", "arguments": {"city": city}}}
        turns += [
            {"role": "user", "content": f"Weather in {city}?"},
            {"role": "assistant", "thinking": f"{city} it is.", "tool_calls": [call]},
            {"role": "tool", "content": "sunny", "tool_name": "get_weather"},
            {"role": "assistant", "thinking": "Sunny.", "content": f"It is sunny in {city}."},
        ]
    return [*turns, {"role": "user", "content": "Weather in Bern?"}]


def test_a_model_calls_a_tool_and_thinks(server: Server) -> None:
    """Shown three times how, it does: the call and the thought are taken out of its text."""
    body = {"model": "tools", "messages": _rounds(), "tools": [TOOL], "think": True}
    answer = _post(server, "/api/chat", **body, options={"num_predict": 80, "temperature": 0})
    message = answer["message"]
    assert message["thinking"] and "<think>" not in str(message)
    (call,) = message["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert call["function"]["arguments"] == {"city": "Bern"}
    assert call["id"].startswith("call_") and "<tool_call>" not in message["content"]


def test_a_thought_may_come_before_a_schema(server: Server) -> None:
    """The model thinks freely, then the answer follows the schema."""
    schema = {"type": "object", "properties": {"sunny": {"type": "boolean"}},
              "required": ["sunny"], "additionalProperties": False}  # fmt: skip
    body = {"model": "tools", "messages": _rounds(), "think": True, "format": schema}
    answer = _post(server, "/api/chat", **body, options={"num_predict": 60, "temperature": 0})
    assert answer["message"]["thinking"]
    assert isinstance(json.loads(answer["message"]["content"])["sunny"], bool)


def test_embeddings_have_length_one(server: Server) -> None:
    """One a text, alike for like texts; nothing for nothing; cut and of length one again."""
    body = {"model": "chat", "input": ["A cat sits.", "A cat is sitting.", "Tax law of 1934"]}
    one, two, three = _post(server, "/api/embed", **body)["embeddings"]

    def alike(a: list[float], b: list[float]) -> float:
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert alike(one, one) == pytest.approx(1, abs=1e-5)
    assert alike(one, two) > alike(one, three)
    short = _post(server, "/api/embed", model="chat", input="A cat sits.", dimensions=8)
    assert alike(*short["embeddings"] * 2) == pytest.approx(1) and len(short["embeddings"][0]) == 8
    for nothing in ("", []):
        assert _post(server, "/api/embed", model="chat", input=nothing)["embeddings"] == []
    for texts, said in (([""], "input 1 of 1 is empty"), (["a", ""], "input 2 of 2 is empty")):
        refused = _post(server, "/api/embed", 400, model="chat", input=texts)
        assert refused["error"] == said  # a vector for each text, or none for any
    old = _post(server, "/api/embeddings", model="chat", prompt="A cat sits.")["embedding"]
    assert alike(old, one) == pytest.approx(1, abs=1e-3)
    long = {"model": "chat", "input": "word " * 300, "options": {"num_ctx": 128}}
    assert len(_post(server, "/api/embed", **long)["embeddings"]) == 1
    assert _post(server, "/api/embed", **long)["prompt_eval_count"] == 127
    refused = _post(server, "/api/embed", 400, **long, truncate=False, keep_alive=0)
    assert "exceeds the context length" in refused["error"]


def test_openai_s_forms(server: Server) -> None:
    """Chat, completion and embeddings, whole and as events."""
    body = {"model": "chat", "messages": HI, "max_tokens": 3, "temperature": 0}
    whole = _post(server, "/v1/chat/completions", **body)
    assert whole["object"] == "chat.completion" and whole["usage"]["completion_tokens"] == 3
    assert whole["choices"][0]["finish_reason"] == "length"
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    answer = server.http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert events.pop() == "[DONE]"
    found = [json.loads(event) for event in events]
    assert found[-1]["usage"] == whole["usage"] and found[-1]["choices"] == []
    deltas = [row["choices"][0]["delta"].get("content", "") for row in found[:-1]]
    assert "".join(deltas) == whole["choices"][0]["message"]["content"]
    done = _post(server, "/v1/completions", model="chat", prompt="Hi", max_tokens=2)
    assert done["object"] == "text_completion" and done["usage"]["completion_tokens"] == 2
    body = {"model": "chat", "messages": HI, "response_format": {"type": "json_object"}}
    text = _post(server, "/v1/chat/completions", **body, max_tokens=3)["choices"][0]
    assert text["message"]["content"].startswith("{")
    body = {"model": "chat", "input": ["a", "b"]}
    floats = [row["embedding"] for row in _post(server, "/v1/embeddings", **body)["data"]]
    rows = _post(server, "/v1/embeddings", **body, encoding_format="base64")["data"]
    packed = base64.b64decode(rows[1]["embedding"])
    assert struct.unpack(f"<{len(floats[1])}f", packed) == pytest.approx(floats[1], abs=1e-4)


def test_editing_a_prompt_loads_nothing_again(server: Server) -> None:
    """Models of the same weights share an engine; ps shows it, and until when it stays."""
    server.http.post("/api/generate", json={"model": "chat", "prompt": "", "stream": False})
    before = _engines()
    for model in ("tools", "fill", "chat"):
        body = {"model": model, "prompt": "x", "options": FEW, "keep_alive": "10m"}
        assert _post(server, "/api/generate", **body)["load_duration"] < 500_000_000
    assert _engines() == before
    (row,) = server.http.get("/api/ps").json()["models"]
    assert row["model"] == "chat:latest" and row["context_length"] == 1024
    assert row["expires_at"] > "2026" and row["details"]["family"] == "llama"


def _engines() -> list[str]:
    found = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "mbuild.runtime.child"],
        capture_output=True,
        text=True,
    )
    return found.stdout.split()


def test_models_are_loaded_and_unloaded(server: Server) -> None:
    """By an empty prompt, for chat and generate alike; unloading ends the process."""
    for path in ("/api/generate", "/api/chat"):
        assert _post(server, path, model="chat")["done_reason"] == "load"
        assert len(_engines()) == 1
        assert _post(server, path, model="chat", keep_alive=0)["done_reason"] == "unload"
        assert _engines() == [] and server.http.get("/api/ps").json() == {"models": []}


def test_a_client_that_leaves_stops_the_answer(server: Server) -> None:
    """The engine is free for the next one within a moment."""
    body = {"model": "chat", "prompt": "Count to a million", "options": {"num_predict": 5000}}
    with server.http.stream("POST", "/api/generate", json=body) as answer:
        next(answer.iter_lines())
    asked = {"model": "chat", "prompt": "x", "options": {"num_predict": 1}}
    assert _post(server, "/api/generate", **asked)["done"]


def test_a_killed_engine_is_one_line_and_the_next_request_works(server: Server) -> None:
    """In the middle of a stream: an error line, then another engine."""
    body = {"model": "chat", "prompt": "Count to a million", "options": {"num_predict": 5000}}
    with server.http.stream("POST", "/api/generate", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        (pid,) = _engines()
        os.kill(int(pid), signal.SIGKILL)
        *_, last = lines
    assert "an error was encountered while running the model" in json.loads(last)["error"]
    asked = {"model": "chat", "prompt": "x", "options": {"num_predict": 1}}
    assert _post(server, "/api/generate", **asked)["done"]


def test_eight_clients_and_two_models(server: Server) -> None:
    """Requests take turns; every one is answered."""
    wrong: list[str] = []

    def ask(number: int) -> None:
        options = {"num_predict": 1, "num_ctx": 512 if number % 2 else 1024}
        for _ in range(3):
            body = {"model": "chat", "prompt": f"{number}", "options": options, "stream": False}
            answer = server.http.post("/api/generate", json=body)
            if answer.status_code != 200 or not answer.json()["done"]:
                wrong.append(answer.text)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(_engines()) == 2


def test_a_removed_model_is_not_loaded_any_more(server: Server) -> None:
    """It would keep its memory, and nobody could name it; one that answers ends with that."""
    _post(server, "/api/generate", model="chat", keep_alive=0)
    server.http.post("/api/copy", json={"source": "chat", "destination": "gone"})
    assert _post(server, "/api/generate", model="gone", keep_alive=-1)["done_reason"] == "load"
    assert server.http.request("DELETE", "/api/delete", json={"model": "gone"}).status_code == 200
    assert _engines() == [] and server.http.get("/api/ps").json() == {"models": []}
    server.http.post("/api/copy", json={"source": "chat", "destination": "gone"})
    body = {"model": "gone", "prompt": "Count to a million", "options": {"num_predict": 100}}
    with server.http.stream("POST", "/api/generate", json=body) as answer:
        lines = answer.iter_lines()
        next(lines)
        (before,) = server.http.get("/api/ps").json()["models"]
        server.http.request("DELETE", "/api/delete", json={"model": "gone"})
        (row,) = server.http.get("/api/ps").json()["models"]
        same = ("name", "digest", "details", "size")
        assert {key: row[key] for key in same} == {key: before[key] for key in same}
        *_, last = lines
    assert json.loads(last)["done"]
    while _engines():
        time.sleep(0.05)
    assert _post(server, "/api/generate", 404, model="gone", keep_alive=0)["error"]


def test_the_model_of_a_removed_name_goes_on(server: Server, tmp_path: Path) -> None:
    """Under another name: what they share is still there when one of them is removed."""
    server.http.post("/api/copy", json={"source": "chat", "destination": "gone"})
    asked = {"model": "gone", "prompt": "x", "options": {"num_predict": 1}}
    assert _post(server, "/api/generate", **asked)["done"]
    assert server.http.request("DELETE", "/api/delete", json={"model": "gone"}).status_code == 200
    assert _post(server, "/api/generate", 404, **asked)["error"] == "model 'gone' not found"
    assert _post(server, "/api/generate", **{**asked, "model": "chat"})["done"]
