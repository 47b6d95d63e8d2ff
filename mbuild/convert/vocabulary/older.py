"""Vocabularies of before tokenizer.json: ``vocab.txt`` of BERT, ``vocab.json`` of GPT-2.

They are turned into the tokenizer.json that Hugging Face's tokenizer class
would make of them, so that there is one way from there on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.files import TOKENIZER_LIMIT, decode
from mbuild.convert.vocabulary.loader import CONFIG
from mbuild.convert.vocabulary.special import merges_txt
from mbuild.convert.vocabulary.tokenizer_json import TokenizerJson, check_vocab
from mbuild.core.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.read.files import CheckpointFiles


def older_tokenizer(files: CheckpointFiles, default_class: str) -> TokenizerJson | None:
    """The tokenizer of the older files; None when they are not there."""
    settings = files.json_object(CONFIG) or {}
    class_ = str(settings.get("tokenizer_class") or default_class).removesuffix("Fast")
    if "vocab.txt" in files and class_ in ("BertTokenizer", ""):
        return _wordpiece(_lines(files), settings)
    if {"vocab.json", "merges.txt"} <= {name for name in OLD_BPE if name in files}:
        vocab = check_vocab(files.json_object("vocab.json", TOKENIZER_LIMIT), "vocab.json")
        return _byte_level(vocab, merges_txt(files), class_)
    return None


OLD_BPE = ("vocab.json", "merges.txt")


def _lines(files: CheckpointFiles) -> dict[str, int]:
    """vocab.txt: one token a line, its number the id."""
    lines = decode(files.read("vocab.txt", TOKENIZER_LIMIT), "vocab.txt").split("\n")
    if lines[-1] == "":
        del lines[-1]
    vocab = {line.rstrip("\r"): id_ for id_, line in enumerate(lines)}
    if len(vocab) != len(lines):
        raise FormatError("vocab.txt: a token occurs twice")
    return check_vocab(vocab, "vocab.txt")


def _wordpiece(vocab: dict[str, int], settings: Mapping[str, Any]) -> TokenizerJson:
    """``BertTokenizer``: lower case unless told otherwise, ``[CLS] text [SEP]``."""
    for name in ("[UNK]", "[CLS]", "[SEP]"):
        if name not in vocab:
            raise FormatError(f"vocab.txt: the token {name} is missing")
    cls, sep = ({"id": t, "ids": [vocab[t]], "tokens": [t]} for t in ("[CLS]", "[SEP]"))
    lower = settings.get("do_lower_case", True)
    raw: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
            "strip_accents": settings.get("strip_accents"),
            "lowercase": lower,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [_special("[CLS]"), _text("A", 0), _special("[SEP]")],
            "pair": [
                *(_special("[CLS]"), _text("A", 0), _special("[SEP]")),
                *(_text("B", 1), _special("[SEP]", 1)),
            ],
            "special_tokens": {"[CLS]": cls, "[SEP]": sep},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }
    return TokenizerJson(raw, "WordPiece", vocab, [], [])


def _special(id_: str, segment: int = 0) -> dict[str, Any]:
    return {"SpecialToken": {"id": id_, "type_id": segment}}


def _text(id_: str, segment: int) -> dict[str, Any]:
    return {"Sequence": {"id": id_, "type_id": segment}}


def _byte_level(vocab: dict[str, int], merges: list[str], class_: str) -> TokenizerJson:
    """``GPT2Tokenizer``; ``RobertaTokenizer`` adds ``<s> text </s>``."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    byte_level["use_regex"] = True
    post: dict[str, Any] = byte_level
    if class_ == "RobertaTokenizer" and {"<s>", "</s>"} <= vocab.keys():
        post = {"type": "RobertaProcessing", "trim_offsets": True, "add_prefix_space": False}
        post |= {"cls": ["<s>", vocab["<s>"]], "sep": ["</s>", vocab["</s>"]]}
    raw: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": post,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": vocab, "merges": merges},
    }
    return TokenizerJson(raw, "BPE", vocab, [], [])
