"""Prompts and the conversations that they are made of."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from smollm import CHATML, TOOLS, build_models

from mbuild.core.errors import NameNotFoundError, UsageError
from mbuild.core.names import ModelName
from mbuild.core.values import replace
from mbuild.runtime.asked import Ask, ChatTurn
from mbuild.runtime.failure import CannotError
from mbuild.runtime.options import settings
from mbuild.runtime.pool import Pool
from mbuild.runtime.prompt import (
    PromptMaker,
    check_roles,
    conversation,
    native_messages,
    tool_list,
    without,
)
from mbuild.runtime.runnable import Runnable, doubt_of, facts_of, read_model
from mbuild.runtime.runner import Runner
from mbuild.store import Store
from mbuild.store.media import DRAFT
from mbuild.templates.conversation import ToolCall

HI = ChatTurn("user", "Hi")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    models = {
        "chat": f'TEMPLATE """{CHATML}"""\nSYSTEM Be brief.\nMESSAGE user Ping',
        "tools": f'TEMPLATE """{TOOLS}"""',
        "ollamas": "RENDERER qwen3-coder",
        "parsed": "TEMPLATE {{ .Prompt }}\nRENDERER x\nPARSER harmony",
    }
    return build_models(tmp_path_factory.mktemp("prompts"), models)


def _model(store: Store, name: str, **facts: Any) -> Runnable:
    """A model of the store, perhaps with other facts of its weights."""
    found = read_model(store, ModelName.parse(name), {})
    return Runnable(found.contents, found._files, replace(found.facts, **facts))


def test_a_header_says_what_running_needs(store: Store) -> None:
    """SmolLM2's own numbers: 30 layers with 3 key/value heads of 64."""
    facts = _model(store, "chat").facts
    assert (facts.architecture, facts.context_length, facts.pooled) == ("llama", 8192, False)
    assert facts.splits
    assert facts.first_token == ""  # there is one, and this vocabulary does not add it
    assert facts.bytes_per_token == 30 * 3 * (64 + 64) * 2
    assert "im_start" in facts.chat_template


@pytest.mark.parametrize(
    ("more", "first"),
    [
        ({"tokenizer.ggml.add_bos_token": True}, "<s>"),
        ({"tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.model": "llama"}, ""),
        ({"tokenizer.ggml.model": "llama"}, "<s>"),
        ({"tokenizer.ggml.model": "gpt2"}, ""),
        ({"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.bos_token_id": 7}, ""),
    ],
)
def test_the_first_token_is_the_vocabulary_s(more: dict[str, Any], first: str) -> None:
    """Where it adds one: as it says, else as llama.cpp does by the kind of tokenizer."""
    header = {"tokenizer.ggml.tokens": [b"<s>", b"a"], "tokenizer.ggml.bos_token_id": 0, **more}
    assert facts_of(header).first_token == first  # type: ignore[arg-type]  # its get is enough


def test_a_header_is_read_once_a_file(store: Store) -> None:
    """Models of the same weights share what their header says."""
    known: dict[Any, Any] = {}
    one = read_model(store, ModelName.parse("chat"), known)
    two = read_model(store, ModelName.parse("tools"), known)
    assert len(known) == 1 and one.facts is two.facts
    options = settings({}, {})
    assert one.spec(options) == two.spec(options)
    with pytest.raises(NameNotFoundError, match="model 'nope:latest' not found"):
        read_model(store, ModelName.parse("nope"), known)


@pytest.mark.parametrize(
    ("more", "batch", "longest"),
    [
        ({}, 512, 4095),
        ({"llama.pooling_type": 3}, 2048, 4095),
        ({"llama.pooling_type": 1}, 4096, 4096),
        ({"llama.attention.causal": False}, 4096, 4096),
    ],
)
def test_texts_of_a_whole_context_can_be_embedded(
    store: Store, more: dict[str, Any], batch: int, longest: int
) -> None:
    """In parts where the last token's vector is the text's; else the batch has room for it all."""
    header = {"general.architecture": "llama", "llama.context_length": 8192, **more}
    found = facts_of(header)  # type: ignore[arg-type]  # its get is enough
    spec = _model(store, "chat", **found._asdict()).spec(settings({}, {"num_ctx": 4096}))
    assert (spec.num_batch, spec.most_embedded) == (batch, longest)


def test_a_model_that_ranks_texts_has_no_vectors(store: Store) -> None:
    """Pooling of the kind 4; engines give zeros for it, or nothing."""
    header = {"general.architecture": "bert", "bert.pooling_type": 4}
    found = facts_of(header)  # type: ignore[arg-type]
    assert found.ranks and not facts_of({**header, "bert.pooling_type": 1}).ranks  # type: ignore
    runner = Runner(lambda: store, Pool())
    model = _model(store, "chat", **found._asdict())
    with pytest.raises(CannotError, match='"chat:latest" ranks texts: it gives no vectors'):
        asyncio.run(runner.embed(model, ["a"], {}, None))


