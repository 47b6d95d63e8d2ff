"""Models changed on their way: keys set and taken out, layers dropped, tensors taken."""

from __future__ import annotations

from typing import Any

import pytest

from mbuild.convert.changing.layers import drop_layers
from mbuild.convert.changing.metadata import set_key, unset_key
from mbuild.convert.changing.taking import TakenLoad, grown, take_tensors
from mbuild.core.errors import FormatError, UsageError
from mbuild.core.values import replace
from mbuild.gguf.model import KV, Model, Tensor
from mbuild.gguf.types import GGMLType, ValueType

T = ValueType


def tensor(name: str, *dims: int, byte: int = 0) -> Tensor:
    """A tensor of F32 whose bytes are all the same."""
    made = Tensor(name, dims, GGMLType.F32, lambda: b"")
    return Tensor(name, dims, GGMLType.F32, lambda: bytes([byte]) * made.nbytes)


def model(*further: KV) -> Model:
    """Three layers of Llama, as far as names go."""
    metadata = (
        KV("general.architecture", T.STRING, "llama"),
        KV("llama.block_count", T.UINT32, 3),
        KV("llama.context_length", T.UINT32, 8),
        KV("llama.rope.freq_base", T.FLOAT32, 1.5),
        KV("llama.attention.head_count_kv", T.ARRAY, [1, 2, 3], T.INT32),
        KV("tokenizer.ggml.add_bos_token", T.BOOL, True),
        *further,
    )
    names = [f"blk.{n}.{part}.weight" for n in range(3) for part in ("attn_q", "attn_norm")]
    return Model(metadata, (tensor("token_embd.weight", 4, 2), *(tensor(n, 4, 4) for n in names)))


@pytest.mark.parametrize(
    ("key", "text", "type_", "value"),
    [
        ("llama.context_length", "4096", T.UINT32, 4096),
        ("llama.context_length", "int:4096", T.UINT32, 4096),
        ("llama.rope.freq_base", "1e6", T.FLOAT32, 1e6),
        ("llama.rope.freq_base", "5", T.FLOAT32, 5.0),
        ("tokenizer.ggml.add_bos_token", "false", T.BOOL, False),
        ("general.name", "12", T.STRING, "12"),
        ("general.name", "int:12", T.STRING, "int:12"),
        ("llama.expert_count", "4", T.UINT32, 4),
        ("tokenizer.ggml.eos_token_id", "2", T.UINT32, 2),
        ("my.flag", "true", T.BOOL, True),
        ("my.number", "7", T.UINT32, 7),
        ("my.number", "-7", T.INT32, -7),
        ("my.number", "5000000000", T.INT64, 5000000000),
        ("my.number", "0.5", T.FLOAT32, 0.5),
        ("my.number", "float:7", T.FLOAT32, 7.0),
        ("my.number", "uint:7", T.UINT32, 7),
        ("my.text", "str:7", T.STRING, "7"),
        ("my.text", "seven\nof nine", T.STRING, "seven\nof nine"),
    ],
)
def test_a_text_becomes_a_value_of_the_keys_type(
    key: str, text: str, type_: ValueType, value: Any
) -> None:
    """Its own, llama.cpp's, what the text says, or what it looks like; in that order."""
    made = set_key(model(), key, text)
    (entry,) = [entry for entry in made.metadata if entry.key == key]
    assert (entry.type, entry.value) == (type_, value)
    assert made.read(key) == value


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("llama.context_length", "-1"),
        ("llama.context_length", "1.5"),
        ("llama.context_length", "99999999999"),
        ("llama.rope.freq_base", "nan"),
        ("llama.rope.freq_base", "1e40"),
        ("tokenizer.ggml.add_bos_token", "yes"),
        ("llama.attention.head_count_kv", "1"),
        ("general.architecture", "gemma"),
        ("split.count", "1"),
        ("Upper.case", "1"),
        ("a b", "1"),
    ],
)
def test_what_a_key_cannot_be_is_refused(key: str, text: str) -> None:
    """With its name; lists and keys of the file's own form are not to be set."""
    with pytest.raises(UsageError, match=key.split(" ")[0]):
        set_key(model(), key, text)


