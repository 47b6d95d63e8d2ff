"""Vocabularies in files of their own: RWKV's and PLaMo's lines, and XVERSE's tokenizer.json."""

from __future__ import annotations

import json
from ast import literal_eval
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.files import TOKENIZER_LIMIT
from mbuild.convert.vocabulary.base import Tokens, TokenType, vocab_size
from mbuild.convert.vocabulary.context import Unfit, Vocabulary
from mbuild.convert.vocabulary.loader import CONFIG, load_added, token_text
from mbuild.convert.vocabulary.special import PREFIX, Specials
from mbuild.convert.vocabulary.spm import ADDED_SCORE, TokenTable
from mbuild.convert.vocabulary.templates import JINJA, chat_template
from mbuild.convert.vocabulary.tokenizer_json import NAME, read_tokenizer_json
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mbuild.convert.read.files import CheckpointFiles
    from mbuild.convert.vocabulary.context import ReaderContext

RWKV_FILE = "rwkv_vocab_v20230424.txt"
PLAMO_FILE = "tokenizer.jsonl"

_LITERAL = regex(r"\d+ (b?(?:'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")) (\d+)\s*")


def rwkv(context: ReaderContext) -> Vocabulary:
    """RWKV's "world" vocabulary: a number, a literal of Python and its length on each line.

    The tokens are written as Python writes bytes; number 0 is not in the file.
    """
    if RWKV_FILE not in context.files:
        raise Unfit
    texts = ["<s>", *_literals(context.files)]
    types: list[int] = [TokenType.CONTROL, *[TokenType.NORMAL] * (len(texts) - 1)]
    size = _size(context, len(texts), RWKV_FILE)
    texts += [f"[PAD{id_}]" for id_ in range(len(texts), size)]
    types += [TokenType.UNUSED] * (size - len(types))
    return Vocabulary("rwkv", "", _unscored(texts, types), bounded=False)


def _literals(files: CheckpointFiles) -> Iterator[str]:
    lines = files.text(RWKV_FILE, TOKENIZER_LIMIT).removesuffix("\n").split("\n")
    for number, line in enumerate(lines, start=1):
        match = _LITERAL.fullmatch(line)
        try:
            token = literal_eval(match[1]) if match else None
            data = token.encode() if isinstance(token, str) else token
        except (ValueError, SyntaxError):
            data = None
        if match is None or not isinstance(data, bytes) or len(data) != int(match[2]):
            raise FormatError(
                f"{RWKV_FILE}: line {number} is not a number, a token and the length of the token"
            )
        yield repr(data)[2:-1]


def _size(context: ReaderContext, known: int, name: str) -> int:
    size = vocab_size(context.config, known)
    if size < known:
        raise FormatError(f"{name} has {known} tokens, but config.json declares {size}")
    return size


def _unscored(texts: list[str], types: Sequence[int]) -> Tokens:
    import numpy as np

    return Tokens(texts, np.array(types, np.int32))


_KINDS = {
    "UNKNOWN": TokenType.UNKNOWN,
    "CONTROL": TokenType.CONTROL,
    "BYTE": TokenType.BYTE,
}
_END_OF_TURN = 4
"""``<|plamo:op|>``, with which a turn begins."""


def plamo(context: ReaderContext) -> Vocabulary:
    """PLaMo's vocabulary: a JSON list of token, score and kind on each line."""
    if PLAMO_FILE not in context.files:
        raise Unfit
    table = TokenTable([], [], [])
    lines = context.files.text(PLAMO_FILE, TOKENIZER_LIMIT).split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            _add(table, line, number)
    size = max(vocab_size(context.config, len(table.texts)), len(table.texts))
    more = range(1, size - len(table.texts) + 1)
    table.texts += [f"[PAD{number}]" for number in more]
    table.scores += [ADDED_SCORE for _ in more]
    table.types += [TokenType.UNUSED for _ in more]
    last = [KV(PREFIX + "add_space_prefix", ValueType.BOOL, False)]
    settings = context.files.json_object(CONFIG) or {}
    template = _late_template(context, settings) if context.rule.late_template else None
    if template:
        last.append(KV("tokenizer.chat_template", ValueType.STRING, template))
    specials = _plamo_specials(settings, table.texts)
    tokens = table.freeze()
    return Vocabulary("plamo2", "default", tokens, last=last, specials=specials)


def _late_template(context: ReaderContext, settings: dict[str, Any]) -> str | None:
    """The template, of which that in a file of its own counts first here."""
    if JINJA in context.files:
        settings = {}
    found = chat_template(context.files, settings)
    return found if isinstance(found, str) else None


def _add(table: TokenTable, line: str, number: int) -> None:
    try:
        item = json.loads(line)
        text, score, *rest = item
        good = isinstance(text, str) and type(score) in (int, float)
    except (ValueError, TypeError, RecursionError):
        good = False
    if not good:
        raise FormatError(f"{PLAMO_FILE}: line {number} is not a list of a token and its score")
    control = text.startswith("<|plamo:") and text.endswith("|>")
    usual = TokenType.CONTROL if control else TokenType.NORMAL
    kind: Any = rest[0] if rest else None
    table.texts.append(text)
    table.scores.append(float(score))
    table.types.append(_KINDS.get(kind, usual) if isinstance(kind, str) else usual)


def _plamo_specials(settings: dict[str, Any], texts: list[str]) -> Specials:
    ids = {text: id_ for id_, text in reversed([*enumerate(texts)])}
    specials = Specials()
    for name in ("bos", "eos", "pad", "sep", "unk"):
        text = token_text(settings.get(f"{name}_token"))
        if text is None:
            continue
        if text not in ids:
            raise FormatError(f"{CONFIG}: the {name}_token {text[:40]!r} is not in {PLAMO_FILE}")
        specials.ids[name] = ids[text]
    specials.ids["eot"] = _END_OF_TURN
    return specials


_NOTHING = "\x00"
_BYTE = regex(r"<0x[0-9A-Fa-f]{2}>")


def xverse(context: ReaderContext) -> Vocabulary:
    """XVERSE's tokenizer.json, written as a SentencePiece vocabulary without scores."""
    tokenizer = read_tokenizer_json(context.files)
    if tokenizer is None:
        raise Unfit
    added = load_added(context.files, tokenizer.vocab, tokenizer.added).added
    known = tokenizer.vocab | {text: token.id for text, token in added.items()}
    by_id = {id_: text for text, id_ in known.items()}
    size = _size(context, max(by_id) + 1, NAME)
    missing = next((id_ for id_ in range(size) if id_ not in by_id), None)
    if missing is not None:
        raise FormatError(f"{NAME} has no token {missing}, but config.json declares {size}")
    texts, types = [], []
    for text in (by_id[id_] for id_ in range(size)):
        token = added.get(text)
        kind = TokenType.CONTROL if token and token.special else TokenType.USER_DEFINED
        byte = text == _NOTHING or _BYTE.fullmatch(text)
        types.append(TokenType.BYTE if byte else kind if token else TokenType.NORMAL)
        texts.append(r"<b'\x00'>" if text == _NOTHING else text)
    return Vocabulary("llama", "default", _unscored(texts, types))
