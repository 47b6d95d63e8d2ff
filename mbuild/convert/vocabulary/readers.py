"""One function for each way to read a vocabulary; the rules say which a family uses."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.files import TOKENIZER_LIMIT
from mbuild.convert.vocabulary.base import MARK, Tokens, TokenType, base_tokens, vocab_size
from mbuild.convert.vocabulary.classes import CLASS_OF_TYPE
from mbuild.convert.vocabulary.context import ReaderContext, Unfit, Vocabulary
from mbuild.convert.vocabulary.hashes import PRE_TOKENIZERS
from mbuild.convert.vocabulary.lines import plamo, rwkv, xverse
from mbuild.convert.vocabulary.loader import CONFIG, load_added, token_text
from mbuild.convert.vocabulary.older import older_tokenizer
from mbuild.convert.vocabulary.pretokenizer import find_pre
from mbuild.convert.vocabulary.rules import Reader
from mbuild.convert.vocabulary.sentencepiece import UNIGRAM
from mbuild.convert.vocabulary.special import PREFIX
from mbuild.convert.vocabulary.spm import (
    ADDED_SCORE,
    MODEL,
    PADDING_SCORE,
    TokenTable,
    arctic_tokens,
    has_pieces,
    internlm2_tokens,
    phi3_tokens,
    read_pieces,
    sentencepiece_tokens,
    t5_tokens,
    xlm_roberta_tokens,
)
from mbuild.convert.vocabulary.tokenizer_json import NAME, TokenizerJson, read_tokenizer_json
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.patterns import regex
from mbuild.core.suggest import did_you_mean, near
from mbuild.core.values import replace
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mbuild.convert.vocabulary.loader import Loaded
    from mbuild.convert.vocabulary.rules import VocabRule


def _sentencepiece(context: ReaderContext) -> Vocabulary:
    if not has_pieces(context.files):
        raise Unfit
    tokens = sentencepiece_tokens(context.files, context.config, context.warn)
    return Vocabulary("llama", "default", tokens, pieces=True)


def _phi3(context: ReaderContext) -> Vocabulary:
    class_ = (context.files.json_object(CONFIG) or {}).get("tokenizer_class")
    if not has_pieces(context.files) or class_ == "GPT2Tokenizer":
        raise Unfit
    tokens = phi3_tokens(context.files, context.config, context.warn)
    return Vocabulary("llama", "default", tokens, pieces=True)


def _arctic(context: ReaderContext) -> Vocabulary:
    if not has_pieces(context.files):
        raise Unfit
    tokens = arctic_tokens(context.files, context.config, context.warn)
    return Vocabulary("llama", "default", tokens, pieces=True)


def _internlm2(context: ReaderContext) -> Vocabulary:
    if not has_pieces(context.files):
        raise Unfit
    tokens = internlm2_tokens(context.files, context.config, context.warn)
    return Vocabulary("llama", "default", tokens, pieces=True)


def _tokenizer(context: ReaderContext, default_class: str = "") -> tuple[TokenizerJson, Loaded]:
    """tokenizer.json, or the older files, with its added tokens."""
    tokenizer = read_tokenizer_json(context.files)
    if tokenizer is None:
        tokenizer = older_tokenizer(context.files, default_class)
    if tokenizer is None or tokenizer.type == "Unigram":
        raise Unfit
    _warn_of_numbers(context, tokenizer)
    added = tokenizer.added
    default_class = default_class or _class_of_type(context)
    return tokenizer, load_added(
        context.files, tokenizer.vocab, added, default_class, context.config.get("vocab_size")
    )


def _class_of_type(context: ReaderContext) -> str:
    """The tokenizer's class by the model's type, where the whole checkpoint is a text model."""
    nested = "text_config" in context.config
    return "" if nested else CLASS_OF_TYPE.get(str(context.config.get("model_type")), "")


def _warn_of_numbers(context: ReaderContext, tokenizer: TokenizerJson) -> None:
    for text, said in tokenizer.renumbered.items():
        id_ = next(token.id for token in tokenizer.added if token.content == text)
        context.warn(
            f"{NAME}: the added token {text!r} has the id {said}, but loading the file gives it"
            f" {id_}, which is what the model gets"
        )


def _moved(tokenizer: TokenizerJson) -> dict[str, int]:
    return {t.content: t.id for t in tokenizer.added if t.content in tokenizer.renumbered}


def _bpe(context: ReaderContext) -> Vocabulary:
    tokenizer, loaded = _tokenizer(context)
    tokens = base_tokens(tokenizer, loaded, context.config, context.rule.plain)
    for id_, text in enumerate(tokens.texts if context.rule.controls else ()):
        if text in context.rule.controls:
            tokens.types[id_] = TokenType.CONTROL
    pre = _pre(context, tokenizer, loaded)
    moved = _moved(tokenizer)
    return Vocabulary("gpt2", pre, tokens, merges=True, bounded=False, renumbered=moved)


def _wordpiece(context: ReaderContext) -> Vocabulary:
    """BERT's: words get a leading mark, continuations lose their ``##``."""
    tokenizer, loaded = _tokenizer(context, "BertTokenizer")
    tokens = base_tokens(tokenizer, loaded, context.config)
    control = int(TokenType.CONTROL)
    texts = [
        text if type_ == control else text[2:] if text.startswith("##") else MARK + text
        for text, type_ in zip(tokens.texts, tokens.types.tolist(), strict=True)
    ]
    pre = _pre(context, tokenizer, loaded)
    first = [segments(context.config, context.rule)]
    moved = _moved(tokenizer)
    return Vocabulary("bert", pre, Tokens(texts, tokens.types), first=first, renumbered=moved)