def test_a_draft_that_guesses_nothing_is_left_out(store: Store) -> None:
    """``draft_num_predict 0`` asks for no draft; the engine would guess its usual number."""
    found = read_model(store, ModelName.parse("chat"), {})
    files = {**found._files, DRAFT: ("/draft",)}
    model = Runnable(found.contents, files, found.facts)
    for count, draft in ((4, "/draft"), (0, ""), (-1, "")):
        spec = model.spec(settings({}, {"draft_num_predict": count, "main_gpu": 2}))
        assert (spec.draft, spec.draft_tokens, spec.main_gpu) == (draft, max(count, 0), 2)


def test_who_makes_the_prompts(store: Store) -> None:
    """The Go template, but where the one in the weights can more, or there is none of use."""
    assert not _model(store, "chat").jinja
    assert _model(store, "ollamas").jinja and _model(store, "ollamas").builtin == "qwen3-coder"
    assert _model(store, "chat", chat_template="{{ tools }}").jinja
    assert _model(store, "chat", chat_template="<think></think>").jinja
    assert not _model(store, "tools", chat_template="<think></think> tool_call").jinja
    assert not _model(store, "ollamas", chat_template="").jinja


def test_what_may_differ_from_ollama_is_said(store: Store) -> None:
    """Of a model that names code inside Ollama, whichever template takes its place; of no other."""
    said: list[str] = []
    runner = Runner(lambda: store, Pool(), said.append)
    for name in ("chat", "ollamas", "parsed"):
        runner.model(ModelName.parse(name))
    assert [text.partition(" is code")[0] for text in said] == [
        "ollamas:latest: RENDERER qwen3-coder",
        "parsed:latest: RENDERER x and PARSER harmony",
    ]
    assert not _model(store, "parsed", chat_template="").jinja  # by its TEMPLATE then
    plain = _model(store, "chat").contents
    assert doubt_of(plain) == ""
    harmony = plain._replace(config={"model_family": "gpt-oss"}, template="<|start|>a<|end|>")
    assert "the harmony format of its TEMPLATE is code inside Ollama" in doubt_of(harmony)


def test_what_a_model_can_do(store: Store) -> None:
    """From its template, its weights and its projectors; what it cannot is named in full."""
    assert _model(store, "tools").capabilities == ("completion", "tools", "thinking")
    assert _model(store, "chat", sees=True, pooled=True).capabilities == ("embedding", "vision")
    native = _model(store, "chat", chat_template="{{ tools }}<think></think>").capabilities
    assert native == ("tools", "thinking", "completion")
    with pytest.raises(CannotError) as caught:
        _model(store, "chat").require("completion", "tools", "vision")
    name = "registry.ollama.ai/library/chat:latest does not support"
    assert caught.value.message == f"{name} tools\n{name} vision"


def test_a_conversation_is_the_model_s_and_the_request_s(store: Store) -> None:
    """SYSTEM and MESSAGE lines first; a system message of the request's own replaces SYSTEM."""
    model = _model(store, "chat")
    told = [(t.role, t.content) for t in conversation(model, Ask((HI,)))]
    assert told == [("system", "Be brief."), ("user", "Ping"), ("user", "Hi")]
    told = [t.content for t in conversation(model, Ask((HI,), system="Sing.", context=(1,)))]
    assert told == ["Sing.", "Hi"]
    own = Ask((ChatTurn("system", "S"), HI))
    assert [t.content for t in conversation(model, own)] == ["Ping", "S", "Hi"]


def test_images_stand_where_they_are_said(store: Store) -> None:
    """At [img], else in front; no text can pretend to have one; the engine's marker last."""
    ask = Ask(
        (ChatTurn("user", "[img-0] see [img] and", images=(b"a", b"b")), ChatTurn("user", "x"))
    )
    maker = PromptMaker(_model(store, "chat"), ask, think=False)
    prompt = maker.make(ask.turns)
    assert prompt.images == (b"a", b"b")
    text = maker.marked(prompt, "<M>")
    assert text.count("<M>") == 2 and "see <M><M> and" in text and "[img-0] see" in text
    maker = PromptMaker(_model(store, "chat"), ask, think=False)
    turns = (ChatTurn("user", "look", images=(b"a", b"b")),)
    assert "<M><M>look" in maker.marked(maker.make(turns), "<M>")


def test_a_token_that_the_engine_adds_is_not_written_twice(store: Store) -> None:
    """BOS at the beginning of a prompt, where the tokenizer adds one."""
    ask = Ask((HI,), template="<s>{{ .Prompt }}")
    for adds, expected in ((True, "Hi"), (False, "<s>Hi")):
        model = _model(store, "chat", first_token="<s>" if adds else "")
        assert PromptMaker(model, ask, think=False).make((HI,)).text == expected


def test_a_prompt_may_begin_a_thought(store: Store) -> None:
    """Then the answer begins within it."""
    template = TOOLS + "<think>\n"
    ask = Ask((HI,), template=template)
    model = _model(store, "tools")
    assert PromptMaker(model, ask, think=True).make((HI,)).thinking
    assert not PromptMaker(model, ask, think=False).make((HI,)).thinking


