"""Schemas of answers where llama.cpp makes the prompts, by the template in a model's weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from live_server import Server, lines_of, serving_here
from smollm import build_models, with_template

from mbuild.runtime.client import Client
from mbuild.runtime.process import has_engine

pytestmark = pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed")

TOOLS = """{%- if tools %}<|im_start|>system
Functions: {{ tools | tojson }}
Call one with <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}"""
CALLS = """{%- for call in message.tool_calls or [] %}
<tool_call>{{ {"name": call.function.name, "arguments": call.function.arguments} | tojson }}
</tool_call>{% endfor %}"""
THOUGHTS = """{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}"""
TURNS = """{%- for message in messages %}<|im_start|>{{ message.role }}
THOUGHTS{{ message.content }}CALLS<|im_end|>
{% endfor %}"""
START = "{%- if add_generation_prompt %}<|im_start|>assistant\n"
OFF = "{% if enable_thinking is defined and not enable_thinking %}"
TEMPLATES = {
    "calls": TOOLS + TURNS.replace("THOUGHTS", "") + START + "{% endif %}",
    "thinks": TOOLS + TURNS + START + f"{OFF}<think>\n\n</think>\n\n{{% endif %}}{{% endif %}}",
    "always": TOOLS + TURNS + START + "<think>\n{% endif %}",
}
"""Tools alone; thoughts that can be turned off; a prompt that begins with a thought."""

SCHEMAS: list[dict[str, Any]] = [
    {"type": "number", "minimum": 1.5, "maximum": 2.5},
    {"type": "integer", "multipleOf": 7, "minimum": 100, "maximum": 200},
    {"type": "string", "pattern": r"^\d\w$"},
    {"type": "object", "patternProperties": {"^[ab]$": {"enum": [1, 2]}}, "minProperties": 1,
     "maxProperties": 1, "additionalProperties": False},
    {"type": "object", "properties": {"n": {"type": "number", "maximum": 3, "minimum": 1},
     "ok": {"type": "boolean"}}, "required": ["n", "ok"], "additionalProperties": False},
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("native")
    models = {}
    for name, template in TEMPLATES.items():
        text = template.replace("CALLS", CALLS).replace("THOUGHTS", THOUGHTS)
        file = with_template(root / f"{name}.gguf", text)
        models[name] = f"FROM {file}\nPARAMETER num_ctx 1024"
    build_models(root, models)
    with serving_here(root / "store", engine="") as running:
        yield running


def _asked(model: str, schema: Any, think: bool, **more: Any) -> dict[str, Any]:
    message = {"role": "user", "content": "How many moons has Mars?"}
    options = {"temperature": 0, "num_predict": 64}
    can = {} if model == "calls" else {"think": think}
    body = {"model": model, "messages": [message], "format": schema, "options": options}
    return {**body, **can, **more}


@pytest.mark.parametrize("model", TEMPLATES)
@pytest.mark.parametrize("schema", SCHEMAS, ids=range(len(SCHEMAS)))
def test_an_answer_follows_its_schema(server: Server, model: str, schema: dict[str, Any]) -> None:
    """llama.cpp's own grammars leave such bounds out; none of these may."""
    answer = server.http.post("/api/chat", json=_asked(model, schema, False, stream=False))
    assert answer.status_code == 200, answer.text
    message = answer.json()["message"]
    jsonschema.validate(json.loads(message["content"]), schema)
    assert not message.get("thinking")


@pytest.mark.parametrize("model", ["thinks", "always"])
def test_thoughts_come_before_the_answer(server: Server, model: str) -> None:
    """In lines of their own; a model that thinks until its budget ends has no answer left."""
    asked = _asked(model, {"enum": [1, 2]}, True)
    *lines, last = lines_of(server.http.post("/api/chat", json=asked))
    text = "".join(line["message"]["content"] for line in lines)
    thoughts = "".join(line["message"].get("thinking", "") for line in lines)
    assert bool(thoughts) is (model == "always") and last["eval_count"]
    if last["done_reason"] == "length":
        assert thoughts and not text
    else:
        assert json.loads(text) in (1, 2)


def test_the_prompt_ends_where_the_answer_begins(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the thoughts, with the template's own ends of them."""
    sent: list[str] = []
    ask = Client.post

    async def post(self: Client, path: str, body: Any) -> Any:
        if path == "/completion":
            sent.append(body["prompt"])
        return await ask(self, path, body)

    monkeypatch.setattr(Client, "post", post)
    for model, end in (
        ("calls", "<|im_start|>assistant\n"),
        ("thinks", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
    ):
        server.http.post("/api/chat", json=_asked(model, SCHEMAS[0], False, stream=False))
        assert sent[-1].endswith(end)
        assert sent[-1].startswith("<|im_start|>user\nHow many moons has Mars?<|im_end|>\n")


def test_with_tools_an_answer_is_checked_at_its_end(server: Server) -> None:
    """The model may call one instead; what is no call follows the schema, or is an error."""
    function = {"name": "moons", "parameters": {"type": "object", "properties": {}}}
    tools = [{"type": "function", "function": function}]
    seen = set()
    for schema in SCHEMAS:
        body = _asked("calls", schema, False, stream=False, tools=tools)
        answer = server.http.post("/api/chat", json=body)
        if answer.status_code == 500:
            assert "does not follow the schema in format" in answer.json()["error"]
            assert "leave tools out" in answer.json()["error"]
        else:
            message = answer.json()["message"]
            if not message.get("tool_calls") and answer.json()["done_reason"] == "stop":
                jsonschema.validate(json.loads(message["content"]), schema)
        seen.add(answer.status_code)
    assert seen <= {200, 500} and 500 in seen
