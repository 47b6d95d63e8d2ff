"""Which layers a model has from its base, by the type of each: replaced, added to or left out."""

from __future__ import annotations

from planned import file, layer, recipe, stored

from mbuild.build.graph import Step
from mbuild.build.inheriting import ModelLayers, add_texts
from mbuild.build.steps.gguf import ImportGGUF, Role
from mbuild.build.steps.layers import PutLayer
from mbuild.store import Layer
from mbuild.store.media import LICENSE, MODEL, PARAMS, SYSTEM, TEMPLATE


def shown(entries: ModelLayers) -> list[str]:
    """Layers of the base by their kind, steps by their label."""
    return [each.kind if isinstance(each, Layer) else each.label for each in entries.all()]


def test_a_base_is_inherited_without_what_is_unset() -> None:
    """UNSET leaves out a type of layer by its word; a word for a config's key changes none."""
    base = stored(layer(MODEL, "w"), layer(TEMPLATE, "t"), layer(SYSTEM, "s"))
    assert shown(ModelLayers(base)) == ["model", "template", "system"]
    assert shown(ModelLayers(base, ("template", "renderer"))) == ["model", "system"]
    assert shown(ModelLayers(None, ("template",))) == []


def test_licenses_add_up_and_other_texts_replace() -> None:
    """A new system text moves behind what is there; a new license stands beside the old one."""
    entries = ModelLayers(stored(layer(SYSTEM, "s"), layer(LICENSE, "l"), layer(MODEL, "w")))
    entries.put(PutLayer(SYSTEM, "new"), SYSTEM)
    entries.put(PutLayer(LICENSE, "more"), LICENSE)
    assert shown(entries) == ["license", "model", "system", "license"]


def test_a_step_takes_the_place_of_all_shards() -> None:
    """Weights in several layers become one where the first of them stood."""
    one, two = layer(MODEL, "1"), layer(MODEL, "2")
    base = stored(layer(SYSTEM, "s"), one, two, layer(LICENSE, "l"))
    entries = ModelLayers(base)
    assert entries.several(base)
    weights = entries.weights()
    assert isinstance(weights, tuple)
    assert [each.digest for each in weights] == [one.digest, two.digest]
    step = ImportGGUF(file("a.gguf"), Role.MODEL)
    entries.put_in_place(step, MODEL)
    assert shown(entries) == ["system", "import a.gguf", "license"]
    assert not entries.several(base)
    assert entries.weights() == step


def test_texts_follow_in_the_order_of_ollama() -> None:
    """A license that the base has is not added; unset parameters are named to the step."""
    entries = ModelLayers(stored(layer(LICENSE, "MIT"), layer(PARAMS, "{}")))
    asked = recipe(
        template="t", system="s", licenses=("MIT", "BSD"), unset=("parameter stop", "parser")
    )
    add_texts(entries, asked, (), ())
    assert shown(entries) == ["license", "template", "system", "license", "params"]
    *_, merging = entries.all()
    fields = merging.key_fields() if not isinstance(merging, Layer) else None
    assert fields is not None
    assert fields["without"] == ["stop"]
    found: tuple[Step, ...] = entries.steps()
    assert len(found) == 4
