"""Prompts that the engine makes, by the template in a model's weights: what must not be lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from live_server import Server, serving_here
from smollm import build_models, with_template

from mbuild.runtime import native
from mbuild.runtime.process import has_engine

pytestmark = pytest.mark.skipif(not has_engine(), reason="xllamacpp is not installed")

TURNS = """{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls or [] %}
{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}
{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
TOOLS = """{% if tools %}<|im_start|>system
Given the following functions, please respond with a JSON for a function call with its proper
arguments that best answers the given prompt. Respond in the format
{"name": function name, "parameters": dictionary of argument name and its value}.

{{ tools | tojson }}<|im_end|>
{% endif %}"""
TEMPLATES = {
    "calls": TOOLS + TURNS,
    "forgets": "{# of tools it has the word alone #}" + TURNS,
    "first": "{% if messages[0].role == 'system' %}S: {{ messages[0].content }}\n{% endif %}"
    "{% for m in messages if m.role != 'system' %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    "levels": "{% set e = reasoning_effort | default('none') %}"
    "{% if e not in ['none', 'low'] %}{{ raise_exception('no effort ' + e) }}{% endif %}"
    "{{ e }} {{ enable_thinking }} {{ thinking }}\n" + TURNS,
}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "description": "d", "parameters": {"type": "object"}},
}
HI = [{"role": "user", "content": "Hello."}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("native")
    files = {name: with_template(root / f"{name}.gguf", t) for name, t in TEMPLATES.items()}
    # A TEMPLATE would be found for some of these, and what it does less than them is nothing.
    store = build_models(root, {name: f"FROM {path}" for name, path in files.items()})
    with serving_here(store.root, engine="") as running:
        yield running


def _chat(server: Server, model: str, **more: Any) -> Any:
    body = {"model": model, "messages": HI, "stream": False, **more}
    body["options"] = {
        "num_predict": 4,
        "num_ctx": 1024,
        "temperature": 0,
        **more.get("options", {}),
    }
    return server.http.post("/api/chat", json=body, timeout=100)


def _prompt(server: Server, model: str, **more: Any) -> str:
    answer = _chat(server, model, _debug_render_only=True, **more)
    assert answer.is_success, answer.text
    return str(answer.json()["_debug_info"]["rendered_template"])


def test_the_prompt_is_the_engine_s(server: Server) -> None:
    """What would be sent is shown, tools and all."""
    assert _prompt(server, "calls") == "<|im_start|>user\nHello.<|im_end|>\n<|im_start|>assistant\n"
    assert "get_weather" in _prompt(server, "calls", tools=[TOOL])
    assert _chat(server, "calls", tools=[TOOL]).is_success


def test_tools_that_a_template_leaves_out_are_refused(server: Server) -> None:
    """It has the word, so Ollama says that it can; a tool that is tried shows that it cannot."""
    assert (
        "tools" in server.http.post("/api/show", json={"model": "forgets"}).json()["capabilities"]
    )
    answer = _chat(server, "forgets", tools=[TOOL])
    assert answer.status_code == 400
    assert "leaves tools out of the prompt (ask without tools" in answer.json()["error"]
    assert _chat(server, "forgets").is_success
    assert set(native._WRITES_TOOLS.values()) == {True, False}


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        ({}, "tool 1 is no function with a name"),
        ({"type": "web_search"}, "tool 1 is no function with a name"),
        ({"function": {"name": 5}}, "tool 1 is no function with a name"),
        ({"function": {"name": "f", "parameters": 5}}, "parameters of tool 1 must be an object"),
        ({"function": {"name": "f", "description": 5}}, "description of tool 1 must be a string"),
    ],
)
def test_what_is_no_tool(server: Server, tool: dict[str, Any], said: str) -> None:
    """Is the client's error, whoever makes the prompt."""
    answer = _chat(server, "calls", tools=[tool])
    assert answer.status_code == 400 and said in answer.json()["error"], answer.text


def test_no_system_message_is_lost(server: Server) -> None:
    """Several in a row are one for the template, which may have room for no more."""
    turns = [{"role": "system", "content": text} for text in ("One.", "Two.")]
    assert _prompt(server, "first", messages=[*turns, *HI]) == "S: One.\n\nTwo.\nuser: Hello.\n"


def test_a_level_of_thinking_is_said_only_if_it_was_asked_for(server: Server) -> None:
    """Templates differ in the words that they know; what one refuses is the client's error."""
    assert _prompt(server, "levels").startswith("none True True")
    assert _prompt(server, "levels", think=True).startswith("none True True")
    assert _prompt(server, "levels", think=False).startswith("none False False")
    assert _prompt(server, "levels", think="low").startswith("low True True")
    for answer in (_chat(server, "levels", think="high"), _chat(server, "levels", think="max")):
        assert answer.status_code == 400
        said = answer.json()["error"]
        assert said.startswith(
            "the template in the model's weights refuses this request: no effort"
        )


def test_what_only_begins_like_a_call_is_text(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine keeps it back and then finds no call in it: nothing of the answer is lost."""
    again: list[str] = []

    class Noting(native.NativeAsking):
        def _rest(self, sent: Any, written: str, images: Any) -> Any:
            again.append(written)
            return super()._rest(sent, written, images)

    monkeypatch.setattr("mbuild.runtime.runner.NativeAsking", Noting)
    turns = [{"role": "user", "content": "Write a JSON object that describes a cat."}]
    answer = _chat(server, "calls", messages=turns, tools=[TOOL], options={"num_predict": 24})
    assert answer.is_success, answer.text
    found = answer.json()
    assert again == [""]  # the text began like a call
    assert found["message"]["content"].startswith("{") and "tool_calls" not in found["message"]
    assert (found["done_reason"], found["eval_count"]) == ("length", 24)
