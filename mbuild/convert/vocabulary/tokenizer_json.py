"""``tokenizer.json``: the vocabulary file of Hugging Face's tokenizers library, checked.

Every id is a whole number below a limit that grows with the file, no two
texts share one, and added tokens have the ids that the library gives them
when it loads the file. Anything else is a :class:`FormatError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.read.files import TOKENIZER_LIMIT
from mbuild.core.errors import FormatError
from mbuild.core.values import EMPTY, FrozenValue, NamedTuple, replace

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mbuild.convert.read.files import CheckpointFiles

NAME = "tokenizer.json"


class AddedToken(NamedTuple):
    """A token that is looked for in the text before the model sees it.

    ``special`` tokens steer the model and are not shown; a token that is not
    ``normalized`` is looked for in the text as it was given.
    """

    id: int
    content: str
    special: bool = False
    normalized: bool = True
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False

    @classmethod
    def read(cls, id_: int, raw: Mapping[str, Any], special: bool, name: str) -> AddedToken:
        """From JSON; a token is normalized by default when it is not special."""
        content = raw.get("content")
        if not isinstance(content, str) or not content:
            raise FormatError(f"{name}: added token {id_}: content must be text, not {content!r}")
        flags = {}
        for key in ("single_word", "lstrip", "rstrip", "normalized"):
            flags[key] = raw.get(key)
            if not isinstance(flags[key], bool | None):
                raise FormatError(f"{name}: added token {id_}: {key} must be true or false")
        normalized = flags["normalized"]
        return cls(
            id_,
            content,
            special,
            not special if normalized is None else normalized,
            bool(flags["single_word"]),
            bool(flags["lstrip"]),
            bool(flags["rstrip"]),
        )


class TokenizerJson(FrozenValue):
    """A checked tokenizer.json.

    ``vocab`` maps texts to ids; for a Unigram model ``pieces`` holds texts and
    scores in id order. ``added`` is in file order; ``renumbered`` has the ids that
    the file gives to those that get another. ``raw`` is the whole file.
    """

    raw: dict[str, Any]
    type: str
    vocab: dict[str, int]
    pieces: list[tuple[str, float]]
    added: list[AddedToken]
    renumbered: Mapping[str, int] = EMPTY

    @property
    def model(self) -> dict[str, Any]:
        """The ``model`` part of the file."""
        model: dict[str, Any] = self.raw["model"]
        return model

    def part(self, key: str) -> dict[str, Any]:
        """A part such as ``decoder`` or ``normalizer``; empty when it is null."""
        value = self.raw.get(key)
        if value is not None and not isinstance(value, dict):
            raise FormatError(f"{NAME}: {key} must be an object")
        return value or {}


def read_tokenizer_json(files: CheckpointFiles) -> TokenizerJson | None:
    """Read and check the file; None when the checkpoint has none."""
    raw = files.json_object(NAME, TOKENIZER_LIMIT)
    if raw is None:
        return None
    model = raw.get("model")
    if not isinstance(model, dict):
        raise FormatError(f"{NAME}: model must be an object")
    type_ = model.get("type") or _guess_type(model)
    vocab: dict[str, int] = {}
    pieces: list[tuple[str, float]] = []
    if type_ == "Unigram":
        pieces = _unigram(model.get("vocab"))
        vocab = {text: id_ for id_, (text, _) in enumerate(pieces)}
    elif type_ in ("BPE", "WordPiece", "WordLevel"):
        vocab = check_vocab(model.get("vocab"), NAME)
    else:
        raise FormatError(f"{NAME}: unknown model type {type_!r}")
    added, renumbered = read_added(raw, vocab)
    return TokenizerJson(raw, type_, vocab, pieces, added, renumbered)


def _guess_type(model: Mapping[str, Any]) -> str:
    """Older files do not say; the library tries the kinds in turn."""
    if "merges" in model:
        return "BPE"
    if isinstance(model.get("vocab"), list):
        return "Unigram"
    return "WordPiece" if "continuing_subword_prefix" in model else "WordLevel"


def check_vocab(vocab: object, name: str) -> dict[str, int]:
    """An object of texts and ids: whole, from 0, below ten times their number, all different."""
    if not isinstance(vocab, dict) or not vocab:
        raise FormatError(f"{name}: the vocabulary must be an object of strings and ids")
    ids = vocab.values()
    if set(map(type, ids)) != {int}:
        text, wrong = next((t, i) for t, i in vocab.items() if type(i) is not int)
        raise FormatError(f"{name}: the id of {text!r} must be a whole number, not {wrong!r}")
    if min(ids) < 0 or max(ids) >= 10 * len(vocab):
        text = next(t for t, i in vocab.items() if not 0 <= i < 10 * len(vocab))
        raise FormatError(
            f"{name}: the id of {text!r} is {vocab[text]}, which does not fit "
            f"a vocabulary of {len(vocab)} tokens"
        )
    if len(set(ids)) != len(vocab):
        first: dict[int, str] = {}
        text = next(t for t, i in vocab.items() if first.setdefault(i, t) != t)
        raise FormatError(
            f"{name}: {first[vocab[text]]!r} and {text!r} have the same id {vocab[text]}"
        )
    return vocab


def _unigram(vocab: object) -> list[tuple[str, float]]:
    if not isinstance(vocab, list) or not vocab:
        raise FormatError(f"{NAME}: the vocabulary must be a list of strings and scores")
    pieces = []
    for entry in vocab:
        match entry:
            case [str() as text, (int() | float()) as score]:
                pieces.append((text, float(score)))
            case _:
                raise FormatError(f"{NAME}: piece {len(pieces)} must be a text and a score")
    return pieces


def read_added(
    raw: Mapping[str, Any], vocab: Mapping[str, int]
) -> tuple[list[AddedToken], dict[str, int]]:
    """The added tokens, each with the id that loading the file gives it, and other ids it says.

    A text of the vocabulary keeps its id there; others are numbered on from
    the vocabulary's length, in the order of the file, whatever the file says
    (tokenizers 0.23). So a gap in the ids is closed. Raises :class:`FormatError` for a
    token that is there twice, and for an id that is another token's or far away.
    """
    entries = raw.get("added_tokens")
    if entries is None:
        return [], {}
    if not isinstance(entries, list):
        raise FormatError(f"{NAME}: added_tokens must be a list")
    added: list[AddedToken] = []
    renumbered: dict[str, int] = {}
    seen: set[str] = set()
    following = len(vocab)
    for entry in entries:
        if not isinstance(entry, dict) or type(id_ := entry.get("id")) is not int:
            raise FormatError(f"{NAME}: added token {len(added)} has no whole number as its id")
        token = AddedToken.read(id_, entry, entry.get("special") is True, NAME)
        if token.content in seen:
            raise FormatError(
                f"{NAME}: added token {token.content!r} has the id {id_}, but is already in the"
                " vocabulary",
                hint="remove the second entry from added_tokens",
            )
        expected = vocab.get(token.content, following)
        gap = token.content not in vocab and expected < id_ < 10 * len(vocab)
        if id_ != expected and not gap:
            raise FormatError(
                f"{NAME}: added token {token.content!r} has the id {id_}, but {expected} is next",
                hint="save the tokenizer again: AutoTokenizer.from_pretrained(FOLDER)"
                ".save_pretrained(FOLDER)",
            )
        if gap:
            renumbered[token.content] = id_
        following += token.content not in vocab
        seen.add(token.content)
        added.append(replace(token, id=expected))
    return added, renumbered


def read_merges(model: Mapping[str, Any]) -> list[str]:
    """The merges of a BPE model as ``"left right"``, in order of rank.

    The newer form of the file has pairs; a space inside a piece is written as
    U+0120 then, as gguf-py's ``SpecialVocab`` does. Raises
    :class:`FormatError` for any other form.
    """
    merges = model.get("merges")
    if not isinstance(merges, list) or not merges:
        return []
    kinds = set(map(type, merges))
    if kinds == {str}:
        return merges
    if kinds != {list} or set(map(len, merges)) != {2}:
        raise FormatError(f"{NAME}: merges must be all strings or all pairs of strings")
    return _join_pairs(merges)


def _join_pairs(merges: Sequence[Sequence[str]]) -> list[str]:
    try:
        joined = [" ".join(pair) for pair in merges]
    except TypeError:
        raise FormatError(f"{NAME}: a merge is not a pair of strings") from None
    if "".join(joined).count(" ") > len(joined):
        return [" ".join(part.replace(" ", "\u0120") for part in pair) for pair in merges]
    return joined
