"""What running a step takes, as a value."""

from __future__ import annotations

import json

import pytest

from mbuild.build.costs import BASE_MEMORY, Cost, PlannedTensor, memory_for
from mbuild.gguf.types import GGMLType


@pytest.mark.parametrize("threads", [1, 2, 7, 16, 64, 256])
def test_memory_is_a_gibibyte_and_64_mebibytes_a_thread(threads: int) -> None:
    """Whatever the model, with pieces of any size that tensors are cut into."""
    for piece in (1 << 10, 8 << 20, 16 << 20, 64 << 20):
        for weights in (0, 1 << 20, 1 << 30, 1 << 40):
            assert memory_for(weights, piece, threads) <= (1 << 30) + threads * (64 << 20)


def test_a_small_model_takes_no_more_than_its_weights() -> None:
    """Beside what is there anyway."""
    assert memory_for(0, 0, 16) == BASE_MEMORY == 224 << 20
    assert memory_for(3 << 20, 1 << 20, 16) == BASE_MEMORY + (3 << 20)


def test_what_cannot_be_cut_is_in_memory_whole() -> None:
    """By itself: nothing else is worked on beside it."""
    gib = 1 << 30
    assert 4 * gib < memory_for(1 << 40, 4 * gib, 2) < 5 * gib


def test_a_planned_tensor_is_written_with_the_names_of_its_types() -> None:
    """As ``mbuild plan --format json`` prints it."""
    planned = PlannedTensor("output.weight", GGMLType.F16, GGMLType.Q6_K, 210)
    assert json.loads(json.dumps(planned.to_json())) == {
        "name": "output.weight",
        "before": "F16",
        "after": "Q6_K",
        "size": 210,
    }


def test_what_nobody_says_costs_nothing() -> None:
    """No bytes, which is not the same as bytes that nobody can know."""
    assert Cost() == Cost(writes=0, memory=0, tensors=(), every_core=False, in_passing=False)
    assert Cost(writes=None) != Cost()
