"""The table of how families' vocabularies are read is complete and consistent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoints import files_of
from llama_runs import byte_level_tokenizer, write_vocabulary

from mbuild.convert.families import by_name, find, rows
from mbuild.convert.vocabulary.assemble import vocabulary
from mbuild.convert.vocabulary.hashes import PRE_TOKENIZERS
from mbuild.convert.vocabulary.readers import READERS
from mbuild.convert.vocabulary.rules import Reader
from mbuild.convert.vocabulary.special import ADD_KEYS, ID_KEYS


def test_every_reader_has_a_function_and_a_family() -> None:
    """No way to read a vocabulary lacks its code, and none is there for nothing."""
    # tekken.json is read with the config of Mistral's own format (test_mistral_format.py).
    assert READERS.keys() == set(Reader) - {Reader.TEKKEN}
    assert {r for row in rows() for r in row.vocabulary.readers} == set(Reader)


@pytest.mark.parametrize("class_", by_name())
def test_rows_name_things_that_exist(class_: str) -> None:
    """Kinds of tokens have keys (or are the infill kinds, which GGUF dropped), names are known.

    Only a draft reads no vocabulary: it has its target's.
    """
    rule = find(class_).vocabulary
    assert rule.readers or find(class_).drafts
    assert len(set(rule.readers)) == len(rule.readers)
    kinds = {name for name, _ in (*rule.ids_after, *rule.tokens)}
    assert kinds <= ID_KEYS.keys()
    flags = [*rule.flags_before, *(f for fs in rule.flags_of_size.values() for f in fs)]
    assert {name for name, _ in flags} <= ADD_KEYS.keys()
    second = {name for ids in rule.second_pass.values() for name, _ in ids}
    assert second <= ID_KEYS.keys() | {"prefix", "suffix", "middle", "fsep"}
    assert {*rule.pre_names, *rule.pre_names.values()} <= set(PRE_TOKENIZERS.values())


def test_rows_are_of_families_by_the_names_of_their_classes() -> None:
    """A misspelled class name would never be found."""
    models = ("ForCausalLM", "Model", "ForMaskedLM", "ForConditionalGeneration", "LMHead")
    more = (
        "ForSequenceClassification",
        "ModelLM",
        "RND1",
        "NeoBERT",
        "ForCausalLMV",
        "Speculator",
        "ForCausalLMEagle3",
    )
    assert all(name.endswith((*models, *more)) for name in by_name())


def test_deepseeks_pre_tokenizer_has_one_name() -> None:
    """Whether or not a loader adds a BOS, DeepSeek's vocabularies are split by one expression."""
    for name in ("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"):
        assert find(name).vocabulary.pre_names == {"joyai-llm": "deepseek-v3"}


@pytest.mark.parametrize(
    ("class_", "wanted"),
    [
        ("LlamaForCausalLM", None),
        ("Ernie4_5ForCausalLM", False),
        ("PanguEmbeddedForCausalLM", False),
        ("InternLM3ForCausalLM", False),
    ],
)
def test_a_prefix_of_null_is_nothing_of_a_llama_and_false_of_others(
    class_: str, wanted: bool | None, tmp_path: Path
) -> None:
    """As llama.cpp's converter has it: some of its classes ask whether the setting is there."""
    write_vocabulary(tmp_path, "ernie4_5", 80)
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "add_prefix_space": None}))
    made = vocabulary(files_of(tmp_path), {"vocab_size": 80}, find(class_).vocabulary)
    found = {kv.key: kv.value for kv in made}
    assert found.get("tokenizer.ggml.add_space_prefix") is wanted


@pytest.mark.parametrize(
    ("class_", "file"),
    [
        ("KimiK3ForConditionalGeneration", "Kimi-K3.jinja"),
        ("DeepseekV4ForCausalLM", "deepseek-ai-DeepSeek-V4.jinja"),
        ("MiniMaxText01ForCausalLM", "MiniMax-M1.jinja"),
    ],
)
def test_a_template_that_only_llama_cpp_has_is_named(
    class_: str, file: str, tmp_path: Path
) -> None:
    """A checkpoint without one gives a model that nobody can chat with: that is said."""
    (tmp_path / "tokenizer.json").write_text(json.dumps(byte_level_tokenizer(80)))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    said: list[str] = []

    def keys() -> set[str]:
        said.clear()
        rule = find(class_).vocabulary
        files = files_of(tmp_path)
        return {
            kv.key
            for kv in vocabulary(files, {"vocab_size": 80}, rule, pre="gpt-2", warn=said.append)
        }

    assert "tokenizer.chat_template" not in keys()
    (text,) = [text for text in said if "models/templates" in text]
    assert f"models/templates/{file} " in text and text.endswith("as chat_template.jinja")
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert "tokenizer.chat_template" in keys()
    assert not [text for text in said if "models/templates" in text]
