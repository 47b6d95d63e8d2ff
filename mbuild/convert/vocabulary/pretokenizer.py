"""Find the name of a vocabulary's pre-tokenizer (``tokenizer.ggml.pre``), and decode added tokens.

Both are done by the ``tokenizers`` package in a child process
(:mod:`mbuild.convert.vocabulary.encode`). Loading a vocabulary of 128,000 tokens
there takes half a second and the check text needs a few hundred of them, so a
small copy of the file goes to the child; only when its answer is unknown the
whole file is asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbuild.convert.vocabulary.hashes import CHECK_TEXT, PRE_TOKENIZERS
from mbuild.convert.vocabulary.tokenizer_json import NAME
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.values import NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from mbuild.convert.vocabulary.tokenizer_json import AddedToken, TokenizerJson

CHILD = Path(__file__).with_name("encode.py")
WALL_SECONDS = 60
"""Only a last resort on an overloaded machine: the child's limit is processor time."""
SMALL_LIMITS = (1, 2 << 30)
"""Seconds of processor time (0.1 are needed) and bytes of memory for the small copy."""
WHOLE_LIMITS = (15, 4 << 30)
"""The same for a whole file, which is asked only when the small copy did no harm."""
LONGEST = 16
"""Longest run of characters whose parts are enumerated; longer tokens are searched for."""


class Answer(NamedTuple):
    """The check text's ids with and without special tokens, and the decoded tokens."""

    ids: list[int]
    bare: list[int]
    decoded: list[str]


def hash_of(ids: Sequence[int]) -> str:
    """The hash by which llama.cpp knows a pre-tokenizer."""
    return hashlib.sha256(str([*ids]).encode()).hexdigest()


def find_pre(
    tokenizer: TokenizerJson,
    added: Sequence[AddedToken],
    bos: int | None,
    table: Mapping[str, str] = PRE_TOKENIZERS,
) -> str:
    """The pre-tokenizer's name in ``table``, which has names by hash.

    ``bos`` is the id of a token that the checkpoint's configuration puts
    before every text; it counts first, also where tokenizer.json itself does
    not add it. Encodings without special tokens are tried last: they tell the
    same pre-tokenizers apart. Raises :class:`UnsupportedError`, with the hash,
    for a pre-tokenizer that is not in the table.
    """
    first = ""
    for make, limits in ((_small, SMALL_LIMITS), (_whole, WHOLE_LIMITS)):
        spec = make(tokenizer, added)
        if spec is None:
            continue
        answer = ask(spec, CHECK_TEXT, (), limits)
        first = first or hash_of(answer.ids)
        for ids in _candidates(answer, bos):
            if name := table.get(hash_of(ids)):
                return name
    raise UnsupportedError(
        f"{NAME}: unknown pre-tokenizer (hash {first})",
        hint="say which one it is with --pre NAME, for example --pre llama-bpe",
    )


def _candidates(answer: Answer, bos: int | None) -> Iterable[list[int]]:
    if bos is not None and answer.ids[:1] != [bos]:
        yield [bos, *answer.ids]
    yield answer.ids
    if bos is not None:
        yield [bos, *answer.bare]
    yield answer.bare


def decode_each(tokenizer: TokenizerJson, texts: Sequence[str]) -> list[str]:
    """Each token's text after encoding and decoding it alone.

    Byte-level and WordPiece decoders are done here; for any other the child
    is asked.
    """
    kind = tokenizer.part("decoder").get("type")
    if kind == "ByteLevel":
        return [_byte_level(text) for text in texts]
    if kind in (None, "WordPiece") or not texts:
        return [*texts]
    spec = tokenizer.raw | {"model": {"type": "BPE", "vocab": {}, "merges": []}}
    spec |= {"added_tokens": [], "normalizer": None, "pre_tokenizer": None}
    return ask(json.dumps(spec | {"post_processor": None}), None, texts).decoded


