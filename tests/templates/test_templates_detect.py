"""Chat templates are recognized by what they say, hostile ones do no harm."""

from __future__ import annotations

import re
import time

import pytest

from mbuild.templates.conversation import ChatMessage, Values
from mbuild.templates.detect import detect, expected_texts
from mbuild.templates.gotemplate import parse
from mbuild.templates.known import HOLES, KNOWN, Known, text_digest
from mbuild.templates.probes import FINDING, PROVING, probes
from mbuild.templates.render import render

Turn = tuple[str, str]

FRESH = probes(
    ("u", "uau", "su", "suau", "suauauau"),
    ("Wie geht's?", "a\n\nb", "{x} < y & z \\ 'q'", "Ω", "last one, (really)"),
    "2030-05-06",
)


def jinja(system: Turn | None, user: Turn, assistant: Turn, generation: str) -> str:
    """A chat template of this test's own: what stands around each turn."""
    parts = ["{% for m in messages %}"]
    for role, turn in (("system", system), ("user", user), ("assistant", assistant)):
        parts.append(f"{{% {'if' if role == 'system' else 'elif'} m['role'] == '{role}' %}}")
        if turn is None:
            parts.append("{{ raise_exception('no ' + m.role) }}")
        else:
            parts.append(f"{{{{ {turn[0]!r} + (m['content'] | trim) + {turn[1]!r} }}}}")
    parts.append("{% endif %}{% endfor %}")
    parts.append(f"{{% if add_generation_prompt %}}{{{{ {generation!r} }}}}{{% endif %}}")
    return "{{ bos_token }}" + "".join(parts)


def around(before: str, after: str, roles: tuple[str, str, str]) -> list[Turn]:
    """Turns that differ in the role's name only."""
    return [(before.format(role), after) for role in roles]


def gemma_4(large: bool) -> str:
    """The larger ones of the family close a thought where none is to be had."""
    begin = "<|turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    thought = "{% if not enable_thinking %}<|channel>thought\n<channel|>{% endif %}"
    return (
        "{{ bos_token }}{% if enable_thinking and messages[0].role != 'system' %}"
        "<|turn>system\n<|think|>\n<turn|>\n{% endif %}{% for m in messages %}"
        + begin
        + "{% if enable_thinking and m.role == 'system' %}{{ '<|think|>\n' }}{% endif %}"
        "{{ m.content }}<turn|>\n{% endfor %}{% if add_generation_prompt %}<|turn>model\n"
        + (thought if large else "")
        + "{% endif %}"
    )


