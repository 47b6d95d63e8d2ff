"""Tokens of families with SentencePiece's ``tokenizer.model``, and of XLM-RoBERTa's Unigram.

Each function does what one reader of llama.cpp's converter does with the
pieces and with the tokens that other files add to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.files import TOKENIZER_LIMIT
from mbuild.convert.vocabulary.base import MARK, Tokens, TokenType, looks_special, vocab_size
from mbuild.convert.vocabulary.loader import CONFIG, added_tokens, added_tokens_decoder
from mbuild.convert.vocabulary.sentencepiece import SentencePieceModel, read_model
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from mbuild.convert.read.files import CheckpointFiles

MODEL = "tokenizer.model"
TOKENIZER = "tokenizer.json"
_SHOWN = 3
_TIKTOKEN = regex(rb"[A-Za-z0-9+/]+=* \d+\r?\n")
ADDED_SCORE = -1000.0
PADDING_SCORE = -10000.0


def has_pieces(files: CheckpointFiles) -> bool:
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
        "tokenizer.model is a tiktoken file, not a SentencePiece model",
        hint="put the base model's tokenizer.json beside it",
    )


@dataclass(slots=True)
class TokenTable:
    """Parallel lists by id; unlike :class:`Tokens` they may still change."""

    texts: list[str]
    scores: list[float]
    types: list[int]

    @classmethod
    def padded(cls, model: SentencePieceModel, size: int) -> TokenTable:
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

    def declare(self, id_: int, raw: Mapping[str, Any]) -> None:
        """Replace a token by an added one, which is special or looks so, or is the user's."""
        text = raw["content"]
        if raw.get("special") or looks_special(text):
            self.put(id_, text, TokenType.CONTROL)
        else:
            self.put(id_, text.replace(MARK, " "), TokenType.USER_DEFINED)

    def freeze(self) -> Tokens:
        """The tokens as arrays."""
        import numpy as np

        types = np.array(self.types, np.int32)
        return Tokens(self.texts, types, np.array(self.scores, np.float32))


def _types(model: SentencePieceModel) -> list[int]:
    """Token types of pieces: the converter does not tell user-defined pieces from normal ones."""
    changed = {int(TokenType.USER_DEFINED): int(TokenType.NORMAL)}
    return [changed.get(type_, type_) for type_ in model.types]


def read_pieces(files: CheckpointFiles, name: str = MODEL) -> SentencePieceModel:
    """Read a SentencePiece model of the checkpoint."""
    return read_model(files.read(name, TOKENIZER_LIMIT), name)


def sentencepiece_tokens(
    files: CheckpointFiles, config: Mapping[str, Any], warn: Callable[[str], None]
) -> Tokens:
    """The common reader (``_create_vocab_sentencepiece``), and what tokenizer.json adds.

    llama.cpp's converter leaves ``[PAD<id>]`` where only tokenizer.json has a token.
    """
    table = _padded(files, config, warn)
    _put_added_json(files, table, warn)
    decoder = added_tokens_decoder(files.json_object(CONFIG) or {})
    beyond = _Dropped(CONFIG, len(table.texts))
    for id_, raw in decoder.items():
        if beyond.takes(id_, raw["content"]):
            continue
        if table.types[id_] != TokenType.UNUSED and table.texts[id_] != raw["content"]:
            warn(f"{CONFIG}: token {id_} is {raw['content']!r} instead of {table.texts[id_]!r}")
        table.declare(id_, raw)
    beyond.report(warn)
    _put_tokenizer_json(files, table, decoder, warn)
    return table.freeze()


def _put_tokenizer_json(
    files: CheckpointFiles,
    table: TokenTable,
    decoder: Mapping[int, Any],
    warn: Callable[[str], None],
) -> None:
    """Tokens that tokenizer.json adds, and tokenizer_config.json does not have.

    The text in tokenizer.json is what Hugging Face's loader knows the id by, so
    it counts where an older file has another.
    """
    beyond = _Dropped(TOKENIZER, len(table.texts))
    for id_, raw, name in declared_tokens(files):
        if name != TOKENIZER or beyond.takes(id_, raw["content"]):
            continue
        before, unused = table.texts[id_], table.types[id_] == TokenType.UNUSED
        if before in (raw["content"], raw["content"].replace(MARK, " ")) and not unused:
            continue
        if id_ in decoder:
            warn(
                f"{TOKENIZER} and {CONFIG} disagree: token {id_} is {raw['content']!r} in the"
                f" former and {before!r} in the latter, which counts"
            )
            continue
        if not unused:
            warn(
                f"{TOKENIZER} and the vocabulary disagree: token {id_} is {raw['content']!r} in"
                f" the former, which counts, and {before!r} in the latter"
            )
        table.declare(id_, raw)
    beyond.report(warn)


def _padded(
    files: CheckpointFiles, config: Mapping[str, Any], warn: Callable[[str], None]
) -> TokenTable:
    model = read_pieces(files)
    size = vocab_size(config, len(model.texts))
    beyond = _Dropped(MODEL, size)
    for id_ in range(size, len(model.texts)):
        beyond.takes(id_, model.texts[id_])
    beyond.report(warn)
    return TokenTable.padded(model, size)


def phi3_tokens(
    files: CheckpointFiles, config: Mapping[str, Any], warn: Callable[[str], None]
) -> Tokens:
    """Phi-3's reader: added tokens as they are, tokenizer.json's last."""
    table = _padded(files, config, warn)
    _put_added_json(files, table, warn)
    _put_declared(files, table, warn)
    return table.freeze()