def test_a_set_key_stays_where_it_stood() -> None:
    """A new one comes last."""
    keys = [entry.key for entry in model().metadata]
    assert [e.key for e in set_key(model(), "llama.context_length", "1").metadata] == keys
    assert [e.key for e in set_key(model(), "my.key", "1").metadata] == [*keys, "my.key"]


def test_a_key_is_taken_out() -> None:
    """One that is not there is an error, with the nearest."""
    assert unset_key(model(), "llama.rope.freq_base").read("llama.rope.freq_base") is None
    with pytest.raises(UsageError) as error:
        unset_key(model(), "llama.rope.freq_bse")
    assert error.value.hint == "did you mean llama.rope.freq_base?"


def test_dropped_layers_leave_no_gap() -> None:
    """Names and lists of the others move up; the count is what is left."""
    made = drop_layers(model(), [1])
    assert made.read("llama.block_count") == 2
    assert made.read("llama.attention.head_count_kv") == [1, 3]
    names = {tensor.name for tensor in made.tensors}
    assert names == {"token_embd.weight"} | {
        f"blk.{n}.{part}.weight" for n in (0, 1) for part in ("attn_q", "attn_norm")
    }


def test_shards_lose_the_tensors_of_dropped_layers() -> None:
    """A shard that has none left is gone."""
    whole = replace(model(), shards=(1, 2, 2, 2))
    assert drop_layers(whole, [1]).shards == (1, 2, 2)


@pytest.mark.parametrize("layers", [[3], [0, 1, 2]])
def test_layers_that_there_are_not_are_refused(layers: list[int]) -> None:
    """And so are all of them."""
    with pytest.raises(UsageError, match="the model has 3 layers, 0 to 2"):
        drop_layers(model(), layers)


def test_tensors_are_taken_by_an_expression() -> None:
    """With the other model's bytes and type; the others stay."""
    other = Model((), tuple(tensor(t.name, *t.dims, byte=7) for t in model().tensors))
    made = take_tensors(model(), r"attn_q", other, "other")
    taken = {t.name for t in made.tensors if isinstance(t.load, TakenLoad)}
    assert taken == {f"blk.{n}.attn_q.weight" for n in range(3)}
    assert all(bytes(t.load())[:1] == (b"\7" if t.name in taken else b"\0") for t in made.tensors)


@pytest.mark.parametrize(
    ("other", "error"),
    [
        (tensor("blk.9.attn_q.weight", 4, 4), FormatError),
        (tensor("blk.0.attn_q.weight", 4, 5), FormatError),
        (tensor("output.weight", 4, 4), UsageError),
    ],
)
def test_tensors_that_do_not_fit_are_refused(other: Tensor, error: type[Exception]) -> None:
    """Of another name, of another shape, and where none is called so."""
    with pytest.raises(error, match="attn_q"):
        take_tensors(model(), "attn_q", Model((), (other,)), "other")


def test_a_vocabulary_grows_with_its_embeddings() -> None:
    """Tokens that nobody names are padding, as llama.cpp's converter writes it."""
    lists = (
        KV("tokenizer.ggml.tokens", T.ARRAY, ["a", "b"], T.STRING),
        KV("tokenizer.ggml.scores", T.ARRAY, [0.0, -1.0], T.FLOAT32),
        KV("tokenizer.ggml.token_type", T.ARRAY, [1, 1], T.INT32),
        KV("llama.vocab_size", T.UINT32, 2),
    )
    larger = (tensor("token_embd.weight", 4, 5), *model().tensors[1:])
    made = grown(Model(model(*lists).metadata, larger), 2, {2: ("<x>", True), 3: ("y", False)})
    assert made.read("tokenizer.ggml.tokens") == ["a", "b", "<x>", "y", "[PAD4]"]
    assert made.read("tokenizer.ggml.token_type") == [1, 1, 3, 4, 5]
    assert made.read("tokenizer.ggml.scores") == [0.0, -1.0, -1000.0, -1000.0, -1000.0]
    assert made.read("llama.vocab_size") == 5
