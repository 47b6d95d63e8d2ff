"""The planner by itself: from values to steps, with no file, store or command line."""

from __future__ import annotations

from typing import Any

import pytest
from planned import Q4, Q8, asked_for, checkpoint, file, gguf, layer, recipe, stored

from mbuild.build.graph import Step, in_order
from mbuild.build.plan import plan
from mbuild.build.sources.values import (
    FileStamp,
    GGUFDirectory,
    GGUFSource,
    Sources,
)
from mbuild.core.errors import UnsupportedError, UsageError
from mbuild.language.recipe import Recipe, Turn
from mbuild.quant.choose.options import Quantization
from mbuild.quant.choose.types import file_type
from mbuild.store import Layer
from mbuild.store.media import LICENSE, MODEL, PARAMS, SYSTEM


def labels(sources: Sources, recipe_: Recipe | None = None, **options: Any) -> list[str]:
    """The labels of all steps of all variants, inputs before users."""
    plans = plan(recipe_ or recipe(), sources, asked_for(**options))
    return [step.label for step in in_order([each.manifest for each in plans])]


def entries(sources: Sources, recipe_: Recipe, **options: Any) -> list[str]:
    """What the manifest of the one variant lists: steps by label, layers by their last word."""
    (planned,) = plan(recipe_, sources, asked_for(**options))
    return [
        entry.kind if isinstance(entry, Layer) else entry.label
        for entry in planned.manifest.entries
    ]


def test_a_gguf_file() -> None:
    """Imported; its template is detected from its layer, and gives parameters."""
    assert labels(Sources((gguf("a.gguf"),))) == [
        "import a.gguf",
        "config",
        "detect template",
        "params",
        "manifest",
    ]


def test_layers_stand_in_ollamas_order() -> None:
    """Weights, template, adapters, drafts, then texts."""
    sources = Sources(
        (GGUFDirectory(gguf("a.gguf"), (gguf("mmproj.gguf"),)),),
        (gguf("lora.gguf"), checkpoint("lora")),
        (gguf("draft.gguf"),),
    )
    asked = recipe(
        system="s", licenses=("l",), messages=(Turn("user", "hi"),), parameters={"seed": 1}
    )
    assert entries(sources, asked) == [
        "import a.gguf",
        "import mmproj.gguf",
        "detect template",
        "import lora.gguf",
        "convert adapter lora",
        "import draft draft.gguf",
        "system",
        "license",
        "params",
        "messages",
    ]


def test_a_given_template_takes_the_place_of_the_detected_one() -> None:
    """Its stop parameters stay: the weights end their answers with them all the same."""
    found = entries(Sources((gguf("a.gguf"),)), recipe(template="t"))
    assert found == ["import a.gguf", "template", "params"]


def test_shards_are_merged() -> None:
    """Several files of one source are one layer."""
    assert "merge a-1.gguf and 1 more" in labels(Sources((gguf("a-1.gguf", "a-2.gguf"),)))


def test_a_stored_model_is_inherited() -> None:
    """Its layers as they are; what is given replaces them, a known license is not added."""
    base = stored(layer(MODEL, "w"), layer(SYSTEM, "old"), layer(LICENSE, "MIT"))
    asked = recipe(system="new", licenses=("MIT", "BSD"))
    assert entries(Sources((base,)), asked) == ["model", "license", "system", "license"]
    (planned,) = plan(asked, Sources((base,)), asked_for())
    inherited = [entry for entry in planned.manifest.entries if isinstance(entry, Layer)]
    assert {entry.origin for entry in inherited} == {str(base.name)}
    assert planned.base == base


def test_parameters_of_a_stored_model_are_merged() -> None:
    """They are read when the step runs, so the planner only names their layer."""
    params = layer(PARAMS, "{}")
    (planned,) = plan(recipe(), Sources((stored(layer(MODEL, "w"), params),)), asked_for())
    (step,) = (s for s in in_order([planned.manifest]) if s.kind == "params")
    assert step.key_fields() == {"values": {}, "base": str(params.digest)}


