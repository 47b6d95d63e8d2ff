"""general.*: names, sizes and origins by llama.cpp's heuristics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vocab_cases import write_files

from mbuild.convert.metadata.card import CARD_LIMIT, YAML_LIMIT, parse_card
from mbuild.convert.metadata.general import QUANTIZATION_VERSION, SAMPLING, Parameters, general
from mbuild.convert.metadata.name import Name, parse_name, title
from mbuild.core.errors import FormatError
from mbuild.gguf.types import ValueType

B = 10**9
SEVEN = Parameters(7 * B, 7 * B)


def _general(
    folder: Path, contents: dict[str, Any], parameters: Parameters = SEVEN, **options: Any
) -> dict[str, Any]:
    entries = general(folder.name, write_files(folder, contents), "llama", parameters, **options)
    return {kv.key.removeprefix("general."): kv.value for kv in entries}


@pytest.mark.parametrize(
    ("identifier", "parameters", "expected"),
    [
        (
            "meta-llama/Llama-3.2-1B-Instruct",
            B,
            Name("Llama-3.2-1B-Instruct", "meta-llama", "Llama-3.2", "Instruct", "", "1B"),
        ),
        (
            "mistralai/Mistral-7B-Instruct-v0.2",
            7 * B,
            Name("Mistral-7B-Instruct-v0.2", "mistralai", "Mistral", "Instruct", "v0.2", "7B"),
        ),
        ("Mixtral-8x7B-v0.1", 0, Name("Mixtral-8x7B-v0.1", "", "Mixtral", "", "v0.1", "8x7B")),
        ("bloom-7b1", 7 * B, Name("bloom-7b1", "", "bloom", "", "", "7.1B")),
        ("Qwen2-0.5_B", 0, Name("Qwen2-0.5_B", "", "Qwen2", "0.5_B", "", "")),
        ("Qwen2-0_5b", B // 2, Name("Qwen2-0_5b", "", "Qwen2", "", "", "0.5B")),
        ("Yi-34B-200K", 34 * B, Name("Yi-34B-200K", "", "Yi", "200k", "", "34B")),
        (
            "Phi-3-mini-4k-instruct",
            4 * B,
            Name("Phi-3-mini-4k-instruct", "", "Phi-3", "4k-instruct", "", "mini"),
        ),
        ("X-mini-3B", 3 * B, Name("X-mini-3B", "", "X-mini", "", "", "3B")),
        ("X-7B-Q4_K_M", 0, Name("X-7B-Q4_K_M", "", "X", "", "", "7B")),
        ("X-7B-hf-fp16", 0, Name("X-7B-hf-fp16", "", "X", "hf", "", "7B")),
        ("gpt2", 0, Name("gpt2", "", "", "", "", "")),
        ("some-words-only", 0, Name("some-words-only", "", "", "", "", "")),
        ("Hermes-2-Pro-7B", 0, Name("Hermes-2-Pro-7B", "", "Hermes-2-Pro", "", "", "7B")),
        ("Mistral-v0.3", 0, Name("Mistral-v0.3", "", "Mistral", "", "v0.3", "")),
        ("x-lora", -(10**6), Name("x-lora", "", "", "", "", "")),
        ("x-lora", 10**6, Name("x-lora", "", "x", "lora", "", "")),
        ("x-7B", -(10**6), Name("x-7B", "", "x", "", "", "7B")),
        ("x-1K", -(10**6), Name("x-1K", "", "x", "1k", "", "")),
        ("A model with spaces", 0, Name("A model with spaces")),
        ("./x-7B", 0, Name("x-7B", "", "x", "", "", "7B")),
        ("a--7B", 0, Name("a--7B", "", "a", "", "", "7B")),
        ("x-" * 600, 0, Name("x-" * 600)),
    ],
)  # fmt: skip
def test_identifiers_are_taken_apart(identifier: str, parameters: int, expected: Name) -> None:
    """Organization, base name, finetune, version and size, as gguf-py finds them."""
    assert parse_name(identifier, parameters) == expected


@given(st.text(max_size=60), st.integers(-(10**13), 10**13))
def test_any_identifier_is_some_name(identifier: str, parameters: int) -> None:
    """No identifier makes the parser fail, and its parts come from it."""
    name = parse_name(identifier, parameters)
    assert name.full in identifier
    assert name.organization in identifier


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tiny-llama", "Tiny Llama"),
        ("Llama-3.2-1b-instruct", "Llama 3.2 1b Instruct"),
        ("qwen3_moe", "Qwen3_Moe"),
        ("model v2.1-x", "Model v2.1 X"),
        ("DeepSeek", "DeepSeek"),
    ],
)
def test_titles(text: str, expected: str) -> None:
    """Lower-case words get capitals; versions and numbers do not."""
    assert title(text) == expected


@pytest.mark.parametrize(
    ("parameters", "label"),
    [
        (Parameters(135_000_000), "135M"),
        (Parameters(8_400_000), "8.4M"),
        (Parameters(1_235_000_000), "1.2B"),
        (Parameters(36_864), "37K"),
        (Parameters(50), "0.05K"),
        (Parameters(2 * 10**12), "2.0T"),
        (Parameters(47 * B, 2 * B, 5_625_000_000, 8), "8x7.6B"),
    ],
)
def test_size_labels(parameters: Parameters, label: str) -> None:
    """At least two digits, and experts times what one token passes through."""
    assert parameters.label() == label


def test_parameters_count_stacked_experts_once_each() -> None:
    """A stack of experts counts as one expert; biases have one dimension less."""
    tensors = [
        ("token_embd.weight", (4, 10)),
        ("blk.0.ffn_up_exps.weight", (4, 6, 8)),
        ("blk.0.ffn_up_exps.bias", (6, 8)),
        ("blk.0.ffn_gate_inp.weight", (4, 8)),
    ]
    assert Parameters.count(tensors) == Parameters(40 + 192 + 48 + 32, 40 + 48 + 32, 24, 8)


def test_an_adapters_pairs_count_as_the_matrices_they_stand_for() -> None:
    """A pair of factors is an (in, out) matrix, and the total is negative."""
    pair = [("a.weight.lora_a", (100, 4)), ("a.weight.lora_b", (4, 30))]
    assert Parameters.count(pair) == Parameters(-3000, 3000)
    assert Parameters.count(pair[::-1]) == Parameters(0)


def test_order_and_types_of_everything(tmp_path: Path) -> None:
    """All keys of a card in the order in which gguf-py writes them."""
    folder = tmp_path / "some-dir"
    card = """---
