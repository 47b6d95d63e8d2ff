"""Tokenizer classes and the special tokens that they bring."""

from __future__ import annotations

from mbuild.convert.vocabulary.classes import CLASS_DEFAULTS, CLASS_OF_TYPE


def test_every_type_has_a_class_with_tokens() -> None:
    """A class without a row would bring nothing, and nobody would see it."""
    assert set(CLASS_OF_TYPE.values()) <= CLASS_DEFAULTS.keys()


def test_classes_bring_tokens_of_the_kinds_that_there_are() -> None:
    """Kinds are those of transformers; each has one text."""
    kinds = {f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")}
    for tokens in CLASS_DEFAULTS.values():
        assert tokens.keys() <= kinds
        assert all(tokens.values())
    assert CLASS_DEFAULTS["LlamaTokenizer"] == {
        **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    }
