"""Vocabularies: every entry as llama.cpp's converter writes it, and refusals of hostile files."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from vocab_cases import BY_NAME, CASES, PRE, case_files, plain, write_files

from mbuild.convert.families import find, rows
from mbuild.convert.vocabulary.assemble import vocabulary
from mbuild.convert.vocabulary.rules import BPE, Reader, VocabRule
from mbuild.core.errors import FormatError, MbuildError, SourceError, UnsupportedError
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType


def _read(
    folder: Path, contents: dict[str, Any], class_: str | VocabRule, pre: str | None = PRE
) -> list[KV]:
    files = write_files(folder, contents)
    rule = find(class_).vocabulary if isinstance(class_, str) else class_
    return vocabulary(files, contents["config.json"], rule, pre=pre)


def _get(entries: list[KV], key: str) -> Any:
    values = [plain(kv.value) for kv in entries if kv.key == f"tokenizer.{key}"]
    assert len(values) <= 1
    return values[0] if values else None


def _edit(name: str, **parts: Any) -> dict[str, Any]:
    """A case's files with parts of its tokenizer.json replaced; None takes a part out."""
    contents = case_files(BY_NAME[name])
    raw = contents["tokenizer.json"]
    for key, value in parts.items():
        holder = raw["model"] if key in raw["model"] else raw
        holder[key] = value
    return contents


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_entries_equal_those_of_llama_cpp(case: dict[str, Any], tmp_path: Path) -> None:
    """Keys, their order, types and values are those that llama.cpp's converter writes."""
    contents = case_files(case)
    got = [
        [kv.key, kv.type.name, kv.element.name if kv.element is not None else None, plain(kv.value)]
        for kv in _read(tmp_path, contents, case["class"])
    ]
    expected = [
        [k, t, e, [struct.unpack("f", struct.pack("f", x))[0] for x in v] if e == "FLOAT32" else v]
        for k, t, e, v in case["expected"]
    ]
    assert got == expected


def test_every_row_is_used_by_some_case_of_its_kind() -> None:
    """The cases go through each reader and each placing of add_space_prefix in the table."""
    used = [find(c["class"]).vocabulary for c in CASES]
    for rule in (row.vocabulary for row in rows()):
        assert rule.prefix in {other.prefix for other in used}
        if rule.readers in ((), (Reader.TEKKEN,)):
            continue  # a draft has its target's; test_mistral_format.py has that file's cases
        assert any(rule.readers[0] in other.readers for other in used), rule


def test_a_row_that_says_nothing_has_a_byte_pair_vocabulary(tmp_path: Path) -> None:
    """A family is read as most are unless its row says more: tokenizer.json, nothing special."""
    case = BY_NAME["separator"]
    entries = _read(tmp_path, case_files(case), BPE)
    assert [kv.key for kv in entries] == [key for key, *_ in case["expected"]]


def test_code_llama_has_its_token_for_the_end_of_an_infill(tmp_path: Path) -> None:
    """32016 tokens are a CodeLlama's: eot is 32010, though no file says so."""
    contents = case_files(BY_NAME["llama_spm"])
    contents["config.json"]["vocab_size"] = 32016
    entries = _read(tmp_path, contents, "LlamaForCausalLM")
    assert _get(entries, "ggml.eot_token_id") == 32010
    assert len(_get(entries, "ggml.tokens")) == 32016


def test_a_small_granite_does_not_begin_with_bos(tmp_path: Path) -> None:
    """49152 tokens are a small Granite's: add_bos_token is false whatever the template says."""
    contents = case_files(BY_NAME["llama_spm"])
    contents["config.json"]["vocab_size"] = 49152
    entries = _read(tmp_path, contents, "LlamaForCausalLM")
    assert _get(entries, "ggml.add_bos_token") is False
    keys = [kv.key for kv in entries]
    assert keys.index("tokenizer.ggml.add_bos_token") < keys.index("tokenizer.ggml.add_eos_token")