PLAIN = ("system", "user", "assistant")
CHATML = around("<|im_start|>{}\n", "<|im_end|>\n", PLAIN)
FORMATS: dict[str, tuple[str, str]] = {
    "chatml": ("chatml", jinja(*CHATML, "<|im_start|>assistant\n")),
    "llama 3": (
        "llama3-instruct",
        jinja(
            *around("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>", PLAIN),
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
    ),
    "gemma": (
        "gemma-instruct",
        jinja(
            None,
            ("<start_of_turn>user\n", "<end_of_turn>\n"),
            ("<start_of_turn>model\n", "<end_of_turn>\n"),
            "<start_of_turn>model\n",
        ),
    ),
    "phi 3": ("phi-3", jinja(*around("<|{}|>\n", "<|end|>\n", PLAIN), "<|assistant|>\n")),
    "phi 4": (
        "phi-4",
        jinja(
            *around("<|im_start|>{}<|im_sep|>", "<|im_end|>", PLAIN),
            "<|im_start|>assistant<|im_sep|>",
        ),
    ),
    "glm 4": (
        "glm-4",
        "[gMASK]<sop>" + jinja(*around("<|{}|>\n", "", PLAIN), "<|assistant|>")[15:],
    ),
    "granite 3": (
        "granite-3",
        jinja(
            *around("<|start_of_role|>{}<|end_of_role|>", "<|end_of_text|>\n", PLAIN),
            "<|start_of_role|>assistant<|end_of_role|>",
        ),
    ),
    "mistral v3": ("mistral-v3", jinja(None, ("[INST] ", "[/INST]"), (" ", "</s>"), "")),
    "mistral tekken": ("mistral-tekken", jinja(None, ("[INST]", "[/INST]"), ("", "</s>"), "")),
    "zephyr": ("zephyr", jinja(*around("<|{}|>\n", "</s>\n", PLAIN), "<|assistant|>\n")),
    "command r": (
        "command-r",
        jinja(
            *around(
                "<|START_OF_TURN_TOKEN|><|{}_TOKEN|>",
                "<|END_OF_TURN_TOKEN|>",
                ("SYSTEM", "USER", "CHATBOT"),
            ),
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
        ),
    ),
    "a default system message": (
        "chatml",
        "{{ bos_token }}{% if messages[0].role != 'system' %}<|im_start|>system\n"
        "Be {curt}.<|im_end|>\n{% endif %}" + jinja(*CHATML, "<|im_start|>assistant\n")[15:],
    ),
    "extensions": (
        "chatml",
        "{% for m in messages %}{% if m.role == 'nobody' %}{% continue %}{% endif %}"
        "<|im_start|>{{ m.role }}\n{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    "gemma 4": ("gemma-4", gemma_4(large=True)),
    "small gemma 4": ("gemma-4", gemma_4(large=False)),
    "minimax m3": (
        "minimax-m3",
        "]~!b[]~b]system\nOwn words.[e~[\n{% if messages[0].role != 'system' %}]~b]developer\n"
        "Be curt.[e~[\n{% endif %}"
        + jinja(
            ("]~b]developer\n", "[e~[\n"),
            ("]~b]user\n", "[e~[\n"),
            ("]~b]ai\n</mm:think>", "[e~[\n"),
            "]~b]ai\n",
        )[15:],
    ),
    "kimi k3": (
        "kimi-k3",
        "Own words."
        + jinja(
            *around(
                '<|open|>message role="{}"<|sep|>', "<|close|>message<|sep|><|end_of_msg|>", PLAIN
            )[:2],
            (
                '<|open|>message role="assistant"<|sep|><|open|>think<|sep|><|close|>think<|sep|>'
                "<|open|>response<|sep|>",
                "<|close|>response<|sep|><|close|>message<|sep|><|end_of_msg|>",
            ),
            '<|open|>message role="assistant"<|sep|><|open|>think<|sep|>',
        )[15:],
    ),
    "gigachat 3": (
        "gigachat-3",
        "Own words.<|message_sep|>\n\n"
        + jinja(
            *around("{}<|role_sep|>\n", "<|message_sep|>\n\n", PLAIN), "assistant<|role_sep|>\n"
        )[15:],
    ),
    "llama 3.2": (
        "llama-3.2",
        "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: "
        "December 2023\nToday Date: {{ strftime_now('%d %b %Y') }}\n\n"
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}"
        "{% set messages = messages[1:] %}{% endif %}<|eot_id|>"
        + jinja(
            *around("<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>", PLAIN),
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        )[15:],
    ),
    "granite 3.3": (
        "granite-3.3",
        "{% if messages[0].role != 'system' %}<|start_of_role|>system<|end_of_role|>Knowledge "
        "Cutoff Date: April 2024. Today's Date: {{ strftime_now('%B %d, %Y') }}. Be curt."
        "<|end_of_text|>\n{% endif %}"
        + jinja(
            *around("<|start_of_role|>{}<|end_of_role|>", "<|end_of_text|>\n", PLAIN),
            "<|start_of_role|>assistant<|end_of_role|>",
        )[15:],
    ),
    "thoughts": (
        "qwen3",
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if loop.last and m.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is false %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
    ),
}


@pytest.mark.parametrize("key", FORMATS)
def test_formats_are_recognized(key: str) -> None:
    """The name is found, and the prompts are equal on conversations that detection never saw."""
    name, text = FORMATS[key]
    found = detect(text, "<s>", "</s>")
    assert found is not None and found.name == name and found.stop
    template = parse(found.template)
    wanted = expected_texts(text, FRESH, "<s>", "</s>")
    assert wanted is not None
    compared = [
        (render(template, Values(probe.messages), today=probe.day), target)
        for probe, target in zip(FRESH, wanted, strict=True)
        if target is not None
    ]
    assert len(compared) >= 2
    assert all(given == target for given, target in compared)


NEAR = {
    "another line end": jinja(*CHATML, "<|im_start|>assistant"),
    "a turn without its end": jinja(
        CHATML[0], CHATML[1], ("<|im_start|>assistant\n", "\n"), "<|im_start|>assistant\n"
    ),
    "today's date": "<|im_start|>system\nIt is {{ strftime_now('%Y-%m-%d') }}<|im_end|>\n"
    + jinja(*CHATML, "<|im_start|>assistant\n"),
    "late difference": jinja(*CHATML, "<|im_start|>assistant\n")
    + "{% if messages | length > 5 %}!{% endif %}",
    "length of a text": jinja(*CHATML, "<|im_start|>assistant\n")
    + "{% if messages[0].content | length < 3 %}?{% endif %}",
    "no generation prompt": jinja(*CHATML, ""),
    "refuses answers": jinja(CHATML[0], CHATML[1], CHATML[2], "").replace("'assistant'", "'x'")
    + "{% if messages | length > 1 %}{{ raise_exception('no') }}{% endif %}",
    "nothing": "",
    "constant": "x",
    "code in the hole": "{% if messages[0].role != 'system' %}<|im_start|>system\n{{ '{{ .X }}' }}"
    "<|im_end|>\n{% endif %}" + jinja(*CHATML, "<|im_start|>assistant\n"),
}


@pytest.mark.parametrize("key", NEAR)
def test_near_is_not_equal(key: str) -> None:
    """No match rather than a near one."""
    assert detect(NEAR[key], "<s>", "</s>") is None


HOSTILE = {
    "loop": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "output": "{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
    "product": "{{ 'x' * 10 ** 10 }}",
    "constant": "{% set x = 'a' * 9999999999 %}",
    "format": "{{ '%999999999d' % 1 }}",
    "filter": "{{ 'x' | center(999999999) }}",
    "doubling": "{% set n = namespace(x='xx') %}{% for i in range(99) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "class": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "function": "{{ lipsum(n=100) }}",
    "syntax": "{% if %}",
    "depth": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "mutation": "{{ messages.append(messages) }}",
}


@pytest.mark.parametrize("key", HOSTILE)
def test_hostile_templates_are_refused_in_time(key: str) -> None:
    """Whatever they try they end with nothing found, and take a second of the processor at most.

    That is a second more than a template which does nothing takes on this machine, now.
    """
    resource = pytest.importorskip("resource", reason="Windows measures no processor time")

    def used() -> float:
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        return float(spent.ru_utime + spent.ru_stime)

    before = used()
    detect("", "<s>", "</s>")
    nothing = used() - before
    start, before = time.monotonic(), used()
    assert detect(HOSTILE[key] + FORMATS["chatml"][1], "<s>", "</s>") is None
    assert time.monotonic() - start < 9
    assert used() - before < 1 + nothing


def test_the_size_is_bounded() -> None:
    """A chat template of megabytes is not looked at."""
    assert detect("{# x #}" * 300_000) is None


def test_only_one_beginning_of_sequence_is_the_runtime_s() -> None:
    """The first is left out; one of a later turn belongs to the text."""
    text = "{% for m in messages %}{{ bos_token + m.content }}{% endfor %}"
    assert expected_texts(text, FINDING[1:2], "<s>", "</s>") == [
        "<s>".join(message.content for message in FINDING[1].messages)
    ]


def test_tokens_are_the_model_s() -> None:
    """The end of a turn is the token that the model has, in the Go template as well."""
    text = jinja(None, ("[INST] ", " [/INST]"), ("", "<|stop|>"), "")
    found = detect(text, "", "<|stop|>")
    assert found is not None and found.name == "mistral-instruct" and "<|stop|>" in found.template
    assert detect(text, "", "{{ .X }}") is None


def test_a_known_text_needs_no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat template whose digest is listed is found without a child process."""
    text = "{{ 'anything' }}"
    row = Known("mine", "chatml", ("x",), (text_digest(text + "\r\n"),))
    monkeypatch.setattr("mbuild.templates.detect.KNOWN", (row,))
    monkeypatch.setattr("mbuild.templates.detect.expected_texts", None)
    found = detect(text + "\n")
    assert found is not None and found.name == "mine"


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.file)
def test_every_row_is_a_template(known: Known) -> None:
    """It parses, shows every turn in order, and generation follows; names and digests are sound."""
    text = known.text("<s>", "</s>")
    assert not re.search(r"<%(?!hole|start)", text)
    for hole in HOLES:
        text = text.replace(hole, "HOLE")
    messages = (
        ChatMessage("system", "1st"),
        ChatMessage("user", "2nd"),
        ChatMessage("assistant", "3rd"),
        ChatMessage("user", "4th"),
    )
    prompt = render(parse(text), Values(messages))
    places = [prompt.index(message.content) for message in messages[1:]]
    assert places == sorted(places)
    assert known.stop and all(known.stop)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in known.digests)


def test_digests_are_unique() -> None:
    """No chat template is known as two formats."""
    digests = [digest for known in KNOWN for digest in known.digests]
    assert len(digests) == len(set(digests)) == 37


def test_probes_can_be_said_in_go() -> None:
    """No text has space at its ends, and both sets have every kind of conversation."""
    for probe in (*FINDING, *PROVING):
        assert all(m.content == m.content.strip() and m.content for m in probe.messages)
    for group in (FINDING, PROVING):
        assert {probe.generates for probe in group} == {True, False}
        assert any(probe.messages[0].role == "system" for probe in group)


def test_a_beginning_of_sequence_that_the_runtime_does_not_add_counts() -> None:
    """Where the model's tokenizer adds none, a ChatML token that is also BOS stays in the text."""
    text = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    found = detect(text, "<|im_start|>", "<|im_end|>", adds_bos=False)
    assert found is not None
    assert found.name == "chatml"
    assert detect(text, "<|im_start|>", "<|im_end|>") is None