def segments(config: Mapping[str, Any], rule: VocabRule) -> KV:
    """The number of text segments."""
    value = config.get("type_vocab_size", rule.default_segments)
    if type(value) is not int or not 0 <= value < 1 << 32:
        raise FormatError(f"config.json: type_vocab_size {value!r} is not a number of segments")
    return KV(PREFIX + "token_type_count", ValueType.UINT32, value)


def _pre(context: ReaderContext, tokenizer: TokenizerJson, loaded: Loaded) -> str:
    """The pre-tokenizer's name, unless the user has said it."""
    if context.pre is not None:
        if context.pre not in (known := {*PRE_TOKENIZERS.values(), "default"}):
            meant = did_you_mean(near(context.pre, known), "llama.cpp may refuse the model")
            context.warn(f"--pre {context.pre} is no pre-tokenizer that mbuild knows: {meant}")
        return context.pre
    settings = context.files.json_object(CONFIG) or {}
    bos = None
    if settings.get("add_bos_token") is True:
        text = token_text(settings.get("bos_token"))
        bos = loaded.added[text].id if text in loaded.added else None
    name = find_pre(tokenizer, [*loaded.added.values()], bos)
    return context.rule.pre_names.get(name, name)


_BYTE = regex(r"<0x[0-9A-Fa-f]{2}>")


def _llama_hf(context: ReaderContext) -> Vocabulary:
    """Llama's BPE with byte fallback, written as a SentencePiece vocabulary without scores.

    ``LlamaHfVocab`` of gguf-py: ids must have no gaps, and special tokens are
    those that the configuration names.
    """
    raw = context.files.json_object(NAME, TOKENIZER_LIMIT) or {}
    tokenizer = read_tokenizer_json(context.files) if _falls_back(raw) else None
    if tokenizer is None or tokenizer.type != "BPE":
        raise Unfit
    _warn_of_numbers(context, tokenizer)
    room = context.config.get("vocab_size")
    loaded = load_added(context.files, tokenizer.vocab, tokenizer.added, room=room)
    size = len(tokenizer.vocab)
    texts = [""] * size
    for text, id_ in tokenizer.vocab.items():
        if id_ >= size:
            raise FormatError(f"{NAME}: {text!r} has the id {id_}, but there are {size} tokens")
        texts[id_] = text
    types = [_llama_type(text, text in loaded.named) for text in texts]
    more = sorted((t for t in loaded.added.values() if t.id >= size), key=lambda t: t.id)
    for token in more:
        special = token.content in loaded.named
        texts.append(token.content)
        types.append(TokenType.CONTROL if special else TokenType.USER_DEFINED)
    table = TokenTable(texts, [ADDED_SCORE] * len(texts), types)
    return Vocabulary("llama", "default", table.freeze(), renumbered=_moved(tokenizer))