def test_a_text_config_counts_for_sizes_and_special_ids(tmp_path: Path) -> None:
    """Multimodal checkpoints keep the text model's numbers in a nested object."""
    contents = case_files(BY_NAME["llama_spm"])
    config = contents["config.json"]
    contents["config.json"] = {"architectures": ["LlamaForCausalLM"], "text_config": config}
    del contents["tokenizer_config.json"]["bos_token"]
    entries = _read(tmp_path, contents, "LlamaForCausalLM")
    assert len(_get(entries, "ggml.tokens")) == config["vocab_size"]
    assert _get(entries, "ggml.bos_token_id") == 1


def test_internlm2_shows_nul_as_a_dragon(tmp_path: Path) -> None:
    """A piece of one NUL byte would be the empty string to C++."""
    contents = case_files(BY_NAME["internlm2"])
    model = contents["tokenizer.model"]
    place = model.index("é".encode())
    assert model[place - 1] == 2
    contents["tokenizer.model"] = model.replace(b"\x02\xc3\xa9\x15", b"\x02\x00a\x15")
    assert "\0a" in _get(_read(tmp_path, contents, "InternLM2ForCausalLM"), "ggml.tokens")
    contents["tokenizer.model"] = model.replace(
        b"\x0a\x09\x0a\x02\xc3\xa9\x15", b"\x0a\x08\x0a\x01\x00\x15"
    )
    assert "\U0001f409" in _get(_read(tmp_path, contents, "InternLM2ForCausalLM"), "ggml.tokens")


def test_unknown_pre_tokenizer_names_its_hash_and_the_way_out(tmp_path: Path) -> None:
    """A vocabulary that llama.cpp does not know is refused; the hash is there to look it up."""
    with pytest.raises(UnsupportedError, match=r"hash [0-9a-f]{64}\)") as caught:
        _read(tmp_path, case_files(BY_NAME["llama_bpe"]), "LlamaForCausalLM", pre=None)
    assert "--pre NAME" in caught.value.hint


def test_a_pre_tokenizer_that_nobody_knows_is_told(tmp_path: Path) -> None:
    """It is written as the user says it, because a newer llama.cpp may have it."""
    contents, told = case_files(BY_NAME["llama_bpe"]), list[str]()
    files, rule = write_files(tmp_path, contents), find("LlamaForCausalLM").vocabulary
    for pre in ("llama-bpe", "llama-bpo"):
        made = vocabulary(files, contents["config.json"], rule, pre=pre, warn=told.append)
        assert _get(made, "ggml.pre") == pre
    (text,) = [each for each in told if "--pre" in each]
    assert text.startswith("--pre llama-bpo is no pre-tokenizer that mbuild knows: did you mean")


def test_no_vocabulary_says_what_is_needed(tmp_path: Path) -> None:
    """The message has the files that would do."""
    contents = {"config.json": {"vocab_size": 3}}
    with pytest.raises(SourceError, match=r"tokenizer\.model or tokenizer\.json"):
        _read(tmp_path, contents, "LlamaForCausalLM")


def test_tekken_alone_is_named(tmp_path: Path) -> None:
    """Mistral's own format is refused by its name."""
    contents = {"config.json": {"vocab_size": 3}, "tekken.json": {}}
    with pytest.raises(UnsupportedError, match="tekken"):
        _read(tmp_path, contents, "MistralForCausalLM")


def test_unigram_is_no_byte_pair_vocabulary(tmp_path: Path) -> None:
    """A Unigram tokenizer.json is for XLM-RoBERTa's reader only."""
    contents = case_files(BY_NAME["xlm_roberta_json"])
    with pytest.raises(SourceError, match="no usable tokenizer"):
        _read(tmp_path, contents, "GPT2LMHeadModel")