language:
- en
- no
license: [mit, apache-2.0]
license_name: mine
license_link: https://x/l
tags: [chat, fun]
pipeline_tag: text-generation
model_name: Zephyr
model_creator: me
base_model: org/Base-7B-v1.0
datasets:
- https://huggingface.co/datasets-org/set-2
- name: Own
  author: you
- https://example.org/data
description: >-
  folded
  text
version: 1.0
url: https://s
doi: 10.1/x
---
# Title
"""
    contents = {
        "README.md": card,
        "config.json": {"_name_or_path": "acme/Zephyr-7B-Chat"},
        "generation_config.json": {"temperature": 1, "top_k": 20, "repetition_penalty": 1.1},
    }
    entries = general("some-dir", write_files(folder, contents), "llama", SEVEN)
    assert [(kv.key.removeprefix("general."), kv.type.name, kv.value) for kv in entries] == [
        ("architecture", "STRING", "llama"),
        ("type", "STRING", "model"),
        ("sampling.top_k", "INT32", 20),
        ("sampling.temp", "FLOAT32", 1.0),
        ("sampling.penalty_repeat", "FLOAT32", 1.1),
        ("name", "STRING", "Zephyr"),
        ("author", "STRING", "me"),
        ("version", "STRING", "1.0"),
        ("organization", "STRING", "Acme"),
        ("finetune", "STRING", "Chat"),
        ("basename", "STRING", "Zephyr"),
        ("description", "STRING", "folded text"),
        ("size_label", "STRING", "7B"),
        ("license", "STRING", "mit,apache-2.0"),
        ("license.name", "STRING", "mine"),
        ("license.link", "STRING", "https://x/l"),
        ("source.url", "STRING", "https://s"),
        ("source.doi", "STRING", "10.1/x"),
        ("base_model.count", "UINT32", 1),
        ("base_model.0.name", "STRING", "Base 7B v1.0"),
        ("base_model.0.version", "STRING", "v1.0"),
        ("base_model.0.organization", "STRING", "Org"),
        ("base_model.0.repo_url", "STRING", "https://huggingface.co/org/Base-7B-v1.0"),
        ("dataset.count", "UINT32", 3),
        ("dataset.0.name", "STRING", "Set 2"),
        ("dataset.0.version", "STRING", "2"),
        ("dataset.0.organization", "STRING", "Datasets Org"),
        ("dataset.0.repo_url", "STRING", "https://huggingface.co/datasets-org/set-2"),
        ("dataset.1.name", "STRING", "Own"),
        ("dataset.1.author", "STRING", "you"),
        ("dataset.2.repo_url", "STRING", "https://example.org/data"),
        ("tags", "ARRAY", ["chat", "fun", "text-generation"]),
        ("languages", "ARRAY", ["en", "no"]),
    ]


def test_the_folder_names_a_model_that_nothing_else_names(tmp_path: Path) -> None:
    """Without a card and a path in the config the folder's name is taken apart."""
    found = _general(tmp_path / "tiny-7B-chat-v2", {"config.json": {}})
    assert found["name"] == "Tiny 7B Chat v2"
    assert (found["basename"], found["finetune"], found["version"]) == ("tiny", "chat", "v2")
    assert found["size_label"] == "7B"


def test_the_size_is_counted_when_no_name_tells_it(tmp_path: Path) -> None:
    """A size that no name has comes from the tensors; an adapter has none."""
    assert _general(tmp_path / "x", {})["size_label"] == "7.0B"
    found = _general(tmp_path / "y", {}, Parameters(-5000, 5000), kind="adapter")
    assert "size_label" not in found
    assert [*found][:3] == ["architecture", "type", "adapter.type"]
    assert found["type"] == "adapter"


