"""Steps that make a few bytes: texts, parameters and the config, over a store in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes_store import MemoryStore

from mbuild.build.graph import Result, StepContext
from mbuild.build.steps.config import MakeConfig, check_one_model
from mbuild.build.steps.layers import MergeParameters, PutLayer, put_layer
from mbuild.core.digest import Digest
from mbuild.core.errors import SourceError
from mbuild.store import Layer
from mbuild.store.manifest import CONFIG_KEYS, CONFIG_TYPE
from mbuild.store.media import DRAFT, MODEL, PARAMS, PROJECTOR, SYSTEM, TEMPLATE


@pytest.fixture
def context(tmp_path: Path) -> StepContext:
    """A store in memory, and nobody who listens."""
    return StepContext.silent(MemoryStore(tmp_path / "files"))


def stored(context: StepContext, media_type: str, data: bytes) -> Layer:
    """A layer of a base model."""
    return Layer(media_type, context.store.blobs.put(data).digest, len(data), "base")


def text(context: StepContext, result: Result) -> str:
    """The bytes of a result's one layer."""
    (layer,) = result.layers
    return context.store.blobs.read(layer.digest, 1 << 20).decode()


def weights(media_type: str = MODEL, **facts: Any) -> Result:
    """What a step that made weights came out as."""
    known = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"]}
    return Result((Layer(media_type, Digest.of(b"w"), 1),), {**known, **facts})


# Texts.


def test_a_layer_is_new_once(context: StepContext) -> None:
    """Its type, digest, size and facts are the result's; the second time the store had it."""
    made = put_layer(context, TEMPLATE, b"{{ .Prompt }}", {"template": "x"})
    layer = Layer(TEMPLATE, Digest.of(b"{{ .Prompt }}"), 13)
    assert made.result == Result((layer,), {"template": "x"})
    assert made.new == (layer,)
    assert put_layer(context, TEMPLATE, b"{{ .Prompt }}").new == ()


def test_equal_texts_of_two_types_are_two_steps() -> None:
    """They have the same fields, so the kind tells them apart in the key."""
    system, template = PutLayer(SYSTEM, "x"), PutLayer(TEMPLATE, "x")
    assert (system.kind, template.kind) == ("system", "template")
    assert system.key_fields() == template.key_fields() == {"text": "x"}
    assert system != template
    assert system == PutLayer(SYSTEM, "x")


def test_a_text_that_is_no_text_is_an_error(context: StepContext) -> None:
    """A lone surrogate is no UTF-8 and never stored as something else."""
    with pytest.raises(UnicodeEncodeError):
        PutLayer(SYSTEM, "\ud800").run(context, [])


# Parameters.


def test_parameters_come_out_as_go_writes_them(context: StepContext) -> None:
    """Sorted keys, and a base's numbers by Go's rules for floats."""
    base = stored(context, PARAMS, b'{"temperature":1.0,"num_ctx":4096,"top_p":0.000000001}')
    made = MergeParameters({"stop": ["a"], "seed": 1}, base).run(context, [])
    assert text(context, made.result) == (
        '{"num_ctx":4096,"seed":1,"stop":["a"],"temperature":1,"top_p":1e-9}\n'
    )


def test_a_base_counts_with_its_digest(context: StepContext) -> None:
    """So another base is another key, and its model is what the layer is made from."""
    base = stored(context, PARAMS, b'{"seed":1}')
    step = MergeParameters({"seed": 2}, base)
    assert step.key_fields() == {"values": {"seed": 2}, "base": str(base.digest)}
    assert MergeParameters({"seed": 2}, None).key_fields() == {"values": {"seed": 2}, "base": None}
    assert [material.name for material in step.materials] == ["base"]
    assert MergeParameters({}, None).materials == ()


# The config.


def test_a_configs_keys_stand_in_gos_order(context: StepContext) -> None:
    """Whatever the order in which they came; empty values are left out."""
    overrides = {"requires": "0.13", "parser": "qwen3", "renderer": "", "base_name": "b"}
    step = MakeConfig(None, (PutLayer(SYSTEM, ""),), overrides)
    made = step.run(context, [weights(model_type="8B", file_type="Q4_0")])
    keys = list(json.loads(text(context, made.result)))
    assert keys == [key for key in CONFIG_KEYS if key in keys]
    assert "renderer" not in keys
    assert {"requires", "parser", "base_name", "model_type"} <= set(keys)
    assert made.result.layers[0].media_type == CONFIG_TYPE


def test_families_add_up_each_once(context: StepContext) -> None:
    """The model's first, then those of what comes with it."""
    steps = (PutLayer(SYSTEM, "model"), PutLayer(SYSTEM, "projector"))
    projector = weights(PROJECTOR, model_family="clip", model_families=["clip", "llama"])
    made = MakeConfig(None, steps, {}).run(context, [weights(), projector])
    config = json.loads(text(context, made.result))
    assert (config["model_family"], config["model_families"]) == ("llama", ["llama", "clip"])


def test_an_asked_family_comes_first(context: StepContext) -> None:
    """As in Ollama; one that is there already is not repeated."""
    step = MakeConfig(None, (PutLayer(SYSTEM, ""),), {"model_family": "gemma"})
    given = weights(model_families=["llama", "gemma"])
    config = json.loads(text(context, step.run(context, [given]).result))
    assert (config["model_family"], config["model_families"]) == ("gemma", ["gemma", "llama"])


def test_a_draft_has_a_place_of_its_own(context: StepContext) -> None:
    """Its facts never mix with the model's."""
    steps = (PutLayer(SYSTEM, "model"), PutLayer(SYSTEM, "draft"))
    draft = weights(DRAFT, model_family="qwen3", file_type="Q8_0")
    made = MakeConfig(None, steps, {}).run(context, [weights(file_type="F16"), draft])
    config = json.loads(text(context, made.result))
    assert config["draft"] == {"model_format": "gguf", "architecture": "qwen3"}
    assert (config["model_family"], config["file_type"]) == ("llama", "F16")


def test_a_variant_shows_in_the_label_only() -> None:
    """Two variants with the same weights have the same config."""
    one = MakeConfig(None, (), {}, "Q4_0")
    two = MakeConfig(None, (), {}, "Q8_0")
    assert (one.label, two.label) == ("config for Q4_0", "config for Q8_0")
    assert one == two


def test_two_models_are_named() -> None:
    """A projector beside a model is none; the steps that gave the models are told."""
    steps = tuple(PutLayer(each, "") for each in (SYSTEM, TEMPLATE))
    check_one_model(steps, [weights(), weights(PROJECTOR)])
    with pytest.raises(SourceError, match="FROM gives 2 models: system, template"):
        check_one_model(steps, [weights(), weights()])
    with pytest.raises(SourceError, match="FROM gives no model: system, template"):
        check_one_model(steps, [weights(PROJECTOR), weights(PROJECTOR)])
