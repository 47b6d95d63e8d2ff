"""What running a step takes, as a value."""

from __future__ import annotations

import json

from mbuild.build.costs import BASE_MEMORY, Cost, PlannedTensor, memory_for
from mbuild.gguf.types import GGMLType


def test_the_largest_tensor_decides_the_memory() -> None:
    """A step that streams holds a few of it, beside what is there anyway."""
    assert memory_for(0) == BASE_MEMORY == 160 << 20
    gib = 1 << 30
    assert memory_for(2 * gib) - memory_for(gib) == memory_for(gib) - memory_for(0)
    assert gib < memory_for(gib) - BASE_MEMORY <= 4 * gib


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