_SHOWN = {
    *("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>"),
    *("<tool_response|>", '<|"|>'),
}
"""Gemma 4's tokens that parsers of answers have to see."""


def _gemma4(context: ReaderContext) -> Vocabulary:
    """Llama's BPE with its merges, under a name of its own."""
    found = _llama_hf(context)
    types = found.tokens.types.copy()
    for id_, text in enumerate(found.tokens.texts):
        if text in _SHOWN:
            types[id_] = TokenType.USER_DEFINED
    tokens = replace(found.tokens, types=types)
    return replace(found, model="gemma4", pre="", tokens=tokens, merges=True, bounded=False)


def _falls_back(raw: Mapping[str, Any]) -> bool:
    model, decoder = raw.get("model"), raw.get("decoder")
    return (
        isinstance(model, dict)
        and model.get("byte_fallback") is True
        and isinstance(decoder, dict)
        and decoder.get("type") == "Sequence"
    )


def _llama_type(text: str, special: bool) -> int:
    if text.startswith("<0x") and _BYTE.fullmatch(text):
        return TokenType.BYTE
    return TokenType.CONTROL if special else TokenType.NORMAL


def _jina(context: ReaderContext) -> Vocabulary:
    """A vocabulary by the tokenizer's class; words are cut at spaces where the file says so."""
    class_ = (context.files.json_object(CONFIG) or {}).get("tokenizer_class", "BertTokenizer")
    if class_ == "BertTokenizer":
        return _wordpiece(context)
    if class_ != "RobertaTokenizer":
        raise UnsupportedError(
            f"{CONFIG}: the tokenizer class {str(class_)[:60]!r} is not supported here",
            hint="supported: BertTokenizer, RobertaTokenizer",
        )
    raw = context.files.json_object(NAME, TOKENIZER_LIMIT) or {}
    cut = raw.get("pre_tokenizer")
    spaces = isinstance(cut, dict) and cut.get("type") == "Whitespace"
    found = _bpe(replace(context, pre="whitespace") if spaces else context)
    return replace(found, model="whitespace" if spaces else found.model, last=[_TWO_SEGMENTS])


_TWO_SEGMENTS = KV(PREFIX + "token_type_count", ValueType.UINT32, 2)


def _t5(context: ReaderContext) -> Vocabulary:
    """T5's Unigram vocabulary, or a SentencePiece one of merges."""
    name = next((name for name in (MODEL, "spiece.model") if name in context.files), None)
    if name is None:
        raise Unfit
    model = read_pieces(context.files, name)
    if model.model_type != UNIGRAM:
        return _sentencepiece(context)
    tokens = t5_tokens(context.files, model, context.config, context.warn)
    flags = [
        KV(PREFIX + "add_space_prefix", ValueType.BOOL, model.add_dummy_prefix),
        KV(PREFIX + "remove_extra_whitespaces", ValueType.BOOL, model.remove_extra_whitespaces),
    ]
    return Vocabulary(
        "t5", "default", tokens, middle=[*flags, *_charsmap_entry(model.precompiled_charsmap)]
    )


def _charsmap_entry(charsmap: bytes) -> list[KV]:
    key = PREFIX + "precompiled_charsmap"
    return [KV(key, ValueType.ARRAY, list(charsmap), ValueType.UINT8)] if charsmap else []