LLAMA_VOCAB: dict[str, int] = BY_NAME["llama_bpe"]["json"]["tokenizer.json"]["model"]["vocab"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"vocab": {}}, "must be an object"),
        ({"vocab": [["a", 0.5]]}, "must be an object"),
        ({"vocab": LLAMA_VOCAB | {"a": "0"}}, "'a' must be a whole number, not '0'"),
        ({"vocab": LLAMA_VOCAB | {"a": True}}, "whole number"),
        ({"vocab": LLAMA_VOCAB | {"a": 0.0}}, "whole number"),
        ({"vocab": LLAMA_VOCAB | {"a": -1}}, "'a' is -1"),
        ({"vocab": LLAMA_VOCAB | {"a": 2**40}}, "does not fit"),
        ({"vocab": LLAMA_VOCAB | {"a": 1}}, "'a' and 'b' have the same id 1"),
        ({"merges": ["h e", 1]}, "merges"),
        ({"merges": [["h", "e", "r"]]}, "merges"),
        ({"merges": [["h", 1]]}, "merge"),
        ({"merges": [["h", "e"], "t he"]}, "merges"),
        ({"model": None}, "model must be an object"),
        ({"model": {"type": "Magic", "vocab": {"a": 0}}}, "'Magic'"),
        ({"added_tokens": {}}, "must be a list"),
        ({"added_tokens": [1]}, "whole number"),
        ({"added_tokens": [{"id": "1", "content": "<x>"}]}, "whole number"),
        ({"added_tokens": [{"id": 36, "content": 5}]}, "content must be text"),
        ({"added_tokens": [{"id": 36, "content": "<x>", "normalized": 1}]}, "true or false"),
        ({"added_tokens": [{"id": 9, "content": "<x>"}]}, "'<x>' has the id 9"),
        ({"added_tokens": [{"id": 5, "content": "a"}]}, "'a' has the id 5"),
        ({"added_tokens": [{"id": 10**15, "content": "<x>"}]}, "has the id"),
        ({"decoder": 5}, "decoder must be an object"),
    ],
)
def test_hostile_tokenizer_json_is_refused(
    parts: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Wrong types, huge, negative and repeated ids, gaps: an error that quotes the value."""
    contents = _edit("llama_bpe", **parts)
    with pytest.raises(FormatError, match=message):
        _read(tmp_path, contents, "LlamaForCausalLM")


def test_an_id_beyond_the_vocabulary_is_refused(tmp_path: Path) -> None:
    """A token that the embedding has no row for is named."""
    contents = case_files(BY_NAME["llama_bpe"])
    contents["config.json"]["vocab_size"] = 10
    with pytest.raises(FormatError, match="declares a vocabulary of 10"):
        _read(tmp_path, contents, "LlamaForCausalLM")


@pytest.mark.parametrize("size", [2**40, 0, -1, "12", 1.5, True, [], float("nan")])
@pytest.mark.parametrize("name", ["llama_bpe", "llama_spm", "phi3", "internlm2", "xlm_roberta"])
def test_declared_sizes_allocate_nothing(name: str, size: Any, tmp_path: Path) -> None:
    """A vocab_size out of proportion, or no number, is refused before anything is made of it."""
    contents = case_files(BY_NAME[name])
    contents["config.json"]["vocab_size"] = size
    with pytest.raises(FormatError, match="vocab_size"):
        _read(tmp_path, contents, BY_NAME[name]["class"])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer.json", b"[" * 200_000, "too deeply"),
        ("tokenizer.json", b'{"a":' * 100_000, "too deeply"),
        ("tokenizer.json", b"[]", "object is expected"),
        ("tokenizer.json", b"{", "not JSON"),
        ("tokenizer.json", b'{"a": "\xff"}', "not UTF-8"),
        ("tokenizer.json", b"1" * 10_000, "not JSON"),
        ("tokenizer.json", b'{"a": "\\ud83d"}', "surrogate"),
        ("tokenizer.json", b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        ("tokenizer_config.json", b"[", "not JSON"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": []}', "must be an object"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"x": {}}}', "'x' is not an id"),
        ("tokenizer_config.json", b'{"added_tokens_decoder": {"1": {}}}', "no content"),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "x"}]}', "lacks"),
        ("tokenizer_config.json", b'{"add_prefix_space": "no"}', "add_prefix_space"),
        ("added_tokens.json", b'{"x": "1"}', "'x' must be a whole number"),
        ("added_tokens.json", b'{"x": 1e400}', "whole number"),
    ],
)
@pytest.mark.parametrize("name", ["llama_bpe", "llama_spm"])
def test_hostile_files_are_refused(
    name: str, file: str, content: bytes, message: str, tmp_path: Path
) -> None:
    """Malformed JSON of any kind is a FormatError that names the file."""
    contents = case_files(BY_NAME[name]) | {file: content}
    if file == "added_tokens.json" and name == "llama_bpe":
        del contents["tokenizer_config.json"]
    with pytest.raises(FormatError, match=message) as caught:
        _read(tmp_path, contents, "LlamaForCausalLM")
    assert file in str(caught.value)


def test_an_overlong_chat_template_is_refused(tmp_path: Path) -> None:
    """A template has at most a mebibyte, wherever it stands."""
    contents = case_files(BY_NAME["qwen_bpe"])
    contents["chat_template.jinja"] = "x" * ((1 << 20) + 1)
    with pytest.raises(FormatError, match="chat_template"):
        _read(tmp_path, contents, "Qwen3ForCausalLM")
    contents["tokenizer_config.json"]["chat_template"] = "x" * ((1 << 20) + 1)
    with pytest.raises(FormatError, match="too long"):
        _read(tmp_path, contents, "Qwen3ForCausalLM")


def test_an_id_of_minus_one_is_no_token(tmp_path: Path) -> None:
    """Refact and HunyuanOCR are published with it; llama.cpp's converter stops at the first."""
    contents = case_files(BY_NAME["llama_spm"])
    contents["config.json"]["pad_token_id"] = -1
    entries = _read(tmp_path, contents, BY_NAME["llama_spm"]["class"])
    assert _get(entries, "ggml.padding_token_id") is None


def test_a_negative_special_id_is_refused(tmp_path: Path) -> None:
    """config.json cannot name a token before the first."""
    contents = case_files(BY_NAME["llama_spm"])
    contents["config.json"]["pad_token_id"] = -2
    with pytest.raises(FormatError, match="pad_token_id: -2"):
        _read(tmp_path, contents, "LlamaForCausalLM")


def test_special_ids_beyond_the_vocabulary_are_dropped(tmp_path: Path) -> None:
    """Where the vocabulary's size is certain, an id beyond it is not written."""
    contents = case_files(BY_NAME["llama_spm"])
    contents["config.json"]["pad_token_id"] = 10_000
    assert _get(_read(tmp_path, contents, "LlamaForCausalLM"), "ggml.padding_token_id") is None


def test_glm_without_its_tokens_is_refused(tmp_path: Path) -> None:
    """A family's fixed tokens must be in the vocabulary."""
    contents = case_files(BY_NAME["separator"])
    with pytest.raises(FormatError, match="endoftext"):
        _read(tmp_path, contents, "Glm4ForCausalLM")


def test_a_directory_in_a_files_place_is_refused(tmp_path: Path) -> None:
    """Only regular files are opened."""
    contents = case_files(BY_NAME["llama_spm"])
    files = write_files(tmp_path, contents)
    files["tokenizer.model"] = tmp_path
    with pytest.raises(SourceError, match="not a regular file"):
        vocabulary(files, contents["config.json"], find("LlamaForCausalLM").vocabulary)


def test_escaped_characters_beyond_the_first_plane_are_text(tmp_path: Path) -> None:
    """Both halves of a pair make one character."""
    contents = case_files(BY_NAME["qwen_bpe"])
    contents["tokenizer_config.json"] = '{"chat_template": "\\ud83d\\ude00"}'
    assert _get(_read(tmp_path, contents, "Qwen3ForCausalLM"), "chat_template") == "\U0001f600"


def test_errors_are_of_the_tree(tmp_path: Path) -> None:
    """Any single value of tokenizer.json replaced by nonsense gives entries or an mbuild error."""
    nonsense: list[Any] = [None, 5, -1, "x", [], [[]], {}, {"type": 3}, True, 1e308]
    for key in (
        "added_tokens",
        "normalizer",
        "pre_tokenizer",
        "post_processor",
        "decoder",
        "model",
    ):
        for value in nonsense:
            contents = case_files(BY_NAME["other_eos"])
            contents["tokenizer.json"][key] = value
            try:
                entries = _read(tmp_path, contents, "GPT2LMHeadModel")
            except MbuildError:
                continue
            assert entries[0].type is ValueType.STRING
    for key in contents["tokenizer_config.json"]:
        for value in nonsense:
            contents = case_files(BY_NAME["other_eos"])
            contents["tokenizer_config.json"][key] = value
            try:
                _read(tmp_path, contents, "GPT2LMHeadModel")
            except MbuildError:
                continue
