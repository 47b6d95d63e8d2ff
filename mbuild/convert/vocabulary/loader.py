"""Added and special tokens as Hugging Face's loader puts them together.

``tokenizer.json`` has the tokens, ``tokenizer_config.json`` may give them
other flags (``added_tokens_decoder``) and names the special ones
(``bos_token`` ...); older checkpoints have ``special_tokens_map.json`` and
``added_tokens.json`` instead. The rules are those of transformers 5.23
(``tokenization_utils_base.py``, ``tokenization_utils_tokenizers.py``), which
llama.cpp's converter asks for a vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.vocabulary.classes import CLASS_DEFAULTS
from mbuild.convert.vocabulary.tokenizer_json import AddedToken
from mbuild.core.errors import FormatError
from mbuild.core.values import NamedTuple, replace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mbuild.convert.read.files import CheckpointFiles

CONFIG = "tokenizer_config.json"
SPECIAL_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class Loaded(NamedTuple):
    """Added tokens by text, and the texts that are named as special (``all_special_tokens``)."""

    added: dict[str, AddedToken]
    named: frozenset[str]


def token_text(value: object) -> str | None:
    """The text of a token that a config gives as text or as an object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def load_added(
    files: CheckpointFiles,
    vocab: Mapping[str, int],
    from_file: Sequence[AddedToken],
    default_class: str = "",
    room: object = None,
) -> Loaded:
    """Put the added tokens together.

    ``vocab`` is the model's vocabulary, ``from_file`` the added tokens of
    tokenizer.json, ``default_class`` the tokenizer class to assume when the
    config names none, ``room`` the number of tokens that the model has rows for: a token that no
    file names is added only where there is one. Raises :class:`FormatError` for malformed files.
    """
    config = files.json_object(CONFIG) or {}
    class_ = config.get("tokenizer_class")
    class_ = class_ if isinstance(class_, str) else default_class
    settings = _settings(files, config)
    defaults = CLASS_DEFAULTS.get(class_.removesuffix("Fast"), {})
    named = {k: t for k, t in defaults.items() if k not in settings}
    named |= {k: t for k, v in settings.items() if (t := _named(k, v)) is not None}
    texts = [named[k] for k in _in_order(named)]

    table = _Added(vocab, from_file, frozenset(texts))
    for id_, raw in sorted(_declared(files, config, frozenset(texts)).items()):
        table.declare(id_, raw)
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens")
    more = [token_text(t) for t in extra] if isinstance(extra, list) else []
    said = {named[k] for k in named if k in settings}
    for text in [*texts, *more]:
        new = text not in table.tokens
        full = type(room) is int and table.following >= room and text not in vocab
        if text and new and not (full and text not in said and text not in more):
            table.add(AddedToken(0, text, special=True, normalized=False))
    return Loaded(table.tokens, frozenset([*texts, *(t for t in more if t)]))


def _in_order(named: Mapping[str, str]) -> list[str]:
    known = [f"{name}_token" for name in SPECIAL_NAMES]
    return [k for k in known if k in named] + [k for k in named if k not in known]


def _named(key: str, value: object) -> str | None:
    return token_text(value) if key.endswith("_token") else None


def _settings(files: CheckpointFiles, config: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer_config.json, with special_tokens_map.json over it in older checkpoints."""
    settings = dict(config)
    if "added_tokens_decoder" not in config:
        settings |= files.json_object("special_tokens_map.json") or {}
    return settings


def _declared(
    files: CheckpointFiles, config: Mapping[str, Any], named: frozenset[str]
) -> dict[int, Mapping[str, Any]]:
    """Tokens that the config or added_tokens.json declares, by id."""
    if "added_tokens_decoder" in config:
        return added_tokens_decoder(config)
    declared: dict[int, Mapping[str, Any]] = {}
    for text, id_ in added_tokens(files).items():
        declared[id_] = {"content": text, "special": text in named}
    for entry in (files.json_object("tokenizer.json") or {}).get("added_tokens") or []:
        declared[entry["id"]] = entry
    return declared


def added_tokens_decoder(config: Mapping[str, Any]) -> dict[int, Mapping[str, Any]]:
    """``added_tokens_decoder`` of tokenizer_config.json in its order, ids as numbers."""
    decoder = config.get("added_tokens_decoder")
    if decoder is None:
        return {}
    if not isinstance(decoder, dict):
        raise FormatError(f"{CONFIG}: added_tokens_decoder must be an object")
    result: dict[int, Mapping[str, Any]] = {}
    for key, raw in decoder.items():
        if not (key.isascii() and key.isdigit() and len(key) < 10 and isinstance(raw, dict)):
            raise FormatError(f"{CONFIG}: added_tokens_decoder: {key!r} is not an id and a token")
        if not isinstance(raw.get("content"), str):
            raise FormatError(f"{CONFIG}: added_tokens_decoder: token {key} has no content")
        result[int(key)] = raw
    return result


def added_tokens(files: CheckpointFiles) -> dict[str, int]:
    """``added_tokens.json``: texts and ids."""
    table = files.json_object("added_tokens.json") or {}
    for text, id_ in table.items():
        if type(id_) is not int or not 0 <= id_ < 1 << 31:
            raise FormatError(f"added_tokens.json: the id of {text!r} must be a whole number")
    return table


class _Added:
    """The tokens so far, and the id that the next new one gets."""

    def __init__(
        self, vocab: Mapping[str, int], from_file: Iterable[AddedToken], named: frozenset[str]
    ) -> None:
        self.vocab, self.named = vocab, named
        self.tokens = {token.content: token for token in from_file}
        highest = max((token.id for token in self.tokens.values()), default=-1)
        self.following = max(highest + 1, len(vocab))

    def add(self, token: AddedToken) -> None:
        """Add a token or replace its flags; its id is the vocabulary's, or the next free one."""
        text = token.content
        id_ = self.tokens[text].id if text in self.tokens else self.vocab.get(text)
        if id_ is None:
            id_ = self.following
        self.following = max(self.following, id_ + 1)
        self.tokens[text] = replace(token, id=id_)

    def declare(self, id_: int, raw: Mapping[str, Any]) -> None:
        """Add a token of the config; one that is named as special is special."""
        special = raw.get("special") is True or raw["content"] in self.named
        self.add(AddedToken.read(id_, raw, special, CONFIG))