def test_variants_share_what_they_have_in_common() -> None:
    """Of three quantizations only weights, config and manifest are there three times."""
    sources = Sources((gguf("a.gguf"), gguf("mmproj.gguf")), (checkpoint("lora"),))
    asked = recipe(system="s", licenses=("l",), parameters={"seed": 1})
    found = labels(sources, asked, quantizations=(Q4, Quantization(file_type("Q5_0")), Q8))
    assert len(set(found)) == len(found)
    own = [label for label in found if any(q in label for q in ("Q4_0", "Q5_0", "Q8_0"))]
    assert len(own) == 9
    assert sorted(set(found) - set(own)) == [
        "convert adapter lora",
        "detect template",
        "import mmproj.gguf",
        "license",
        "params",
        "read chat template of a.gguf",
        "read shapes of a.gguf",
        "system",
    ]


def test_one_variant_is_planned_as_one_of_many() -> None:
    """But for the labels: the steps are equal, so their results are found again."""
    sources = Sources((checkpoint("chat"),), (checkpoint("lora"),))
    (alone,) = plan(recipe(), sources, asked_for(quantizations=(Q8,)))
    _, beside = plan(recipe(), sources, asked_for(quantizations=(Q4, Q8)))
    assert alone.manifest == beside.manifest
    assert alone.manifest.label != beside.manifest.label


def test_planning_twice_gives_equal_steps() -> None:
    """A plan is a value: of the same sources, files without digests among them."""

    def manifest() -> Step:
        sources = Sources((checkpoint("chat"),), (checkpoint("lora"),), (gguf("d.gguf"),))
        (planned,) = plan(recipe(system="s"), sources, asked_for(quantizations=(Q4,)))
        return planned.manifest

    assert manifest() == manifest()


def test_files_are_told_apart_before_anybody_reads_them() -> None:
    """By path and stamp; a file that became another one gives another step."""
    touched = file("a.gguf")._replace(stamp=FileStamp(1, 6, 100, 6, 6))
    plans = [
        plan(recipe(), Sources((GGUFSource((each,)),)), asked_for())[0].manifest
        for each in (file("a.gguf"), file("b.gguf"), touched)
    ]
    assert len(set(plans)) == 3


def test_a_link_is_the_same_step_as_a_copy() -> None:
    """How a file comes into the store does not tell what comes out."""
    sources = Sources((gguf("a.gguf"),))
    (copied,) = plan(recipe(), sources, asked_for())
    (linked,) = plan(recipe(), sources, asked_for(link=True))
    assert copied.manifest == linked.manifest


def test_readers_of_one_source_are_one_group() -> None:
    """Quantizations and what reads their source's header; a draft's are another."""
    sources = Sources((gguf("a.gguf"),), (checkpoint("lora"),), (gguf("a.gguf"),))
    plans = plan(recipe(), sources, asked_for(quantizations=(Q4, Q8), draft_quantize=Q4.file_type))
    groups: dict[object, list[str]] = {}
    for step in in_order([each.manifest for each in plans]):
        groups.setdefault(step.group, []).append(step.label)
    del groups[None]
    assert sorted(map(sorted, groups.values())) == [
        [
            "quantize a.gguf to Q4_0",
            "quantize a.gguf to Q8_0",
            "read chat template of a.gguf",
            "read shapes of a.gguf",
        ],
        ["quantize draft a.gguf to Q4_0"],
    ]


def test_a_stored_model_is_quantized_in_its_place() -> None:
    """The new weights stand where the old ones stood; an adapter is for what they were."""
    weights = layer(MODEL, "w")
    sources = Sources((stored(weights, layer(SYSTEM, "s")),), (checkpoint("lora"),))
    assert entries(sources, recipe(), quantizations=(Q4,)) == [
        f"quantize {weights.digest.short} to Q4_0",
        "system",
        "convert adapter lora",
    ]


def test_a_draft_quantization_needs_a_draft() -> None:
    """And says so."""
    with pytest.raises(UsageError, match="requires a DRAFT"):
        plan(recipe(), Sources((gguf("a.gguf"),)), asked_for(draft_quantize=Q4.file_type))


@pytest.mark.parametrize("quantizations", [(None,), (Q4,)])
def test_a_base_without_weights(quantizations: tuple[Quantization | None, ...]) -> None:
    """It cannot be quantized, and no adapter be converted for it; its name is told."""
    sources = Sources((stored(layer(SYSTEM, "s")),), (checkpoint("lora"),))
    with pytest.raises(UnsupportedError, match="base"):
        plan(recipe(), sources, asked_for(quantizations=quantizations))
