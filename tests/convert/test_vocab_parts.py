"""Parts of reading a vocabulary by themselves: tokens, entries, special tokens, templates."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vocab_cases import write_files

from mbuild.convert.read.files import TEMPLATE_LIMIT, CheckpointFiles
from mbuild.convert.vocabulary import encode
from mbuild.convert.vocabulary.base import Tokens, TokenType, base_tokens, looks_special, vocab_size
from mbuild.convert.vocabulary.doubts import doubts
from mbuild.convert.vocabulary.entries import Entries
from mbuild.convert.vocabulary.loader import load_added
from mbuild.convert.vocabulary.older import older_tokenizer
from mbuild.convert.vocabulary.postprocessor import PostProcessor
from mbuild.convert.vocabulary.special import Specials
from mbuild.convert.vocabulary.templates import KEY, NAMES_KEY, chat_template, write_template
from mbuild.convert.vocabulary.tokenizer_json import TokenizerJson, read_tokenizer_json
from mbuild.core.errors import FormatError
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType


def _files(folder: Path, **contents: Any) -> CheckpointFiles:
    named = {name.replace("__", "."): content for name, content in contents.items()}
    return CheckpointFiles(write_files(folder, named))


# --- entries ---


def test_a_key_keeps_its_first_place_and_its_last_value() -> None:
    """As llama.cpp's writer does; what is empty is not written at all."""
    entries = Entries()
    entries.string("a", "first")
    entries.uint32("b", 7)
    entries.string("a", "second")
    entries.string("c", "")
    entries.array("d", [], ValueType.STRING)
    entries.boolean("e", False)
    assert [(kv.key, kv.type, kv.value) for kv in entries.list()] == [
        ("a", ValueType.STRING, "second"),
        ("b", ValueType.UINT32, 7),
        ("e", ValueType.BOOL, False),
    ]
    assert "a" in entries and "c" not in entries


def test_numbers_that_do_not_fit_are_refused_by_their_key() -> None:
    """Both ends of both kinds of numbers."""
    entries = Entries()
    entries.uint32("u", (1 << 32) - 1)
    entries.int32("i", -(1 << 31))
    for value in (-1, 1 << 32):
        with pytest.raises(FormatError, match=r"u: .* is not an unsigned"):
            entries.uint32("u", value)
    for value in (-(1 << 31) - 1, 1 << 31):
        with pytest.raises(FormatError, match=r"i: .* is not a signed"):
            entries.int32("i", value)
    entries.array("list", ["x"], ValueType.STRING)
    entries.add(KV("f", ValueType.FLOAT32, 0.5))
    assert entries.list()[-2:] == [
        KV("list", ValueType.ARRAY, ["x"], ValueType.STRING),
        KV("f", ValueType.FLOAT32, 0.5),
    ]


# --- tokens ---


@pytest.mark.parametrize("text", ["<pad>", "<|end|>", "<\uff5cbegin\uff5c>", "<unused12>"])
def test_tokens_that_look_special_are_control_tokens(text: str) -> None:
    """By their shape, though their file does not say so; a part of the shape is not enough."""
    assert looks_special(text)
    assert not looks_special(text[1:])


def test_the_vocabularys_size_is_config_jsons_within_reason() -> None:
    """The first name that is there counts; no number of tokens that would fill the memory."""
    assert vocab_size({}, 7) == 7
    assert vocab_size({"vocab_size": 9}, 7) == 9
    assert vocab_size({"vocab_size": 9, "padded": 12}, 7, "padded") == 12
    for wrong in (0, -1, "9", True, 1 << 40):
        with pytest.raises(FormatError, match="does not fit 7 known tokens"):
            vocab_size({"vocab_size": wrong}, 7)


def _tokenizer(folder: Path, added: list[dict[str, Any]]) -> tuple[TokenizerJson, Any]:
    raw = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}, "added_tokens": added}
    files = _files(folder, tokenizer__json=raw)
    tokenizer = read_tokenizer_json(files)
    assert tokenizer is not None
    return tokenizer, load_added(files, tokenizer.vocab, tokenizer.added)


ADDED = [
    {"id": 2, "content": "<s>", "special": True, "normalized": False},
    {"id": 3, "content": "\u2581x", "special": False, "normalized": True},
    {"id": 4, "content": "<|im_end|>", "special": False, "normalized": True},
]