def test_a_path_on_some_disk_is_no_name(tmp_path: Path) -> None:
    """_name_or_path with more than one slash is where somebody's file lay."""
    config = {"_name_or_path": "/home/me/Other-3B"}
    assert _general(tmp_path / "mine", {"config.json": config})["name"] == "Mine"


def test_an_empty_path_leaves_the_folders_name(tmp_path: Path) -> None:
    """A model always has a name (gguf-py writes none here)."""
    assert _general(tmp_path / "mine", {"config.json": {"_name_or_path": ""}})["name"] == "Mine"


def test_the_given_name_wins(tmp_path: Path) -> None:
    """A name that the user gives is written as it is."""
    assert _general(tmp_path / "x", {}, model_name="my own")["name"] == "my own"


def test_every_sampling_setting_has_its_key(tmp_path: Path) -> None:
    """All settings of generation_config.json that GGUF has a key for, with their types."""
    names = {names[0]: "abc" if t is ValueType.STRING else 2 for _, names, t in SAMPLING}
    found = _general(tmp_path / "x", {"generation_config.json": names})
    assert {k for k in found if k.startswith("sampling.")} == {
        f"sampling.{k}" for k, *_ in SAMPLING
    }


@pytest.mark.parametrize("value", [None, True, "1", [1], float("nan"), float("inf"), 1e39, {}])
def test_sampling_settings_of_other_kinds_are_left_out(value: Any, tmp_path: Path) -> None:
    """What is no number is no setting."""
    found = _general(tmp_path / "x", {"generation_config.json": {"temperature": value}})
    assert "sampling.temp" not in found


def test_a_broken_generation_config_is_none(tmp_path: Path) -> None:
    """As with llama.cpp, a model may have an invalid one."""
    assert "name" in _general(tmp_path / "x", {"generation_config.json": "{"})


def test_a_huge_whole_number_is_refused(tmp_path: Path) -> None:
    """top_k has 32 bits."""
    with pytest.raises(FormatError, match="top_k"):
        _general(tmp_path / "x", {"generation_config.json": {"top_k": 2**40}})


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("", {}),
        ("# title", {}),
        ("---\n---\n", {}),
        ("---\nlicense: mit", {"license": "mit"}),
        ("\n---\nlicense: mit\n---\n", {}),
        ("---\n- a\n---\n", {}),
        ("---\nlicense: ~\nauthor: null\n---\n", {}),
        ("---\nversion: 2024-05-01\nname: yes\nauthor: 0x10\n---\n",
         {"version": "2024-05-01", "name": "yes", "author": "0x10"}),
        ("---\nlanguage:\n- no\n\t- x\n---\n", {"language": ["no - x"]}),
        ("---\nwidget: {\n  broken: [\nlicense: mit\n---\n", {"license": "mit"}),
        ('---\nmodel-index:\n- name: "x\nlicense: mit\n---\n', {"license": "mit"}),
        ("---\nlicense: &a mit\ntags: [*a, *a]\n---\n", {"license": "mit", "tags": ["mit", "mit"]}),
        ("---\nlicense: [\n---\n", {}),
        ("---\ntags: " + "[" * 20_000 + "\n---\n", {}),
        ("---\ntags: " + "- " * 15_000 + "x\n---\n", {}),
        ("---\ntags:\n" + "- x\n" * YAML_LIMIT + "---\n", {}),
        ("---\nlicense: !!python/object:os.system x\n---\n", {"license": "x"}),
    ],
)  # fmt: skip
def test_front_matter(card: str, expected: dict[str, Any]) -> None:
    """Only used entries are read, everything is text, and a broken card is none."""
    assert parse_card(card) == expected


@given(st.text(alphabet="ab:-[]{}&*!|>'\"\n #?,~<", max_size=200))
def test_any_card_is_read_or_none(text: str) -> None:
    """No front matter makes the conversion fail."""
    assert isinstance(parse_card(f"---\nlicense: {text}\ntags:\n{text}\n---\n"), dict)


def test_an_enormous_card_is_none(tmp_path: Path) -> None:
    """A README beyond the limit is not read at all."""
    found = _general(tmp_path / "x", {"README.md": "---\nname: N\n---\n" + "x" * CARD_LIMIT})
    assert found["name"] == "X"


def test_hostile_values_of_a_card_are_left_out(tmp_path: Path) -> None:
    """Objects and lists in the place of texts give no entry."""
    card = "---\nname: {a: b}\nlicense: [[x], {y: z}]\ntags: {a: b}\nbase_model: [[x]]\n---\n"
    found = _general(tmp_path / "x", {"README.md": card})
    assert found["base_model.count"] == 1
    assert not {"license", "tags", "base_model.0.name"} & found.keys()


def test_the_quantization_version_is_two() -> None:
    """The entry that stands after an architecture's own."""
    assert (QUANTIZATION_VERSION.key, QUANTIZATION_VERSION.value) == (
        "general.quantization_version",
        2,
    )
