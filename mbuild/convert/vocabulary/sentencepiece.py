"""SentencePiece's ``tokenizer.model``: a bounded reader of its protobuf message.

The format is ``sentencepiece_model.proto`` of google/sentencepiece: field 1
the pieces (text, score, type), field 2 the trainer's settings, field 3 the
normalizer's. Nothing recurses, every length is checked against what is left,
and unknown fields are skipped by their wire type.
"""

from __future__ import annotations

import struct
from collections import Counter
from enum import IntEnum

from mbuild.core.errors import FormatError
from mbuild.core.values import NamedTuple

PIECE_LIMIT = 4_000_000
"""Most pieces of a model; the largest published vocabularies have about 262,000."""

UNIGRAM = 1
"""``TrainerSpec.ModelType.UNIGRAM``, the default."""


class PieceType(IntEnum):
    """``ModelProto.SentencePiece.Type``, with the numbers that GGUF's token types share."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


_TYPES = frozenset(PieceType)
_FLOAT = struct.Struct("<f")


class SentencePieceModel(NamedTuple):
    """A vocabulary: parallel lists of texts, scores (float32 values) and :class:`PieceType`."""

    texts: list[str]
    scores: list[float]
    types: list[int]
    model_type: int
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    precompiled_charsmap: bytes


class _Message:
    """One protobuf message: a place in the bytes, and its end."""

    def __init__(self, data: bytes, start: int, end: int, name: str) -> None:
        self.data, self.at, self.end, self.name = data, start, end, name

    def varint(self) -> int:
        """A base-128 number of at most ten bytes."""
        value = shift = 0
        while self.at < self.end and shift < 70:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise FormatError(f"{self.name}: damaged number at byte {self.at}")

    def span(self) -> tuple[int, int]:
        """Start and end of a length-delimited field, within this message."""
        length = self.varint()
        start = self.at
        if length > self.end - start:
            raise FormatError(
                f"{self.name}: a field of {length} bytes at byte {start} is cut off "
                f"({self.end - start} are left)"
            )
        self.at = start + length
        return start, self.at

    def skip(self, wire: int) -> None:
        """Pass over a field's value."""
        if wire == 0:
            self.varint()
        elif wire == 2:
            self.span()
        elif wire in (1, 5):
            self.at += 8 if wire == 1 else 4
            if self.at > self.end:
                raise FormatError(f"{self.name}: truncated at byte {self.end}")
        else:
            raise FormatError(f"{self.name}: unknown wire type {wire} at byte {self.at}")

    def expect(self, wire: int, wanted: int) -> None:
        """Raise :class:`FormatError` when a known field is stored in another way."""
        if wire != wanted:
            raise FormatError(f"{self.name}: wrong wire type {wire} at byte {self.at}")


def read_model(data: bytes, name: str) -> SentencePieceModel:
    """Read ``tokenizer.model``; ``name`` is for messages.

    Raises :class:`FormatError` for anything that is not a model, and for what
    the library itself refuses to load: empty or repeated pieces, none or
    several unknown pieces, more than :data:`PIECE_LIMIT` pieces.
    """
    message = _Message(data, 0, len(data), name)
    texts: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer, normalizer = (0, 0), (0, 0)
    while message.at < message.end:
        message.at = _usual_pieces(data, message.at, texts, scores, types)
        if message.at == message.end:
            break
        tag = message.varint()
        field, wire = tag >> 3, tag & 7
        if field not in (1, 2, 3):
            message.skip(wire)
            continue
        message.expect(wire, 2)
        start, end = message.span()
        if field == 1:
            text, score, type_ = _any_piece(_Message(data, start, end, name))
            texts.append(text)
            scores.append(score)
            types.append(type_)
        elif field == 2:
            trainer = (start, end)
        else:
            normalizer = (start, end)
        if len(texts) > PIECE_LIMIT:
            raise FormatError(f"{name}: more than {PIECE_LIMIT} pieces")
    _check(texts, types, name)
    model_type = _trainer(_Message(data, *trainer, name))
    prefix, remove, charsmap = _normalizer(_Message(data, *normalizer, name))
    return SentencePieceModel(texts, scores, types, model_type, prefix, remove, charsmap)


