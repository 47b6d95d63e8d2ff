"""Tokens and their types of a BPE, WordPiece or WordLevel ``tokenizer.json``.

``TextModel.get_vocab_base`` of llama.cpp's converter, in data: every id below
the vocabulary's size is a token, a gap is a ``[PAD<id>]``.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any

from mbuild.convert.vocabulary.pretokenizer import decode_each
from mbuild.core.errors import FormatError
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from mbuild.convert.vocabulary.loader import Loaded
    from mbuild.convert.vocabulary.tokenizer_json import TokenizerJson

MARK = "\u2581"
"""SentencePiece's visible space."""


class TokenType(IntEnum):
    """``tokenizer.ggml.token_type`` (``gguf.TokenType``)."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class Tokens(NamedTuple):
    """Texts by id and, parallel to them, int32 :class:`TokenType` numbers and float32 scores."""

    texts: list[str]
    types: NDArray[np.int32]
    scores: NDArray[np.float32] | None = None


_LOOKS_SPECIAL = frozenset({"<pad>", "<mask>", "<2mass>", "[@BOS@]"})
_SPECIAL_SHAPES = (("<|", "|>"), ("<\uff5c", "\uff5c>"), ("<unused", ">"))


def looks_special(text: str) -> bool:
    """Whether a token ought to be a control token though its file does not say so."""
    return text in _LOOKS_SPECIAL or any(
        text.startswith(start) and text.endswith(end) for start, end in _SPECIAL_SHAPES
    )


def vocab_size(config: Mapping[str, Any], known: int, *names: str) -> int:
    """The size that config.json declares (the first of ``names`` there), else ``known``.

    Raises :class:`FormatError` for a size that is no number or is out of all
    proportion to the ``known`` tokens.
    """
    size = next((config[n] for n in (*names, "vocab_size") if n in config), None)
    if size is None:
        return known
    if type(size) is not int or not 0 < size <= 10 * known + 100_000:
        raise FormatError(f"config.json: vocab_size {size!r} does not fit {known} known tokens")
    return size


def base_tokens(
    tokenizer: TokenizerJson, loaded: Loaded, config: Mapping[str, Any], plain: bool = False
) -> Tokens:
    """All tokens; ``plain`` takes added ones as they stand.

    Raises :class:`FormatError` when one lies beyond the vocabulary's size.
    """
    import numpy as np

    known = tokenizer.vocab | {text: token.id for text, token in loaded.added.items()}
    top = max(known, key=known.__getitem__)
    size = vocab_size(config, known[top] + 1)
    if known[top] >= size:
        raise FormatError(
            f"tokenizer.json: token {top!r} has the id {known[top]}, "
            f"but config.json declares a vocabulary of {size}",
            hint="the model has no row for the token: save the tokenizer that the model was trained"
            " with, or set vocab_size to the number of rows of the embedding",
        )
    texts = [""] * size
    types = np.full(size, TokenType.NORMAL, np.int32)
    for text, id_ in known.items():
        texts[id_] = text
    if len(known) < size:
        _fill_gaps(texts, types, set(known.values()))
    if plain:
        for token in loaded.added.values():
            types[token.id] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    else:
        _rewrite_added(tokenizer, loaded, texts, types)
    return Tokens(texts, types)


def _fill_gaps(texts: list[str], types: NDArray[np.int32], known: set[int]) -> None:
    for id_ in set(range(len(texts))) - known:
        texts[id_] = f"[PAD{id_}]"
        types[id_] = TokenType.UNUSED


def _rewrite_added(
    tokenizer: TokenizerJson, loaded: Loaded, texts: list[str], types: NDArray[np.int32]
) -> None:
    """Give added tokens their types; one that is matched in raw text is stored decoded."""
    added = [*loaded.added.values()]
    raw = [token for token in added if not token.normalized]
    decoded = decode_each(tokenizer, [token.content for token in raw])
    stored = {token.id: text for token, text in zip(raw, decoded, strict=True)}
    for token in added:
        text = stored.get(token.id, token.content)
        if token.special or looks_special(text):
            types[token.id] = TokenType.CONTROL
        else:
            text = text.replace(MARK, " ")
            types[token.id] = TokenType.USER_DEFINED
        texts[token.id] = text