def test_gaps_are_padded_and_added_tokens_have_their_types(tmp_path: Path) -> None:
    """Special ones and those that look so are control tokens; a visible space becomes a space."""
    tokenizer, loaded = _tokenizer(tmp_path, ADDED)
    made = base_tokens(tokenizer, loaded, {"vocab_size": 7})
    assert made.texts == ["a", "b", "<s>", " x", "<|im_end|>", "[PAD5]", "[PAD6]"]
    assert made.types.dtype == np.int32
    assert [TokenType(number).name for number in made.types] == [
        "NORMAL", "NORMAL", "CONTROL", "USER_DEFINED", "CONTROL", "UNUSED", "UNUSED",
    ]  # fmt: skip
    plain = base_tokens(tokenizer, loaded, {}, plain=True)
    assert plain.texts[3] == "\u2581x"
    assert plain.types[4] == TokenType.USER_DEFINED


def test_a_token_beyond_the_vocabulary_is_refused_by_name(tmp_path: Path) -> None:
    """The model has no row for it, so the tokenizer is another one's."""
    tokenizer, loaded = _tokenizer(tmp_path, ADDED)
    with pytest.raises(FormatError, match=r"token '<\|im_end\|>' has the id 4, .* of 4") as caught:
        base_tokens(tokenizer, loaded, {"vocab_size": 4})
    assert "vocab_size" in str(caught.value.hint)


# --- doubts ---


def _doubts(specials: Specials, **settings: Any) -> list[str]:
    types = [TokenType.NORMAL, TokenType.CONTROL, TokenType.UNUSED]
    tokens = Tokens(["a", "</s>", "[PAD2]"], np.array(types, np.int32))
    return [*doubts(specials, tokens, settings)]


def test_special_ids_without_a_token_are_told() -> None:
    """Beyond the end, on a filler, left out; one that has its token raises no doubt."""
    assert _doubts(Specials(ids={"eos": 1})) == []
    (beyond,) = _doubts(Specials(ids={"eos": 3}))
    assert beyond == "the eos token's id is 3, but the vocabulary ends at 2"
    (filler,) = _doubts(Specials(ids={"pad": 2}))
    assert "which no file of the vocabulary names: it is [PAD2] in the model" in filler
    (dropped,) = _doubts(Specials(dropped={"bos": 9}))
    assert "bos token's id, 9, is left out" in dropped
    assert _doubts(Specials(ids={"bos": 1}, dropped={"bos": 9})) == []


def test_a_beginning_or_end_that_the_vocabulary_lacks_is_told() -> None:
    """As text or as an object; a visible space counts as a space, other kinds do not matter."""
    (said,) = _doubts(Specials(), bos_token={"content": "<s>"})
    assert said == "tokenizer_config.json: bos_token is '<s>', which the vocabulary does not have"
    assert _doubts(Specials(), eos_token="</s>", mask_token="<mask>") == []


def test_a_template_of_another_model_is_told() -> None:
    """None of its turns' tokens is there; one that is there makes it this model's."""
    foreign = Specials(template="{{ '<|im_start|>' + role }}<|im_end|>")
    (said,) = _doubts(foreign)
    assert "the chat template uses <|im_start|>, <|im_end|>, which the vocabulary" in said
    (named,) = _doubts(Specials(template=[("default", "<|eot_id|>")]))
    assert "<|eot_id|>" in named
    tokens = Tokens(["<|im_end|>"], np.array([TokenType.CONTROL], np.int32))
    assert [*doubts(foreign, tokens, {})] == []
    assert _doubts(Specials(template="{{ messages }}")) == []


# --- the child that encodes ---


def _bpe() -> dict[str, Any]:
    special = {"id": 2, "content": "<s>", "special": True, "normalized": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    post = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [2], "tokens": ["<s>"]}},
    }
    return {
        "version": "1.0", "added_tokens": [special | flags], "normalizer": None,
        "pre_tokenizer": None, "post_processor": post,
        "decoder": {"type": "Replace", "pattern": {"String": "_"}, "content": " "},
        "model": {"type": "BPE", "vocab": {"a": 0, "_": 1}, "merges": []},
    }  # fmt: skip


def test_texts_are_encoded_with_and_without_special_tokens() -> None:
    """And tokens decoded one by one, or left as they are where there is no decoder."""
    raw = _bpe()
    request = {"tokenizer": json.dumps(raw), "text": "a_a", "decode": ["_a", "a"]}
    assert encode.answer(request) == {
        "ids": [2, 0, 1, 0], "bare": [0, 1, 0], "decoded": [" a", "a"],
    }  # fmt: skip
    bare = {"tokenizer": json.dumps(raw | {"decoder": None}), "text": None, "decode": ["_a"]}
    assert encode.answer(bare) == {"decoded": ["_a"]}


