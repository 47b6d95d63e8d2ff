"""Pictures' graphs, and what a page gathers, by themselves."""

from __future__ import annotations

import pytest

from mbuild.build.history import StepRecord
from mbuild.core.names import ModelName
from mbuild.store import Store
from mbuild.view.picture.model import MEANINGS, NodeLook, neighbours
from mbuild.view.report.drawing import look_of
from mbuild.view.report.facts import (
    ModelPart,
    layers_of,
    settings_of,
    users_of_layers,
    weights_of,
)


def test_every_look_has_a_meaning() -> None:
    """The legend can explain whatever is drawn."""
    assert set(MEANINGS) == set(NodeLook)
    assert len(set(MEANINGS.values())) == len(MEANINGS)


def test_neighbours_are_in_the_edges_order() -> None:
    """Before and after each node, as the edges name them."""
    before, after = neighbours(3, [(2, 0), (1, 0)])
    assert before == [[2, 1], [], []]
    assert after == [[], [0], [0]]


@pytest.mark.parametrize(
    ("status", "seconds", "look"),
    [
        ("cached", 0.0, NodeLook.CACHED),
        ("ran", 0.0, NodeLook.RAN),
        ("unfinished", 1.5, NodeLook.FAILED),
        ("unfinished", 0.0, NodeLook.WAITED),
    ],
)
def test_a_step_of_a_past_build_has_a_look(status: str, seconds: float, look: NodeLook) -> None:
    """One that began and did not finish failed; one that took no time had not begun."""
    step = StepRecord("gguf", "import x", "", (), status, seconds=seconds)
    assert look_of(step) is look


def test_a_page_gathers_what_the_store_knows(tiny_store: Store) -> None:
    """Layers with their users, tensors by type adding up to the whole."""
    stored = tiny_store.manifests.read(ModelName.parse("tiny"))
    part = ModelPart((str(stored.name),), stored.id, {}, stored.manifest)
    users = users_of_layers(tiny_store)
    layers = layers_of(part, users, tiny_store)
    assert all(layer.present for layer in layers)
    assert {layer.users for layer in layers} == {("tiny:latest",)}
    (weights,) = weights_of(part, tiny_store)
    assert sum(row.tensors for row in weights.types) == len(weights.tensors)
    assert sum(row.part for row in weights.types) == pytest.approx(1)
    assert settings_of([part], tiny_store) == ()  # a base model asks for nothing
