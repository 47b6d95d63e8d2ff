"""Prefixes of names that training leaves, taken off again."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbuild.convert.read.safetensors import DType, Shard, StoredTensor
from mbuild.convert.read.wrappers import WRAPPERS, unwrap
from mbuild.core.errors import FormatError


def _stored(*names: str, shard: str = "model.safetensors") -> list[StoredTensor]:
    file = Shard(shard, Path(shard), (0, 0, 0, 0))
    return [StoredTensor(name, DType.F32, (1,), file, 4 * i, 4) for i, name in enumerate(names)]


def _names(tensors: tuple[StoredTensor, ...]) -> list[str]:
    return [tensor.name for tensor in tensors]


def test_names_without_a_prefix_stay_as_they_are() -> None:
    """Nothing is said, and parts of names that only look like a wrapper are kept."""
    given = _stored("model.layers.0.module_list.weight", "model.embed_tokens.weight", "b_module.x")
    assert unwrap(given) == (tuple(given), [])


@pytest.mark.parametrize(("prefix", "maker"), WRAPPERS)
def test_a_wrapper_is_taken_off_wherever_it_stands(prefix: str, maker: str) -> None:
    """In front of the model and around single layers; the warning counts and names its maker."""
    given = _stored(
        f"{prefix}.model.embed_tokens.weight",
        f"{prefix}.model.layers.0.{prefix}.mlp.weight",
        "model.norm.weight",
    )
    made, warnings = unwrap(given)
    assert _names(made) == [
        "model.embed_tokens.weight",
        "model.layers.0.mlp.weight",
        "model.norm.weight",
    ]
    assert warnings == [
        f"the prefix {prefix}. ({maker}) is removed from the names of 2 tensors"
    ]  # one of them has it twice


def test_an_outer_module_of_any_name_is_taken_off() -> None:
    """Where no tensor stands at the root; what stands beside the model stays."""
    made, warnings = unwrap(
        _stored("student.lm_head.weight", "student.model.layers.0.mlp.weight", "temperature")
    )
    assert _names(made) == ["lm_head.weight", "model.layers.0.mlp.weight", "temperature"]
    assert warnings == [
        "the prefix student. (another module around the model) is removed from the names of"
        " 2 tensors"
    ]


@pytest.mark.parametrize("prefix", ["language_model.", "vision_tower.", "talker."])
def test_towers_and_models_with_a_root_keep_their_prefixes(prefix: str) -> None:
    """The families' rules know them, and a model at the root has nothing around it."""
    given = _stored(f"{prefix}model.layers.0.mlp.weight")
    assert unwrap(given) == (tuple(given), [])
    both = _stored("model.layers.0.mlp.weight", "draft.model.layers.0.mlp.weight")
    assert unwrap(both) == (tuple(both), [])


def test_two_tensors_of_one_name_are_refused_by_their_own_names() -> None:
    """The checkpoint holds the model twice, and which one counts nobody can tell."""
    with pytest.raises(FormatError, match=r"'_orig_mod\.a' are both 'a'") as caught:
        unwrap(_stored("a", "_orig_mod.a"))
    assert "twice" in str(caught.value.hint)


def test_tensors_come_in_the_order_of_their_new_names_in_each_file() -> None:
    """As they would if they had never had the prefixes; offsets stay with their tensors."""
    given = [*_stored("module.b", "module.a", shard="2"), *_stored("module.c", shard="1")]
    made, _ = unwrap(given)
    assert [(t.shard.name, t.name, t.offset) for t in made] == [
        ("1", "c", 0), ("2", "a", 4), ("2", "b", 0),
    ]  # fmt: skip
