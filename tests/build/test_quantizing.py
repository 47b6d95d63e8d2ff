"""From which weights a model is quantized, and with which steps: by the values of its sources."""

from __future__ import annotations

import pytest
from planned import Q4, asked_for, checkpoint, file, gguf, layer, recipe, stored

from mbuild.build.quantizing import origin_of, quantized, quantized_draft, split_stored
from mbuild.build.sources.values import GGUFDirectory, Sources
from mbuild.build.splitting import Splitting
from mbuild.build.steps.gguf import Role
from mbuild.core.errors import UnsupportedError, UsageError
from mbuild.language.recipe import ModelChange
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.types import file_type
from mbuild.store.media import MODEL, SYSTEM


def test_the_weights_are_the_model_s_and_no_projector_s() -> None:
    """Of a folder those of its model, of a stored model its layer, of a checkpoint all of it."""
    folder = Sources((GGUFDirectory(gguf("a.gguf"), (gguf("mmproj.gguf"),)),))
    assert origin_of(recipe(), folder, asked_for()).name == "a.gguf"
    assert origin_of(recipe(), Sources((checkpoint("chat"),)), asked_for()).name == "chat"
    weights = layer(MODEL, "w")
    base = Sources((stored(layer(SYSTEM, "s"), weights),))
    assert origin_of(recipe(), base, asked_for()).name == weights.digest.short


def test_changes_come_before_the_quantization() -> None:
    """What is quantized is the model with its changes, so that they are part of its key."""
    changed = recipe(changes=(ModelChange("set", "general.name", "x"),))
    sources = Sources((gguf("a.gguf"),), changes=(None,))
    plain, other = (origin_of(each, sources, asked_for()) for each in (recipe(), changed))
    assert quantized(plain, Q4, sources, None) != quantized(other, Q4, sources, None)
    assert plain.name == other.name


def test_a_matrix_is_a_file_or_computed() -> None:
    """The step names the file that was found, or has the step that computes one among its own."""
    sources = Sources((gguf("a.gguf"),), imatrices={"m": file("m"), "t": file("t")})
    origin = origin_of(recipe(), sources, asked_for())
    given = quantized(origin, Q4._replace(imatrix="m"), sources, None)
    made = quantized(origin, Q4._replace(imatrix_from="t", imatrix_chunks=3), sources, None)
    assert [step.kind for step in given.inputs] == []
    assert [step.kind for step in made.inputs] == ["imatrix"]


def test_a_draft_has_one_type() -> None:
    """A draft is quantized for its role; bits a weight choose many types, which it cannot have."""
    request = asked_for(draft_quantize=Q4.file_type)
    step = quantized_draft(gguf("d.gguf"), request)
    assert (step.role, step.quantization) == (Role.DRAFT, Quantization(Q4.file_type))
    with pytest.raises(UsageError, match="is not a type"):
        quantized_draft(gguf("d.gguf"), asked_for(draft_quantize=file_type("4.5bpw")))


def test_only_weights_are_split() -> None:
    """A stored model without weights has nothing to split, and is named."""
    splitting = Splitting.parse({"split": "2GB"})
    assert splitting is not None
    assert split_stored(stored(layer(MODEL, "w")), splitting).several_layers
    with pytest.raises(UnsupportedError, match="has no GGUF weights"):
        split_stored(stored(layer(SYSTEM, "s")), splitting)