def _usual_pieces(
    data: bytes, at: int, texts: list[str], scores: list[float], types: list[int]
) -> int:
    """Read pieces on from a place as long as they look as nearly all do; where that ends.

    Fields in order (text, score, type unless it is normal), and short. One loop without
    calls, because a vocabulary has a hundred thousand of them.
    """
    size = len(data)
    while at + 9 <= size and data[at] == 0x0A and data[at + 2] == 0x0A:
        length, count = data[at + 1], data[at + 3]
        end, after = at + 2 + length, at + 4 + count
        rest = end - after - 5
        if length > 127 or count > 127 or end > size or rest not in (0, 2) or data[after] != 0x15:
            break
        if rest == 2 and (data[end - 2] != 0x18 or data[end - 1] not in _TYPES):
            break
        try:
            texts.append(data[at + 4 : after].decode("utf-8"))
        except UnicodeDecodeError:
            break
        scores.append(_FLOAT.unpack_from(data, after + 1)[0])
        types.append(data[end - 1] if rest else PieceType.NORMAL)
        at = end
        if len(texts) > PIECE_LIMIT:
            break
    return at


def _any_piece(message: _Message) -> tuple[str, float, int]:
    text, score, type_ = "", 0.0, int(PieceType.NORMAL)
    while message.at < message.end:
        tag = message.varint()
        field, wire = tag >> 3, tag & 7
        if field == 1:
            message.expect(wire, 2)
            start, end = message.span()
            text = _text(message.data[start:end], start, message.name)
        elif field == 2:
            message.expect(wire, 5)
            place = message.at
            message.skip(5)
            score = _FLOAT.unpack_from(message.data, place)[0]
        elif field == 3:
            message.expect(wire, 0)
            type_ = message.varint()
            if type_ not in _TYPES:
                raise FormatError(f"{message.name}: unknown piece type {type_}")
        else:
            message.skip(wire)
    return text, score, type_


def _text(raw: bytes, place: int, name: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(f"{name}: a piece at byte {place} is not UTF-8") from None


def _check(texts: list[str], types: list[int], name: str) -> None:
    if not texts:
        raise FormatError(f"{name}: not a SentencePiece model (it has no pieces)")
    if "" in texts:
        raise FormatError(f"{name}: piece {texts.index('')} is empty")
    reserved = (PieceType.UNKNOWN, PieceType.CONTROL, PieceType.BYTE)
    keys = [(t, kind in reserved) for t, kind in zip(texts, types, strict=True)]
    if len(set(keys)) != len(keys):
        (twice, _), _ = Counter(keys).most_common(1)[0]
        raise FormatError(f"{name}: the piece {twice!r} occurs twice")
    unknown = types.count(PieceType.UNKNOWN)
    if unknown != 1:
        raise FormatError(f"{name}: {unknown} unknown pieces where there must be one")


def _trainer(message: _Message) -> int:
    """The model type of the trainer's settings."""
    model_type = UNIGRAM
    while message.at < message.end:
        tag = message.varint()
        if tag >> 3 == 3:
            message.expect(tag & 7, 0)
            model_type = message.varint()
        else:
            message.skip(tag & 7)
    return model_type


def _normalizer(message: _Message) -> tuple[bool, bool, bytes]:
    """Dummy prefix, removal of extra spaces, and the compiled character map."""
    flags = {3: True, 4: True}
    charsmap = b""
    while message.at < message.end:
        tag = message.varint()
        field, wire = tag >> 3, tag & 7
        if field in flags:
            message.expect(wire, 0)
            flags[field] = message.varint() != 0
        elif field == 2:
            message.expect(wire, 2)
            start, end = message.span()
            charsmap = message.data[start:end]
        else:
            message.skip(wire)
    return flags[3], flags[4], charsmap