def test_the_child_answers_one_request_within_its_limits() -> None:
    """It imports nothing of mbuild, sets the limits, and a broken tokenizer is an answer."""
    program = Path(encode.__file__)
    answers = []
    for tokenizer in (json.dumps(_bpe()), "{}"):
        done = subprocess.run(
            [sys.executable, "-I", str(program), "20", str(4 << 30)],
            input=json.dumps({"tokenizer": tokenizer, "text": "a", "decode": []}),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        answers.append(json.loads(done.stdout))
    assert answers[0] == {"ids": [2, 0], "bare": [0], "decoded": []}
    assert answers[1].keys() == {"error"}
    shown = (
        f"import runpy, resource; m = runpy.run_path({str(program)!r});"
        "m['limit_resources'](7, 1 << 33);"
        "print(resource.getrlimit(resource.RLIMIT_CPU), resource.getrlimit(resource.RLIMIT_AS))"
    )
    done = subprocess.run(
        [sys.executable, "-c", shown], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == f"(7, 7) ({1 << 33}, {1 << 33})"


# --- vocabularies of before tokenizer.json ---


def test_bert_is_made_of_a_list_of_lines(tmp_path: Path) -> None:
    """A line's number is the id; the tokenizer is one that ``tokenizers`` loads and runs."""
    files = _files(
        tmp_path,
        vocab__txt="[UNK]\n[CLS]\n[SEP]\nhello\n##s\r\n",
        tokenizer_config__json={"tokenizer_class": "BertTokenizerFast"},
    )
    made = older_tokenizer(files, "")
    assert made is not None
    assert made.type == "WordPiece"
    assert made.vocab == {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "hello": 3, "##s": 4}
    request = {"tokenizer": json.dumps(made.raw), "text": "Hellos x", "decode": []}
    assert encode.answer(request)["ids"] == [1, 3, 4, 0, 2]
    kept = write_files(
        tmp_path,
        {"tokenizer_config.json": {"do_lower_case": False}, "vocab.txt": "[UNK]\n[CLS]\n[SEP]\n"},
    )
    cased = older_tokenizer(CheckpointFiles(kept), "BertTokenizer")
    assert cased is not None and cased.raw["normalizer"]["lowercase"] is False


@pytest.mark.parametrize(
    ("class_", "ids"), [("GPT2Tokenizer", [3]), ("RobertaTokenizer", [0, 3, 1])]
)
def test_gpt2_is_made_of_pieces_and_merges(class_: str, ids: list[int], tmp_path: Path) -> None:
    """RoBERTa's differs by a beginning and an end around the text."""
    files = _files(
        tmp_path,
        vocab__json={"<s>": 0, "</s>": 1, "a": 2, "ab": 3, "b": 4},
        merges__txt="#version: 0.2\na b\n",
    )
    made = older_tokenizer(files, class_)
    assert made is not None
    assert (made.type, made.raw["model"]["merges"]) == ("BPE", ["a b"])
    request = {"tokenizer": json.dumps(made.raw), "text": "ab", "decode": []}
    assert encode.answer(request)["ids"] == ids


def test_older_files_that_are_damaged_or_missing(tmp_path: Path) -> None:
    """A token that is there twice or missing is named; without the files there is no tokenizer."""
    for text, said in (
        ("[UNK]\n[UNK]\n", "occurs twice"),
        ("[UNK]\n[SEP]\n", r"\[CLS\] is missing"),
    ):
        with pytest.raises(FormatError, match=said):
            older_tokenizer(_files(tmp_path, vocab__txt=text), "BertTokenizer")
    assert older_tokenizer(_files(tmp_path, vocab__json={"a": 0}), "GPT2Tokenizer") is None


# --- post-processors ---


def _read(
    processor: Any, **settings: Any
) -> tuple[dict[str, Any], dict[str, bool], tuple[str, ...]]:
    add: dict[str, bool] = {}
    reader = PostProcessor(settings, add, ("bos", "eos"))
    return settings, add, reader.read(processor)


def _special(name: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": name}}


def _template(single: list[Any], pair: list[Any] | None = None) -> dict[str, Any]:
    return {"type": "TemplateProcessing", "single": single, "pair": pair or []}


A, B = {"Sequence": {"id": "A"}}, {"Sequence": {"id": "B"}}


def test_a_template_says_which_tokens_are_added() -> None:
    """The first and the last of one text, and what stands between two."""
    processor = _template(
        [_special("<s>"), A, _special("</s>")],
        [_special("<s>"), A, _special("</s>"), _special("</s>"), B, _special("</s>")],
    )
    settings, add, names = _read(processor, bos_token="<s>", eos_token="</s>")
    assert add == {"bos": True, "eos": True, "sep": True}
    assert settings == {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    assert names == ("bos", "eos")


def test_a_template_that_ends_otherwise_makes_the_old_end_one_of_a_turn() -> None:
    """The template's last token is the eos then, and the config's becomes the eot."""
    settings, add, names = _read(_template([A, _special("<end>")]), eos_token="</s>")
    assert settings == {"eos_token": "<end>", "eot_token": "</s>"}
    assert (add, names) == ({"eos": True}, ("bos", "eos", "eot"))


def test_a_beginning_that_the_config_does_not_name_is_not_added() -> None:
    """Unless the config names none at all."""
    _, add, _ = _read(_template([_special("<x>"), A]), bos_token="<s>", cls_token="<c>")
    assert add == {"bos": False}
    settings, add, _ = _read(_template([_special("<x>"), A]), eos_token="</s>")
    assert (settings["bos_token"], add) == ("<x>", {"bos": True})


def test_roberta_and_byte_level_have_their_own_ways() -> None:
    """The one adds everything and names its tokens, the other adds nothing; lists are read."""
    roberta = {"type": "RobertaProcessing", "cls": ["<s>", 0], "sep": ["</s>", 2]}
    settings, add, _ = _read(roberta, bos_token="<s>")
    assert add == {"bos": True, "eos": True, "sep": True}
    assert (settings["cls_token"], settings["sep_token"]) == ("<s>", "</s>")
    assert _read({"type": "ByteLevel"}, bos_token="x")[1] == {"bos": False, "eos": False}
    listed = {"type": "Sequence", "processors": [{"type": "ByteLevel"}, roberta, "odd"]}
    assert _read(listed, bos_token="<s>")[1] == add


@pytest.mark.parametrize("odd", [None, [], "x", {"processors": 3}, _template([1, 2], [3])])
def test_strange_post_processors_say_nothing(odd: Any) -> None:
    """Any JSON may stand there; a cls that has no bos beside it becomes one all the same."""
    settings, add, _ = _read(odd, cls_token="[CLS]", sep_token="[SEP]")
    assert add == {}
    assert (settings["bos_token"], settings["eos_token"]) == ("[CLS]", "[SEP]")


# --- chat templates ---


def test_templates_are_looked_for_in_one_order(tmp_path: Path) -> None:
    """The config's counts even when it is null; then a file, with those of a folder beside it."""
    alone = {"chat_template.jinja": "of a file", "chat_template.json": {"chat_template": "of json"}}
    files = CheckpointFiles(write_files(tmp_path, alone))
    assert chat_template(files, {"chat_template": "of the config"}) == "of the config"
    assert chat_template(files, {"chat_template": None}) is None
    assert chat_template(files, {}) == "of a file"
    more = {**alone, "additional_chat_templates/rag.jinja": "for rag"}
    files = CheckpointFiles(write_files(tmp_path, more))
    assert chat_template(files, {}) == [("default", "of a file"), ("rag", "for rag")]
    files = CheckpointFiles(
        write_files(tmp_path, {"chat_template.json": alone["chat_template.json"]})
    )
    assert chat_template(files, {}) == "of json"
    assert chat_template(CheckpointFiles({}), {}) is None


def test_a_template_without_a_name_or_of_great_length_is_refused() -> None:
    """One character more than the limit, alone or among others."""
    long = "x" * (TEMPLATE_LIMIT + 1)
    none = CheckpointFiles({})
    for value in (long, [{"name": "a", "template": long}]):
        with pytest.raises(FormatError, match="is too long"):
            chat_template(none, {"chat_template": value})
    with pytest.raises(FormatError, match="lacks a name or a template"):
        chat_template(none, {"chat_template": [{"name": "a"}]})
    assert chat_template(none, {"chat_template": long[1:]}) == long[1:]


def test_named_templates_have_keys_of_letters_and_digits() -> None:
    """The default one comes last and has the plain key; names are listed in order."""
    entries = Entries()
    write_template(entries, [("default", "d"), ("tool use", "t"), ("rag", "r")])
    assert [(kv.key, kv.value) for kv in entries.list()] == [
        (f"{KEY}.tool_use", "t"),
        (f"{KEY}.rag", "r"),
        (NAMES_KEY, ["tool_use", "rag"]),
        (KEY, "d"),
    ]
    alone = Entries()
    write_template(alone, "one")
    assert alone.list() == [KV(KEY, ValueType.STRING, "one")]
