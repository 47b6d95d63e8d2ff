"""``tekken.json``: the vocabulary of Mistral's own format.

Tokens are bytes with ranks; pairs of them merge in the order of the result's rank. Special tokens
come first, so that a rank's id is larger by their number. The rules are those of mistral-common
1.8 (``tokens/tokenizers/tekken.py``) and of ``MistralVocab`` in gguf-py.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.files import TOKENIZER_LIMIT
from mbuild.convert.vocabulary.base import TokenType
from mbuild.convert.vocabulary.entries import Entries
from mbuild.convert.vocabulary.special import PREFIX
from mbuild.convert.vocabulary.templates import chat_template, write_template
from mbuild.core.errors import FormatError
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.read.files import CheckpointFiles

TEKKEN = "tekken.json"

_OLDER = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "[TOOL_CONTENT]",
)
"""The special tokens of files that do not list theirs."""

_IDS = (("bos", "<s>"), ("eos", "</s>"), ("unknown", "<unk>"), ("padding", "<pad>"))
_MOST_BYTES = 1 << 10
"""Bytes of a token; merges are looked for at each place in it."""
_DAMAGED = "the file is damaged: download it again"


def tekken_vocabulary(files: CheckpointFiles, size_key: str) -> Entries:
    """All entries of the vocabulary in their order; ``size_key`` is the metadata's key of its size.

    Raises :class:`FormatError` for a file that contradicts itself.
    """
    import numpy as np

    root = files.json_object(TEKKEN, TOKENIZER_LIMIT) or {}
    size, count = _sizes(root)
    special, ranks = _special(root, count), _ranks(root, size - count)
    visible = _visible()
    texts = [*special, *("".join(visible[byte] for byte in token) for token in ranks)]
    entries = Entries()
    entries.string(f"{PREFIX}model", "gpt2")
    entries.string(f"{PREFIX}pre", "tekken")
    entries.array(f"{PREFIX}merges", _merges(ranks, visible), ValueType.STRING)
    ids = {text: id_ for id_, text in reversed([*enumerate(special)])}
    for name, text in _IDS:
        if text in ids:
            entries.uint32(f"{PREFIX}{name}_token_id", ids[text])
        elif name == "padding" and "</s>" in ids:
            entries.uint32(f"{PREFIX}{name}_token_id", ids["</s>"])
        else:
            raise FormatError(f"{TEKKEN}: the special token {text!r} is missing", hint=_DAMAGED)
    types = np.full(size, TokenType.NORMAL, np.int32)
    types[:count] = TokenType.CONTROL
    entries.array(f"{PREFIX}tokens", texts, ValueType.STRING)
    entries.array(f"{PREFIX}scores", np.zeros(size, np.int32), ValueType.INT32)
    entries.array(f"{PREFIX}token_type", types, ValueType.INT32)
    entries.uint32(size_key, size)
    entries.boolean(f"{PREFIX}add_bos_token", True)
    entries.boolean(f"{PREFIX}add_eos_token", False)
    found = chat_template(files, {})
    if found is not None:
        write_template(entries, found)
    return entries


def _sizes(root: Mapping[str, Any]) -> tuple[int, int]:
    """The numbers of all tokens and of special ones."""
    config = root.get("config")
    config = config if isinstance(config, dict) else {}
    found = [config.get(name) for name in ("default_vocab_size", "default_num_special_tokens")]
    size, count = (value if type(value) is int else -1 for value in found)
    if not 0 < count < size < 1 << 24:
        raise FormatError(f"{TEKKEN}: its sizes are {str(found)[:60]}", hint=_DAMAGED)
    return size, count


def _special(root: Mapping[str, Any], count: int) -> list[str]:
    """The texts of the special tokens by their ids; numbers without one get a name."""
    listed = root.get("special_tokens")
    if listed is None:
        texts = dict(enumerate(_OLDER))
    else:
        entries = listed if isinstance(listed, list) else [None]
        texts = {}
        for entry in entries:
            rank = entry.get("rank") if isinstance(entry, dict) else None
            text = entry.get("token_str") if isinstance(entry, dict) else None
            if type(rank) is not int or not isinstance(text, str) or rank in texts:
                raise FormatError(f"{TEKKEN}: special_tokens has {str(entry)[:60]}", hint=_DAMAGED)
            texts[rank] = text
    if any(not 0 <= rank < count for rank in texts):
        raise FormatError(
            f"{TEKKEN} has more special tokens than the {count} of its config", hint=_DAMAGED
        )
    return [texts.get(rank, f"<SPECIAL_{rank}>") for rank in range(count)]


def _ranks(root: Mapping[str, Any], count: int) -> list[bytes]:
    """The bytes of all other tokens by their ranks."""
    listed = root.get("vocab")
    listed = listed if isinstance(listed, list) else []
    if len(listed) < count:
        raise FormatError(f"{TEKKEN} has {len(listed)} tokens; its config asks for {count}",
                          hint=_DAMAGED)  # fmt: skip
    found = []
    for rank, entry in enumerate(listed[:count]):
        token = _token(entry, rank)
        if rank < 256 and token != bytes([rank]):
            raise FormatError(f"{TEKKEN}: token {rank} is not that byte", hint=_DAMAGED)
        found.append(token)
    if len({*found}) < len(found):
        raise FormatError(f"{TEKKEN} has a token twice", hint=_DAMAGED)
    return found


def _token(entry: Any, rank: int) -> bytes:
    try:
        if entry["rank"] != rank:
            raise ValueError("its rank is another")
        token = base64.b64decode(entry["token_bytes"], validate=True)
        if not 0 < len(token) <= _MOST_BYTES:
            raise ValueError(f"{len(token)} bytes")
    except (TypeError, KeyError, ValueError, binascii.Error) as error:
        raise FormatError(f"{TEKKEN}: token {rank}: {error}", hint=_DAMAGED) from None
    return token


def _merges(ranks: list[bytes], visible: list[str]) -> list[str]:
    """Every pair that makes a token, by the token's rank, then by the parts' ranks."""
    known = {token: rank for rank, token in enumerate(ranks)}
    texts = ["".join(visible[byte] for byte in token) for token in ranks]
    merges = []
    for rank in range(256, len(ranks)):
        token = ranks[rank]
        pairs = [
            (left, right)
            for cut in range(1, len(token))
            if (left := known.get(token[:cut])) is not None
            and (right := known.get(token[cut:])) is not None
        ]
        if not pairs:
            raise FormatError(f"{TEKKEN}: nothing merges to token {rank}", hint=_DAMAGED)
        merges += [f"{texts[left]} {texts[right]}" for left, right in sorted(pairs)]
    return merges


def _visible() -> list[str]:
    """A visible character for each byte, as GPT-2 has them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte if byte in plain else next(others)) for byte in range(256)]