def arctic_tokens(
    files: CheckpointFiles, config: Mapping[str, Any], warn: Callable[[str], None]
) -> Tokens:
    """Arctic's reader: special tokens as tokenizer_config.json declares them, with the score 0."""
    table = _padded(files, config, warn)
    settings = files.json_object(CONFIG) or {}
    beyond = _Dropped(CONFIG, len(table.texts))
    for id_, raw in added_tokens_decoder(settings).items():
        text = raw["content"]
        if beyond.takes(id_, text):
            continue
        if raw.get("special"):
            unknown = text == settings.get("unk_token")
            table.put(id_, text, TokenType.UNKNOWN if unknown else TokenType.CONTROL, 0.0)
        else:
            table.put(id_, text, TokenType.USER_DEFINED, PADDING_SCORE)
    beyond.report(warn)
    return table.freeze()


def internlm2_tokens(
    files: CheckpointFiles, config: Mapping[str, Any], warn: Callable[[str], None]
) -> Tokens:
    """InternLM 2's reader: NUL as a dragon, ``[UNUSED...`` unused.

    llama.cpp's converter appends the tokens of added_tokens.json, whatever their
    ids, and cannot load the result: the embedding has no rows for them. Here they
    stand at their ids.
    """
    model = read_pieces(files)
    size = vocab_size(config, len(model.texts))
    if size > len(model.texts):
        raise FormatError(
            f"config.json: vocab_size {size}, but {MODEL} has {len(model.texts)}",
            hint="use the tokenizer.model that the model was trained with",
        )
    table = _padded(files, config, warn)
    for id_, text in enumerate(table.texts):
        if text == "\0":
            table.texts[id_] = "\U0001f409"
        if text.startswith("[UNUSED"):
            table.types[id_] = TokenType.UNUSED
    _put_added_json(files, table, warn)
    _put_declared(files, table, warn)
    return table.freeze()


class _Dropped:
    """Tokens of one file that the model has no row for, to be told in one warning."""

    def __init__(self, name: str, size: int) -> None:
        self._name, self._size = name, size
        self._tokens: list[tuple[int, str]] = []

    def takes(self, id_: int, text: str) -> bool:
        """Whether a token is beyond the vocabulary; it is noted then."""
        if id_ < self._size:
            return False
        self._tokens.append((id_, text))
        return True

    def report(self, warn: Callable[[str], None]) -> None:
        """Tell which tokens are left out."""
        if not self._tokens:
            return
        shown = ", ".join(f"{text!r} ({id_})" for id_, text in self._tokens[:_SHOWN])
        more = f" and {len(self._tokens) - _SHOWN} more" if len(self._tokens) > _SHOWN else ""
        warn(
            f"{self._name}: {shown}{more} left out: the model has {self._size} tokens"
            " (vocab_size in config.json)"
        )


def _put_added_json(files: CheckpointFiles, table: TokenTable, warn: Callable[[str], None]) -> None:
    beyond = _Dropped("added_tokens.json", len(table.texts))
    for text, id_ in added_tokens(files).items():
        if not beyond.takes(id_, text):
            table.put(id_, text, TokenType.USER_DEFINED)
    beyond.report(warn)


def declared_tokens(files: CheckpointFiles) -> Iterable[tuple[int, Mapping[str, Any], str]]:
    """Ids, tokens and files of added_tokens_decoder, then of tokenizer.json's added_tokens."""
    for id_, raw in added_tokens_decoder(files.json_object(CONFIG) or {}).items():
        yield id_, raw, CONFIG
    name = TOKENIZER
    entries = (files.json_object(name, TOKENIZER_LIMIT) or {}).get("added_tokens")
    for raw in entries if isinstance(entries, list) else ():
        match raw:
            case {"id": int() as id_, "content": str()} if 0 <= id_ < 1 << 31:
                yield id_, raw, name
            case _:
                raise FormatError(f"{name}: an added token lacks its id or its content")


def _put_declared(files: CheckpointFiles, table: TokenTable, warn: Callable[[str], None]) -> None:
    beyond = {name: _Dropped(name, len(table.texts)) for name in (CONFIG, TOKENIZER)}
    for id_, raw, name in declared_tokens(files):
        if beyond[name].takes(id_, raw["content"]):
            continue
        type_ = TokenType.CONTROL if raw.get("special") else TokenType.USER_DEFINED
        table.put(id_, raw["content"], type_)
    for dropped in beyond.values():
        dropped.report(warn)


def t5_tokens(
    files: CheckpointFiles,
    model: SentencePieceModel,
    config: Mapping[str, Any],
    warn: Callable[[str], None],
) -> Tokens:
    """T5's reader: the pieces, and the tokens of added_tokens.json."""
    table = TokenTable.padded(model, max(vocab_size(config, len(model.texts)), len(model.texts)))
    _put_added_json(files, table, warn)
    return table.freeze()


def xlm_roberta_tokens(
    model: SentencePieceModel, config: Mapping[str, Any], mask_at: int
) -> Tokens:
    """XLM-RoBERTa's order: four special tokens first, then the pieces from the fourth on.

    The last id of the vocabulary is left for the mask token, which the
    converter writes only for families with a place for it (``mask_at``).
    """
    known = len(model.texts)
    table = TokenTable.padded(model, max(vocab_size(config, known), known))
    control, unknown = int(TokenType.CONTROL), int(TokenType.UNKNOWN)
    table = TokenTable(
        ["<s>", "<pad>", "</s>", "<unk>", *table.texts[3:-1]],
        [0.0, 0.0, 0.0, 0.0, *table.scores[3:-1]],
        [control, control, control, unknown, *table.types[3:-1]],
    )
    if 0 < mask_at < len(table.texts):
        table.put(mask_at, "<mask>", TokenType.CONTROL, 0.0)
    return table.freeze()