XLM_MODEL = "sentencepiece.bpe.model"


def _xlm_roberta(context: ReaderContext) -> Vocabulary:
    """XLM-RoBERTa's Unigram vocabulary, written as T5's."""
    if XLM_MODEL in context.files:
        model = read_pieces(context.files, XLM_MODEL)
        if model.model_type != UNIGRAM:
            raise FormatError(f"{XLM_MODEL}: not a Unigram model")
        tokens = xlm_roberta_tokens(model, context.config, context.rule.mask_at)
        flags = (model.add_dummy_prefix, model.remove_extra_whitespaces)
        charsmap = model.precompiled_charsmap
    else:
        tokenizer = read_tokenizer_json(context.files)
        if tokenizer is None or tokenizer.type != "Unigram":
            raise Unfit
        tokens = _unigram_tokens(context, tokenizer)
        settings = context.files.json_object(CONFIG) or {}
        flags = (
            settings.get("add_prefix_space", False) is True,
            settings.get("clean_up_tokenization_spaces", False) is True,
        )
        charsmap = _charsmap(tokenizer)
    middle = [
        KV(PREFIX + "add_space_prefix", ValueType.BOOL, flags[0]),
        segments(context.config, context.rule),
        KV(PREFIX + "remove_extra_whitespaces", ValueType.BOOL, flags[1]),
    ]
    middle += _charsmap_entry(charsmap)
    return Vocabulary("t5", "default", tokens, middle=middle)


def _unigram_tokens(context: ReaderContext, tokenizer: TokenizerJson) -> Tokens:
    loaded = load_added(context.files, tokenizer.vocab, tokenizer.added, "XLMRobertaTokenizer", 0)
    settings = context.files.json_object(CONFIG) or {}
    unknown = loaded.added.get(token_text(settings.get("unk_token")) or "")
    unknown_id = unknown.id if unknown else tokenizer.model.get("unk_id", 3)
    known = len(tokenizer.pieces)
    size = max(vocab_size(context.config, known), known)
    texts = [text for text, _ in tokenizer.pieces]
    types = [
        TokenType.UNKNOWN
        if id_ == unknown_id
        else TokenType.CONTROL
        if text in loaded.named
        else TokenType.USER_DEFINED
        if text in loaded.added
        else TokenType.NORMAL
        for id_, text in enumerate(texts)
    ]
    scores = [score for _, score in tokenizer.pieces]
    more = range(known, size)
    table = TokenTable(
        texts + [f"[PAD{id_}]" for id_ in more],
        scores + [PADDING_SCORE for _ in more],
        [*types, *(TokenType.UNUSED for _ in more)],
    )
    return table.freeze()


def _charsmap(tokenizer: TokenizerJson) -> bytes:
    """The compiled character map of the normalizer, wherever it stands there."""
    normalizer = tokenizer.part("normalizer")
    parts = normalizer.get("normalizers")
    for part in [normalizer, *(parts if isinstance(parts, list) else [])]:
        if isinstance(part, dict) and isinstance(text := part.get("precompiled_charsmap"), str):
            try:
                return base64.b64decode(text, validate=True)
            except binascii.Error:
                raise FormatError(f"{NAME}: precompiled_charsmap is not base64") from None
    return b""


READERS: dict[Reader, Callable[[ReaderContext], Vocabulary]] = {
    Reader.SENTENCEPIECE: _sentencepiece,
    Reader.LLAMA_HF: _llama_hf,
    Reader.BPE: _bpe,
    Reader.WORDPIECE: _wordpiece,
    Reader.PHI3: _phi3,
    Reader.INTERNLM2: _internlm2,
    Reader.ARCTIC: _arctic,
    Reader.GEMMA4: _gemma4,
    Reader.JINA: _jina,
    Reader.T5: _t5,
    Reader.XLM_ROBERTA: _xlm_roberta,
    Reader.RWKV: rwkv,
    Reader.PLAMO: plamo,
    Reader.XVERSE: xverse,
}