def test_what_cannot_be_a_prompt_is_said(store: Store) -> None:
    """A broken template, a renderer of Ollama's with nothing in its place, no template at all."""
    model = _model(store, "chat")
    with pytest.raises(UsageError, match="template: "):
        PromptMaker(model, Ask((HI,), template="{{ .Prompt"), think=False)
    maker = PromptMaker(model, Ask((HI,), template="{{ index .Prompt 9 }}"), think=False)
    with pytest.raises(UsageError, match="template: "):
        maker.make((HI,))
    found = _model(store, "ollamas", chat_template="")
    bare = Runnable(replace(found.contents, template=""), found._files, found.facts)
    with pytest.raises(CannotError, match="renderer 'qwen3-coder'") as caught:
        PromptMaker(bare, Ask((HI,)), think=False)
    assert "--upstream" in caught.value.hint


def test_first_turns_go_first() -> None:
    """System turns and the last one stay."""
    turns = (ChatTurn("system", "s"), ChatTurn("user", "1"), ChatTurn("system", "t"), HI)
    assert [t.content for t in without(turns, 0)] == ["s", "1", "t", "Hi"]
    assert [t.content for t in without(turns, 9)] == ["s", "t", "Hi"]


def test_messages_as_the_engine_takes_them() -> None:
    """Thoughts, calls, tools' answers and images in OpenAI's forms."""
    call = ToolCall("f", {"a": 1})
    turns = (
        ChatTurn("assistant", "c", thinking="t", tool_calls=(call,)),
        ChatTurn("tool", "r", tool_name="f", tool_call_id="call_0"),
        ChatTurn("user", "see", images=(b"\x89PNG", b"other")),
    )
    said, answered, seen = native_messages(turns)
    assert said["reasoning_content"] == "t"
    assert said["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert (answered["tool_call_id"], answered["name"]) == ("call_0", "f")
    urls = [part["image_url"]["url"] for part in seen["content"][:2]]
    assert urls == ["data:image/png;base64,iVBORw==", "data:image/jpeg;base64,b3RoZXI="]
    assert tool_list([{"function": {}}]) == [{"function": {}, "type": "function"}]


def test_weights_that_are_gone_are_named(store: Store, tmp_path: Path) -> None:
    """A model without its blob, and one without weights."""
    from mbuild.core.errors import DamagedError

    root = build_models(tmp_path, {"m": ""}).root
    for blob in (root / "blobs").iterdir():
        if blob.stat().st_size > 1 << 20:
            blob.unlink()
    with pytest.raises(DamagedError, match="missing or cut short"):
        read_model(Store(root), ModelName.parse("m"), {})


ONE_ROLE = '{{ range .Messages }}{{ if eq .Role "ROLE" }}{{ .Content }}{{ end }}{{ end }}'
ONLY_THREE = """{% for m in messages %}{% if m['role'] == 'system' %}S{{ m['content'] }}
{% elif m['role'] == 'user' %}U{{ m['content'] }}
{% elif m['role'] == 'assistant' %}A{{ m['content'] }}{% endif %}{% endfor %}"""
"""A chat template of the weights that leaves out every other role."""


@pytest.mark.parametrize(
    ("go", "jinja", "kept"),
    [
        ("{{ .Prompt }}", "", False),
        (ONE_ROLE.replace("ROLE", "user"), "", False),
        (ONE_ROLE.replace("ROLE", "tool"), "", True),
        ('{{ range .Messages }}{{ if eq .Role "user" }}U{{ else }}A{{ end }}{{ .Content }}'
         "{{ end }}", "", True),
        ("{{ range .Messages }}{{ .Role }}{{ .Content }}{{ end }}", "", True),
        ("", ONLY_THREE, False),
        ("", ONLY_THREE.replace("elif m['role'] == 'assistant'", "else"), True),
        ("", ONLY_THREE.replace("'assistant'", "'tool'"), True),
        ("", "{% for m in messages %}{% set x = '<' + m['role'] + '>' + m['content'] %}{{ x }}"
         "{% endfor %}", True),
        ("", "{{ raise_exception('no') }}", True),  # the engine says so itself
    ],
)  # fmt: skip
def test_what_a_tool_answered_is_not_lost_without_a_word(
    store: Store, go: str, jinja: str, kept: bool
) -> None:
    """Templates that name the role, that write any, or that write what is no user's, keep it."""
    found = _model(store, "chat", chat_template=jinja)
    contents = replace(found.contents, template=go)
    model = Runnable(contents, found._files, found.facts)
    assert model.jinja is bool(jinja)
    turns = (HI, ChatTurn("tool", "72", tool_name="f"))
    if kept:
        check_roles(model, turns)
        return
    with pytest.raises(UsageError, match="message 2 has the role 'tool', and the model's template"):
        check_roles(model, turns)
    check_roles(model, turns[:1])
