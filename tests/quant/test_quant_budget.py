"""Types chosen within a size: never above it, and near the best that there is."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbuild.core.errors import UsageError
from mbuild.gguf.types import GGMLType
from mbuild.quant.choose.budget import TypeChoice, choose, least
from mbuild.quant.choose.naming import WantedTensor, named_types
from mbuild.quant.choose.options import Quantization, spelled
from mbuild.quant.choose.types import Budget, file_type

CHOICES = st.lists(
    st.tuples(st.integers(1, 40), st.floats(0, 9)), min_size=1, max_size=4, unique_by=lambda c: c[0]
).map(lambda rows: [TypeChoice(GGMLType.Q8_0, size, loss) for size, loss in rows])


@given(st.lists(CHOICES, min_size=1, max_size=4), st.integers(0, 200))
def test_a_choice_is_within_the_room_and_near_the_best(
    tensors: list[list[TypeChoice]], room: int
) -> None:
    """No worse than the best for a room that is smaller by one step; None only where none fits."""
    found = choose(tensors, room)
    every = [row for row in product(*tensors) if sum(each.size for each in row) <= room]
    assert (found is None) == (not every) == (least(tensors) > room)
    if found is None:
        return
    assert all(own in choices for own, choices in zip(found, tensors, strict=True))
    assert sum(each.size for each in found) <= room
    step = max(max(c.size for c in row) - min(c.size for c in row) for row in tensors)
    smaller = [row for row in every if sum(each.size for each in row) <= room - step]
    loss = sum(each.loss for each in found)
    for row in smaller:
        assert loss <= sum(each.loss for each in row) + 1e-9


def test_what_gains_most_for_a_byte_comes_first() -> None:
    """A large tensor waits, though its error is the largest."""
    large = [TypeChoice(GGMLType.Q4_0, 100, 3), TypeChoice(GGMLType.Q8_0, 200, 1)]
    small = [TypeChoice(GGMLType.Q4_0, 10, 1), TypeChoice(GGMLType.Q8_0, 20, 0)]
    found = choose([large, small], 130)
    assert found == [large[0], small[1]]
    assert choose([large, small], 220) == [large[1], small[1]]
    assert choose([large, small], 109) is None and least([large, small]) == 110


@pytest.mark.parametrize(
    ("text", "name", "budget"),
    [
        ("4.6bpw", "4.6bpw", Budget(bits=4.6)),
        ("4BPW", "4bpw", Budget(bits=4)),
        ("4.2GB", "4.2GB", Budget(4_200_000_000)),
        ("1gib", "1GiB", Budget(1 << 30)),
        ("500 M", "500MB", Budget(500_000_000)),
        ("04.60bpw", "4.6bpw", Budget(bits=4.6)),
        ("12345678B", "12345678B", Budget(12_345_678)),
    ],
)
def test_a_size_is_a_file_type(text: str, name: str, budget: Budget) -> None:
    """It is called by what was asked, and asked again by that."""
    found = file_type(text)
    assert (found.name, found.budget) == (name, budget)
    assert file_type(found.name) == found and spelled(found.name) == found.name


@pytest.mark.parametrize("text", ["4.6", "0bpw", "33bpw", "bpw", "GB", "4.6 bits", "4XB"])
def test_what_is_neither_a_type_nor_a_size(text: str) -> None:
    """It is refused, with what can be."""
    with pytest.raises(UsageError):
        file_type(text)


def test_bits_are_of_all_weights() -> None:
    """A budget of bits is one of bytes for a model."""
    assert Budget(bits=4.5).bytes_for(16) == 9
    assert Budget(7).bytes_for(16) == 7


def test_options_that_contradict_each_other_are_refused() -> None:
    """Two matrices, chunks of no text, one type for a size."""
    for options, said in (
        ({"imatrix": "a", "imatrix_from": "b"}, "give two importance matrices"),
        ({"imatrix_chunks": "5"}, "--imatrix-chunks has no effect"),
    ):
        with pytest.raises(UsageError, match=said):
            Quantization.parse("q4_K_M", options)
    with pytest.raises(UsageError, match=r"--pure asks for one type, and 4[.]6bpw for many"):
        Quantization.parse("4.6bpw", {"pure": True})


def test_a_computed_matrix_is_an_option_like_others() -> None:
    """Written, read, on a command line; the key has what comes of it, not how."""
    found = Quantization.parse("q4_K_M", {"imatrix_from": "t.txt", "imatrix_chunks": 5})
    assert Quantization.from_json(found.to_json()) == found and found.importances
    assert found.flags() == [("--imatrix-from", "t.txt"), ("--imatrix-chunks", "5")]
    assert found.fields() == Quantization.parse("q4_K_M", {}).fields()


def test_named_types_are_what_the_names_give() -> None:
    """One rule for a type of all layers, the numbers of the others named."""
    rows = [
        WantedTensor(f"blk.{n}.{kind}.weight", (256, 256), GGMLType.BF16, type_)
        for n in range(3)
        for kind, type_ in (
            ("attn_q", GGMLType.Q4_K),
            ("attn_v", GGMLType.Q6_K if n == 1 else GGMLType.Q4_K),
            ("ffn_up", GGMLType.Q5_K),
        )
    ]
    base = Quantization(file_type("q4_K_M"), pure=True)
    found, wrong = named_types(rows, lambda key, default=None: default, base)
    assert not wrong
    assert found.tensor_types == (
        ("^blk\\.[0-9]+\\.ffn_up\\.weight$", GGMLType.Q5_K),
        ("^blk\\.(1)\\.attn_v\\.weight$", GGMLType.Q6_K),
    )
