"""Finding the pre-tokenizer: the small copy says what the whole file says, and nothing escapes."""

from __future__ import annotations

import copy
import hashlib
import json
import random
import re
import string
from pathlib import Path
from typing import Any

import pytest
from vocab_cases import BY_NAME, case_files, write_files

from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.vocabulary.hashes import CHECK_TEXT, PRE_TOKENIZERS
from mbuild.convert.vocabulary.loader import load_added
from mbuild.convert.vocabulary.pretokenizer import (
    WHOLE_LIMITS,
    _small,
    _whole,
    ask,
    decode_each,
    find_pre,
    hash_of,
)
from mbuild.convert.vocabulary.tokenizer_json import TokenizerJson, read_tokenizer_json
from mbuild.core.errors import FormatError, UnsupportedError


def _load(folder: Path, raw: dict[str, Any]) -> TokenizerJson:
    tokenizer = read_tokenizer_json(CheckpointFiles(write_files(folder, {"tokenizer.json": raw})))
    assert tokenizer is not None
    return tokenizer


def _trained(seed: int) -> dict[str, Any]:
    """A byte-level vocabulary learned from the check text and noise, with added tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    rng = random.Random(seed)
    tokenizer = Tokenizer(models.BPE(ignore_merges=bool(seed % 2)))
    tokenizer.normalizer = [None, normalizers.NFC(), normalizers.Lowercase(), normalizers.NFKD()][
        seed % 4
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(seed & 4))
    tokenizer.decoder = decoders.ByteLevel()
    words = ["".join(rng.choices(string.ascii_letters, k=5)) for _ in range(400)]
    trainer = trainers.BpeTrainer(
        vocab_size=900 + seed,
        show_progress=False,
        initial_alphabet=[chr(c) for c in range(33, 127)],
    )
    tokenizer.train_from_iterator([CHECK_TEXT * 3, " ".join(words)], trainer)
    tokenizer.add_tokens(["   ", "\n\n", "3333", "unrelated"])
    tokenizer.add_special_tokens(["<s>", "</s>"])
    raw: dict[str, Any] = json.loads(tokenizer.to_str())
    if seed % 3 == 0:
        raw["model"]["merges"] = [
            m if isinstance(m, str) else " ".join(m) for m in raw["model"]["merges"]
        ]
    return raw


@pytest.mark.parametrize("seed", range(8))
def test_the_small_copy_encodes_as_the_whole_file(seed: int, tmp_path: Path) -> None:
    """Leaving out what the check text cannot need changes no id, with or without normalizers."""
    from tokenizers import Tokenizer

    raw = _trained(seed)
    tokenizer = _load(tmp_path, raw)
    small, whole = _small(tokenizer, tokenizer.added), _whole(tokenizer, tokenizer.added)
    assert small is not None
    assert len(json.loads(small)["model"]["vocab"]) < len(raw["model"]["vocab"])
    expected = Tokenizer.from_str(json.dumps(raw)).encode(CHECK_TEXT).ids
    assert ask(small, CHECK_TEXT, ()).ids == expected
    assert ask(whole, CHECK_TEXT, ()).ids == expected


def test_the_name_is_found_by_the_hash_of_the_ids(tmp_path: Path) -> None:
    """The hash is the SHA-256 of the list of ids as Python prints it."""
    tokenizer = _load(tmp_path, _trained(1))
    small = _small(tokenizer, tokenizer.added)
    assert small is not None
    ids = ask(small, CHECK_TEXT, ()).ids
    assert find_pre(tokenizer, tokenizer.added, None, {hash_of(ids): "mine"}) == "mine"
    assert hash_of([1, 2]) == hashlib.sha256(b"[1, 2]").hexdigest()


def test_a_configured_bos_counts_first(tmp_path: Path) -> None:
    """Where the configuration adds a BOS that tokenizer.json does not, the hash is made with it."""
    tokenizer = _load(tmp_path, _trained(2))
    small = _small(tokenizer, tokenizer.added)
    assert small is not None
    ids = ask(small, CHECK_TEXT, ()).ids
    table = {hash_of(ids): "without", hash_of([7, *ids]): "with"}
    assert find_pre(tokenizer, tokenizer.added, 7, table) == "with"
    assert find_pre(tokenizer, tokenizer.added, None, table) == "without"


def test_special_tokens_around_the_text_do_not_hide_the_pre_tokenizer(tmp_path: Path) -> None:
    """When the ids with special tokens are unknown, those without are looked up."""
    raw = _trained(3)
    bos = next(t["id"] for t in raw["added_tokens"] if t["content"] == "<s>")
    plain = _load(tmp_path, raw)
    small = _small(plain, plain.added)
    assert small is not None
    ids = ask(small, CHECK_TEXT, ()).ids
    raw = copy.deepcopy(raw)
    step = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    raw["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [step, text],
        "pair": [step, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [bos], "tokens": ["<s>"]}},
    }
    tokenizer = _load(tmp_path, raw)
    assert find_pre(tokenizer, tokenizer.added, None, {hash_of(ids): "bare"}) == "bare"
    assert find_pre(tokenizer, tokenizer.added, None, {hash_of([bos, *ids]): "full"}) == "full"


def test_a_whole_file_is_asked_when_the_small_copy_is_unknown(tmp_path: Path) -> None:
    """A normalizer of a peculiar kind makes texts that the small copy has no tokens for."""
    raw = _trained(4)
    raw["normalizer"] = {"type": "Replace", "pattern": {"String": "apple"}, "content": "zqzqx"}
    tokenizer = _load(tmp_path, raw)
    small, whole = _small(tokenizer, tokenizer.added), _whole(tokenizer, tokenizer.added)
    assert small is not None
    ids = ask(whole, CHECK_TEXT, (), WHOLE_LIMITS).ids
    assert ask(small, CHECK_TEXT, ()).ids != ids
    assert find_pre(tokenizer, tokenizer.added, None, {hash_of(ids): "whole"}) == "whole"


def test_the_table_is_of_hashes_and_names() -> None:
    """95 hashes, each with a plain name, and the text that they were made of."""
    assert len(PRE_TOKENIZERS) == 95
    assert all(re.fullmatch(r"[0-9a-f]{64}", hash_) for hash_ in PRE_TOKENIZERS)
    assert all(re.fullmatch(r"[\w.-]+", name) for name in PRE_TOKENIZERS.values())
    assert (len(CHECK_TEXT), len(CHECK_TEXT.encode())) == (350, 431)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"pre_tokenizer": {"type": "Nonsense"}}, "tokenizer.json: "),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "("}}}, "tokenizer.json: "),
        (
            {
                "normalizer": {
                    "type": "Sequence",
                    "normalizers": [
                        {"type": "Replace", "pattern": {"String": c}, "content": c * 4000}
                        for c in " \n " * 3
                    ],
                }
            },
            "too much time or memory",
        ),
    ],
    ids=["unknown", "regex", "bomb"],
)
def test_what_harms_the_child_is_an_error_here(
    parts: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """A pre-tokenizer that cannot be built, or eats time or memory, is a FormatError."""
    raw = case_files(BY_NAME["separator"])["tokenizer.json"] | parts
    tokenizer = _load(tmp_path, raw)
    with pytest.raises(FormatError, match=message):
        find_pre(tokenizer, tokenizer.added, None)


def test_a_pattern_that_backtracks_without_end_is_answered(tmp_path: Path) -> None:
    """A regular expression of exponential time ends by the library's limit or by ours."""
    raw = case_files(BY_NAME["separator"])["tokenizer.json"]
    raw["pre_tokenizer"] = {
        "type": "Split",
        "pattern": {"Regex": "(?:(?:.+.+)+.+)+\\x00"},
        "behavior": "Isolated",
        "invert": False,
    }
    tokenizer = _load(tmp_path, raw)
    with pytest.raises((FormatError, UnsupportedError)):
        find_pre(tokenizer, tokenizer.added, None)


