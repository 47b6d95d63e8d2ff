"""The reader of SentencePiece's protobuf: the inverse of a writer, and safe with any bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pace import at_most

from mbuild.convert.vocabulary.sentencepiece import PieceType, SentencePieceModel, read_model
from mbuild.core.errors import FormatError


def varint(value: int) -> bytes:
    """Protobuf's base-128 number."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | float | bytes) -> bytes:
    """One field: a varint, a float32 or bytes with their length."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def write_model(model: SentencePieceModel, *, explicit: bool) -> bytes:
    """A ModelProto; ``explicit`` writes fields that have their default value as well."""
    out = b""
    for text, score, type_ in zip(model.texts, model.scores, model.types, strict=True):
        piece = field(1, text.encode()) + field(2, score)
        if explicit or type_ != PieceType.NORMAL:
            piece += field(3, int(type_))
        out += field(1, piece)
    normalizer = field(3, int(model.add_dummy_prefix)) + field(4, model.remove_extra_whitespaces)
    if model.precompiled_charsmap:
        normalizer += field(2, model.precompiled_charsmap)
    unknown = field(900, 5) + field(901, b"later") + varint(902 << 3 | 1) + bytes(8)
    trainer = unknown + field(3, model.model_type)
    return out + unknown + field(2, trainer) + field(3, unknown + normalizer)


@st.composite
def models(draw: st.DrawFn) -> SentencePieceModel:
    """A vocabulary that the library would load."""
    texts = draw(st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=30, unique=True))
    texts = [t for t in texts if t.isprintable()] + ["<unk>"]
    texts = list(dict.fromkeys(texts))
    score = st.floats(width=32, allow_nan=False)
    kinds = st.sampled_from([k for k in PieceType if k is not PieceType.UNKNOWN])
    types = [int(draw(kinds)) for _ in texts]
    types[texts.index("<unk>")] = int(PieceType.UNKNOWN)
    return SentencePieceModel(
        texts,
        [draw(score) for _ in texts],
        types,
        draw(st.integers(1, 4)),
        draw(st.booleans()),
        draw(st.booleans()),
        draw(st.binary(max_size=300)),
    )


@given(models(), st.booleans())
def test_reading_is_the_inverse_of_writing(model: SentencePieceModel, explicit: bool) -> None:
    """Texts, scores, types and settings come back as they were; unknown fields are skipped."""
    assert read_model(write_model(model, explicit=explicit), "m") == model


SMALL = write_model(
    SentencePieceModel(
        ["<unk>", "a", "b" * 130], [0.0, -1.5, -2.5], [2, 1, 4], 1, True, False, b"z"
    ),
    explicit=False,
)


def test_defaults_are_those_of_the_format() -> None:
    """Without settings a model is Unigram, adds a prefix and removes extra spaces."""
    model = read_model(field(1, field(1, b"<unk>") + field(3, 2)), "m")
    assert model == SentencePieceModel(["<unk>"], [0.0], [2], 1, True, True, b"")


def test_fields_in_any_order_count() -> None:
    """Protobuf fields have no order, and the last value counts."""
    piece = field(3, 2) + field(2, 1.0) + field(2, 2.0) + field(1, b"x") + field(1, b"y")
    model = read_model(field(1, piece), "m")
    assert (model.texts, model.scores, model.types) == (["y"], [2.0], [2])


@pytest.mark.parametrize("end", range(len(SMALL) - 1))
def test_a_cut_model_is_refused_or_shorter(end: int) -> None:
    """A cut file is an error, or, when it is cut between fields, a model of what is left."""
    try:
        model = read_model(SMALL[:end], "cut.model")
    except FormatError as error:
        assert "cut.model" in str(error)
    else:
        assert model.texts == ["<unk>", "a", "b" * 130][: len(model.texts)]


@given(st.binary(max_size=400))
@example(SMALL)
def test_any_bytes_give_a_model_or_a_format_error(data: bytes) -> None:
    """No other exception leaves the reader."""
    try:
        model = read_model(data, "m")
    except FormatError:
        return
    assert len(model.texts) == len(model.scores) == len(model.types)


@given(st.integers(0, len(SMALL) - 1), st.integers(0, 255))
def test_any_changed_byte_gives_a_model_or_a_format_error(place: int, byte: int) -> None:
    """Damage within a well-formed file is no crash either."""
    try:
        read_model(SMALL[:place] + bytes([byte]) + SMALL[place + 1 :], "m")
    except FormatError:
        pass


def _piece(text: bytes, type_: int = 1) -> bytes:
    return field(1, field(1, text) + field(2, 0.0) + field(3, type_))


UNKNOWN = _piece(b"<unk>", 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no pieces"),
        (b"<html>", "wire type|cut off|damaged"),
        (UNKNOWN + _piece(b""), "piece 1 is empty"),
        (UNKNOWN + _piece(b"a") + _piece(b"a"), "'a' occurs twice"),
        (_piece(b"a"), "0 unknown pieces"),
        (UNKNOWN + _piece(b"u", 2), "2 unknown pieces"),
        (UNKNOWN + _piece(b"\xff"), "not UTF-8"),
        (UNKNOWN + _piece(b"a", 7), "unknown piece type 7"),
        (UNKNOWN + _piece(b"a", 2**63), "unknown piece type"),
        (varint(1 << 3 | 2) + varint(2**63), "cut off"),
        (varint(1 << 3 | 2) + b"\xff" * 20, "damaged number"),
        (varint(1 << 3), "wrong wire type 0"),
        (field(1, field(1, 5)), "wrong wire type"),
        (field(1, field(2, b"abcd")), "wrong wire type"),
        (field(1, varint(2 << 3 | 5) + b"\0\0"), "truncated"),
        (varint(99 << 3 | 3), "unknown wire type 3"),
        (UNKNOWN + field(2, field(3, b"x")), "wrong wire type"),
        (UNKNOWN + field(3, field(2, 1)), "wrong wire type"),
    ],
)
def test_malformed_models_are_refused(data: bytes, message: str) -> None:
    """Each fault is named, with the file."""
    with pytest.raises(FormatError, match=message) as caught:
        read_model(data, "bad.model")
    assert str(caught.value).startswith("bad.model: ")


def test_a_reserved_piece_may_look_like_a_normal_one() -> None:
    """The library keeps reserved and normal pieces apart, and so a text may be in both."""
    assert read_model(UNKNOWN + _piece(b"<0x0A>", 6) + _piece(b"<0x0A>"), "m").types == [2, 6, 1]


def test_a_large_vocabulary_takes_linear_time() -> None:
    """A hundred thousand pieces of one letter more each time are read well under a second."""
    data = UNKNOWN + b"".join(_piece(b"%d" % i) for i in range(100_000))
    with at_most(2):
        assert len(read_model(data, "m").texts) == 100_001
