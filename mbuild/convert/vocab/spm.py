"""Tokens of families with SentencePiece's ``tokenizer.model``, and of XLM-RoBERTa's Unigram.

Each function does what one reader of llama.cpp's converter does with the
pieces and with the tokens that other files add to them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mbuild.convert.vocab.base import MARK, Tokens, TokenType, looks_special, vocab_size
from mbuild.convert.vocab.loader import CONFIG, added_tokens, added_tokens_decoder
from mbuild.convert.vocab.sentencepiece import SentencePieceModel, read_model
from mbuild.convert.vocab.source import TOKENIZER_LIMIT
from mbuild.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mbuild.convert.vocab.source import Files

MODEL = "tokenizer.model"
_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* \d+\r?\n")
ADDED_SCORE = -1000.0
PADDING_SCORE = -10000.0


def has_pieces(files: Files) -> bool:
    """Whether there is a tokenizer.model with pieces.

    Llama 3 calls a file of tiktoken's by the same name (lines of base64 and a rank). It is
    passed over where tokenizer.json has the vocabulary; otherwise :class:`FormatError`.
    """
    if MODEL not in files:
        return False
    if not _TIKTOKEN.match(files.read(MODEL, TOKENIZER_LIMIT)):
        return True
    if "tokenizer.json" in files:
        return False
    raise FormatError(
        "tokenizer.model is a file of tiktoken's, not of SentencePiece's",
        hint="put the base model's tokenizer.json beside it",
    )


@dataclass(slots=True)
class Table:
    """Parallel lists by id; unlike :class:`Tokens` they may still change."""

    texts: list[str]
    scores: list[float]
    types: list[int]

    @classmethod
    def padded(cls, model: SentencePieceModel, size: int) -> Table:
        """The first ``size`` pieces, or all and ``[PAD<id>]`` to fill up."""
        count = min(size, len(model.texts))
        more = size - count
        return cls(
            model.texts[:count] + [f"[PAD{id_}]" for id_ in range(count, size)],
            model.scores[:count] + [PADDING_SCORE] * more,
            _types(model)[:count] + [TokenType.UNUSED] * more,
        )

    def put(self, id_: int, text: str, type_: TokenType, score: float = ADDED_SCORE) -> None:
        """Replace a token."""
        self.texts[id_], self.types[id_], self.scores[id_] = text, type_, score

    def freeze(self) -> Tokens:
        """The tokens as arrays."""
        import numpy as np

        types = np.array(self.types, np.int32)
        return Tokens(self.texts, types, np.array(self.scores, np.float32))


def _types(model: SentencePieceModel) -> list[int]:
    """Token types of pieces: the converter does not tell user-defined pieces from normal ones."""
    changed = {int(TokenType.USER_DEFINED): int(TokenType.NORMAL)}
    return [changed.get(type_, type_) for type_ in model.types]


def read_pieces(files: Files, name: str = MODEL) -> SentencePieceModel:
    """Read a SentencePiece model of the checkpoint."""
    return read_model(files.read(name, TOKENIZER_LIMIT), name)


def sentencepiece_tokens(files: Files, config: Mapping[str, Any]) -> Tokens:
    """The common reader (``_create_vocab_sentencepiece``)."""
    model = read_pieces(files)
    table = Table.padded(model, vocab_size(config, len(model.texts)))
    _put_added_json(files, table)
    decoder = added_tokens_decoder(files.json_object(CONFIG) or {})
    for id_, raw in decoder.items():
        if id_ >= len(table.texts):
            continue
        text = raw["content"]
        if raw.get("special") or looks_special(text):
            table.put(id_, text, TokenType.CONTROL)
        else:
            table.put(id_, text.replace(MARK, " "), TokenType.USER_DEFINED)
    return table.freeze()


def phi3_tokens(files: Files, config: Mapping[str, Any]) -> Tokens:
    """Phi-3's reader: added tokens as they are, tokenizer.json's last."""
    model = read_pieces(files)
    table = Table.padded(model, vocab_size(config, len(model.texts)))
    _put_added_json(files, table)
    _put_declared(files, table)
    return table.freeze()


def internlm2_tokens(files: Files, config: Mapping[str, Any]) -> Tokens:
    """InternLM 2's reader: NUL as a dragon, ``[UNUSED...`` unused, added tokens appended."""
    model = read_pieces(files)
    size = vocab_size(config, len(model.texts))
    if size > len(model.texts):
        raise FormatError(f"config.json: vocab_size {size}, but {MODEL} has {len(model.texts)}")
    table = Table.padded(model, size)
    for id_, text in enumerate(table.texts):
        if text == "\0":
            table.texts[id_] = "\U0001f409"
        if text.startswith("[UNUSED"):
            table.types[id_] = TokenType.UNUSED
    for text in added_tokens(files):
        table.texts.append(text)
        table.scores.append(ADDED_SCORE)
        table.types.append(TokenType.USER_DEFINED)
    _put_declared(files, table)
    return table.freeze()


def _put_added_json(files: Files, table: Table) -> None:
    for text, id_ in added_tokens(files).items():
        if id_ < len(table.texts):
            table.put(id_, text, TokenType.USER_DEFINED)


def declared_tokens(files: Files) -> Iterable[tuple[int, Mapping[str, Any], str]]:
    """Ids, tokens and files of added_tokens_decoder, then of tokenizer.json's added_tokens."""
    for id_, raw in added_tokens_decoder(files.json_object(CONFIG) or {}).items():
        yield id_, raw, CONFIG
    name = "tokenizer.json"
    entries = (files.json_object(name, TOKENIZER_LIMIT) or {}).get("added_tokens")
    for raw in entries if isinstance(entries, list) else ():
        match raw:
            case {"id": int() as id_, "content": str()}:
                yield id_, raw, name
            case _:
                raise FormatError(f"{name}: an added token lacks its id or its content")


def _put_declared(files: Files, table: Table) -> None:
    for id_, raw, name in declared_tokens(files):
        if not 0 <= id_ < len(table.texts):
            raise FormatError(
                f"{name}: added token {raw['content']!r} has the id {id_}, "
                f"but the vocabulary has {len(table.texts)} tokens"
            )
        type_ = TokenType.CONTROL if raw.get("special") else TokenType.USER_DEFINED
        table.put(id_, raw["content"], type_)


def xlm_roberta_tokens(
    model: SentencePieceModel, config: Mapping[str, Any], mask_at: int
) -> Tokens:
    """XLM-RoBERTa's order: four special tokens first, then the pieces from the fourth on.

    The last id of the vocabulary is left for the mask token, which the
    converter writes only for families with a place for it (``mask_at``).
    """
    known = len(model.texts)
    table = Table.padded(model, max(vocab_size(config, known), known))
    control, unknown = int(TokenType.CONTROL), int(TokenType.UNKNOWN)
    table = Table(
        ["<s>", "<pad>", "</s>", "<unk>", *table.texts[3:-1]],
        [0.0, 0.0, 0.0, 0.0, *table.scores[3:-1]],
        [control, control, control, unknown, *table.types[3:-1]],
    )
    if 0 < mask_at < len(table.texts):
        table.put(mask_at, "<mask>", TokenType.CONTROL, 0.0)
    return table.freeze()
