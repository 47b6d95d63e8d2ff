"""The files of a vocabulary are held against each other: no token is lost without a word."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from example_models import generator

from mbuild.convert.families import find
from mbuild.convert.vocabulary.assemble import vocabulary
from mbuild.core.errors import SourceError


def _vocabulary(
    folder: Path, size: int, files: dict[str, Any], arch: str = "LlamaForCausalLM", **config: Any
) -> tuple[dict[str, Any], list[str]]:
    """The entries and warnings of a SentencePiece model of six pieces with these files beside."""
    make = generator()
    pieces = [*make.CHAT[:3], ("a", make.NORMAL), ("b", make.NORMAL), ("c", make.NORMAL)]
    (folder / "tokenizer.model").write_bytes(make.sentencepiece(pieces, model_type=2))
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    found = {path.name: path for path in folder.iterdir()}
    warnings: list[str] = []
    settings = {"vocab_size": size, **config}
    entries = vocabulary(found, settings, find(arch).vocabulary, warn=warnings.append)
    return {kv.key.removeprefix("tokenizer.ggml."): kv.value for kv in entries}, warnings


def _json(*tokens: tuple[int, str, bool]) -> dict[str, Any]:
    added = [{"id": id_, "content": text, "special": special} for id_, text, special in tokens]
    return {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": added}


def test_tokens_that_only_tokenizer_json_has_are_taken_from_it(tmp_path: Path) -> None:
    """ChatML's tokens beside a tokenizer.model: real tokens, not paddings, and eos names one."""
    tokenizer = _json((6, "<|im_start|>", True), (7, "<|im_end|>", True), (8, "\u2581x", False))
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": {"eos_token": "<|im_end|>"}}
    found, warnings = _vocabulary(tmp_path, 9, files)
    assert found["tokens"][6:] == ["<|im_start|>", "<|im_end|>", " x"]
    assert list(found["token_type"][6:]) == [3, 3, 4]
    assert found["eos_token_id"] == 7
    assert warnings == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("added_tokens.json", {"<tool>": 6}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"6": {"content": "<tool>"}}}),
        ("tokenizer.json", _json((6, "<tool>", True))),
    ],
)
@pytest.mark.parametrize("arch", ["LlamaForCausalLM", "Phi3ForCausalLM", "InternLM2ForCausalLM"])
def test_a_token_beyond_the_model_is_left_out_by_name(
    name: str, content: Any, arch: str, tmp_path: Path
) -> None:
    """Every file and every reader: the list keeps its length, and a warning has text and id."""
    found, warnings = _vocabulary(tmp_path, 6, {name: content}, arch)
    assert len(found["tokens"]) == len(found["scores"]) == 6
    assert [w for w in warnings if name in w and "'<tool>' (6)" in w]


def test_pieces_beyond_the_model_are_counted(tmp_path: Path) -> None:
    """A vocab_size below tokenizer.model's drops pieces, of which three are named."""
    found, warnings = _vocabulary(tmp_path, 2, {})
    assert len(found["tokens"]) == 2
    assert "tokenizer.model" in warnings[0] and "and 1 more left out" in warnings[0]


def test_two_texts_for_one_id_are_a_warning(tmp_path: Path) -> None:
    """tokenizer_config.json counts before tokenizer.json, and that before tokenizer.model."""
    decoder = {"added_tokens_decoder": {"3": {"content": "<x>"}}}
    files = {"tokenizer_config.json": decoder, "tokenizer.json": _json((3, "<y>", True))}
    found, warnings = _vocabulary(tmp_path, 6, files)
    assert found["tokens"][3] == "<x>"
    assert any("'<y>'" in w and "'<x>'" in w for w in warnings)
    found, warnings = _vocabulary(tmp_path, 6, {**files, "tokenizer_config.json": {}})
    assert found["tokens"][3] == "<y>"
    assert any("'<y>'" in w and "'a'" in w for w in warnings)


def test_an_id_without_a_text_is_a_warning(tmp_path: Path) -> None:
    """eos names a padding; another lies beyond the vocabulary; a text that is nowhere."""
    settings = {"tokenizer_config.json": {"bos_token": "<|nowhere|>"}}
    _, warnings = _vocabulary(tmp_path, 8, settings, eos_token_id=7, pad_token_id=99)
    assert any("eos" in w and "[PAD7]" in w for w in warnings)
    assert any("pad" in w and "99" in w for w in warnings)
    assert any("<|nowhere|>" in w for w in warnings)


def test_a_template_of_another_model_is_a_warning(tmp_path: Path) -> None:
    """ChatML's turns without ChatML's tokens."""
    settings = {"chat_template": "<|im_start|>{{ messages }}<|im_end|>"}
    _, warnings = _vocabulary(tmp_path, 6, {"tokenizer_config.json": settings})
    assert any("<|im_start|>, <|im_end|>" in w for w in warnings)


def test_a_family_of_pieces_without_them_says_where_they_are(tmp_path: Path) -> None:
    """Gemma with tokenizer.json alone is told to copy the base model's tokenizer.model."""
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(_json()))
    with pytest.raises(SourceError) as caught:
        vocabulary({path.name: path}, {"vocab_size": 1}, find("GemmaForCausalLM").vocabulary)
    assert "copy tokenizer.model from the base model" in str(caught.value.hint)