def ask(
    tokenizer: str,
    text: str | None,
    decode: Sequence[str],
    limits: tuple[int, int] = SMALL_LIMITS,
) -> Answer:
    """Let the child encode and decode; raises :class:`FormatError` when it cannot."""
    import subprocess

    request = json.dumps({"tokenizer": tokenizer, "text": text, "decode": [*decode]})
    command = [sys.executable, "-P", str(CHILD), *map(str, limits)]
    try:
        done = subprocess.run(
            command,
            input=request.encode(),
            capture_output=True,
            timeout=WALL_SECONDS,
            check=False,
            env=os.environ | {"RAYON_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        raise FormatError(f"{NAME}: encoding the check text takes too long") from None
    if done.returncode or not done.stdout:
        raise FormatError(f"{NAME}: encoding the check text takes too much time or memory")
    answer = json.loads(done.stdout)
    if "missing" in answer:
        raise UnsupportedError(
            f"{NAME}: the package tokenizers cannot be used: {answer['missing']}",
            hint="pip install tokenizers, or name the pre-tokenizer with --pre NAME",
        )
    if "error" in answer:
        raise FormatError(f"{NAME}: {answer['error']}")
    return Answer(answer.get("ids", []), answer.get("bare", []), answer["decoded"])


def _byte_characters() -> dict[str, int]:
    """GPT-2's table: each byte as one printable character."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    table = {chr(b): b for b in printable}
    return table | {chr(256 + i): b for i, b in enumerate(others)}


_BYTES = _byte_characters()
_CHARACTERS = {byte: character for character, byte in _BYTES.items()}


def _byte_level(text: str) -> str:
    """A token's text, if it is written in byte characters throughout; else as it is."""
    if text.isascii() or not _BYTES.keys() >= set(text):
        return text
    return bytes(_BYTES[c] for c in text).decode("utf-8", "replace")


def _as_bytes(text: str) -> str:
    return "".join(_CHARACTERS[b] for b in text.encode())


def _forms() -> list[str]:
    """What the check text can look like when it reaches the model."""
    normal = {CHECK_TEXT} | {
        unicodedata.normalize(form, CHECK_TEXT) for form in ("NFC", "NFD", "NFKC", "NFKD")
    }
    normal |= {text.lower() for text in normal}
    spaced = {f"\u2581{text}".replace(" ", "\u2581") for text in normal}
    return sorted({*normal, *spaced, *(_as_bytes(f" {text}") for text in normal)})


def _occurrence() -> tuple[set[str], Callable[[str], bool]]:
    """The short texts that occur in any form of the check text, and a test for longer ones."""
    forms = _forms()
    parts = {f[i:j] for f in forms for i in range(len(f)) for j in range(i + 1, i + 1 + LONGEST)}

    def occurs(text: str) -> bool:
        return len(text) > LONGEST and any(text in form for form in forms)

    return parts, occurs


def _small(tokenizer: TokenizerJson, added: Sequence[AddedToken]) -> str | None:
    """The tokenizer with only what the check text can need; None when it cannot be told."""
    model = tokenizer.model
    if tokenizer.type != "BPE" or any(
        model.get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix")
    ):
        return None
    merges = model.get("merges")
    if not isinstance(merges, list):
        return None
    parts, occurs = _occurrence()
    all_ = tokenizer.vocab.items()
    vocab = {text: id_ for text, id_ in all_ if text in parts or occurs(text)}
    merges = _making(vocab, merges)
    unknown = model.get("unk_token")
    always = [f"<0x{byte:02X}>" for byte in range(256)]
    always += [unknown] if isinstance(unknown, str) else []
    vocab |= {t: tokenizer.vocab[t] for t in always if t in tokenizer.vocab}
    used = [token for token in added if token.content in parts or occurs(token.content)]
    vocab |= {token.content: token.id for token in used}
    return _spec(tokenizer, model | {"vocab": vocab, "merges": merges, "dropout": None}, used)


def _making(vocab: Mapping[str, int], merges: Sequence[Any]) -> list[Any]:
    """The merges, in either form of the file, that make one of these tokens."""
    try:
        if isinstance(merges[0] if merges else "", str):
            return [merge for merge in merges if merge.replace(" ", "", 1) in vocab]
        return [pair for pair in merges if "".join(pair) in vocab]
    except (AttributeError, TypeError):
        raise FormatError(f"{NAME}: merges must be all strings or all pairs of strings") from None


def _whole(tokenizer: TokenizerJson, added: Sequence[AddedToken]) -> str:
    model = tokenizer.model | ({"dropout": None} if tokenizer.type == "BPE" else {})
    vocab = tokenizer.vocab | {token.content: token.id for token in added}
    if tokenizer.type != "Unigram":
        model["vocab"] = vocab
    return _spec(tokenizer, model, added)


def _spec(tokenizer: TokenizerJson, model: dict[str, Any], added: Sequence[AddedToken]) -> str:
    raw = dict(tokenizer.raw) | {"model": model, "truncation": None, "padding": None}
    raw["added_tokens"] = [token._asdict() for token in added]
    return json.dumps(raw)