def test_a_vocabulary_of_unknown_kind_is_unsupported(tmp_path: Path) -> None:
    """WordPiece files go whole to the child, and are unknown just the same."""
    tokenizer = _load(tmp_path, case_files(BY_NAME["bert_json"])["tokenizer.json"])
    with pytest.raises(UnsupportedError, match="hash"):
        find_pre(tokenizer, tokenizer.added, None)


@pytest.mark.parametrize("name", ["llama_bpe", "bert_json", "llama_hf"])
def test_tokens_are_decoded_as_the_library_does(name: str, tmp_path: Path) -> None:
    """Byte characters, marks and plain text come back as tokenizers decodes them."""
    from tokenizers import Tokenizer

    contents = case_files(BY_NAME[name])
    tokenizer = _load(tmp_path, contents["tokenizer.json"])
    texts = ["<|x|>", "Ã©", "Ãx é", "\u2581\u2581a", "Ġthe", "é", "日", "##s", "<0x0A>", " y"]
    decoder = Tokenizer.from_str(json.dumps(contents["tokenizer.json"])).decoder
    assert decode_each(tokenizer, texts) == [decoder.decode([text]) for text in texts]


def test_flags_of_the_config_win_over_those_of_the_file(tmp_path: Path) -> None:
    """added_tokens_decoder replaces flags; a token that is named special is special."""
    contents = case_files(BY_NAME["qwen_bpe"])
    files = CheckpointFiles(write_files(tmp_path, contents))
    tokenizer = read_tokenizer_json(files)
    assert tokenizer is not None
    before = {t.content: t.special for t in tokenizer.added}
    after = {
        text: t.special
        for text, t in load_added(files, tokenizer.vocab, tokenizer.added).added.items()
    }
    assert before == {"<|a|>": False, "<b>": True, "<c>": False}
    assert after == {"<|a|>": True, "<b>": False, "<c>": True}
