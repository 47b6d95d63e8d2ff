"""Which RoPE scaling a class of transformers takes; what a class refuses is read as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_convert_settings import converted

from mbuild.convert.rows.scaling import taken
from mbuild.core.errors import FormatError

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("scaling", "takers"),
    [
        (None, "llama cohere deepseek_v3 olmo mistral"),
        ({"rope_type": "linear", "factor": 2.0}, "llama cohere deepseek_v3 mistral"),
        ({"type": "linear", "factor": 2.0}, "llama deepseek_v3 olmo mistral"),
        ({"type": "linear", "factor": 2}, "llama deepseek_v3 mistral"),
        ({"rope_type": "linear"}, "mistral"),
        ({"rope_type": "linear", "factor": None}, "llama cohere mistral"),
        ({"rope_type": None, "type": "linear", "factor": 2.0}, "llama cohere deepseek_v3 mistral"),
        ({}, "mistral"),
        ({"factor": 2.0}, "mistral"),
        ({"rope_type": "strange"}, "llama cohere deepseek_v3 mistral"),
        ({"type": "mrope", "mrope_section": [1, 1, 2]}, "llama cohere deepseek_v3 mistral"),
        ("linear", "mistral"),
        ({"rope_type": "yarn"}, "mistral"),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 0},
            "mistral",
        ),
        ({"rope_type": "longrope", "short_factor": [1.0]}, "mistral"),
        ({"rope_type": "longrope", "short_factor": None, "long_factor": [1.0]}, "mistral"),
        ({"rope_type": "llama3", **LLAMA3}, "llama cohere deepseek_v3 mistral"),
        ({"rope_type": "llama3", **LLAMA3, "low_freq_factor": None}, "mistral"),
        ({"rope_type": "llama3", **LLAMA3, "factor": None}, "llama cohere mistral"),
    ],
    ids=str,
)
def test_what_each_class_takes(scaling: Any, takers: str) -> None:
    """As the classes of transformers 4.57.6 did when each was made with this scaling."""
    classes = ("llama", "cohere", "deepseek_v3", "olmo", "mistral")
    config = {"rope_scaling": scaling, "max_position_embeddings": 128}
    assert [each for each in classes if taken(each, config)] == takers.split()


def test_a_refused_config_has_no_defaults(tmp_path: Path) -> None:
    """Llama's class would add a base of 10,000; the converter, without it, writes none."""
    base = "llama.rope.freq_base"
    for name, scaling, value in (("whole", None, 10000.0), ("part", {"type": "linear"}, None)):
        changes = {"rope_theta": ..., "rope_parameters": ..., "rope_scaling": scaling}
        model = converted(tmp_path / name, "llama", **changes)
        assert {kv.key: kv.value for kv in model.keys}.get(base) == value


@pytest.mark.parametrize("name", [*LLAMA3, "rope_type"])
def test_null_is_no_number_of_a_scaling(name: str, tmp_path: Path) -> None:
    """The converter ends at it; no default takes its place."""
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, **LLAMA3, name: None}
    changes = {"rope_scaling": ..., "rope_theta": ..., "rope_parameters": rope}
    with pytest.raises(FormatError, match=rf"config\.json: rope_parameters\.{name} is None"):
        converted(tmp_path, "llama", **changes)


def test_kinds_of_layers_that_a_file_names_are_all_there_are(tmp_path: Path) -> None:
    """Gemma 3's class adds no base for sliding layers to a file that has one for the others."""
    full = {"full_attention": {"rope_type": "default", "rope_theta": 1000000.0}}
    model = converted(tmp_path, "gemma3", rope_parameters=full)
    found = {kv.key: kv.value for kv in model.keys}
    assert found["gemma3.rope.freq_base"] == 1000000.0
    assert "gemma3.rope.freq_base_swa" not in found


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"max_seq_len": ...}, "context_length", 2048),
        ({"max_seq_len": ..., "max_position_embeddings": 96}, "context_length", 96),
    ],
)
def test_defaults_of_dbrx(changes: dict[str, Any], key: str, value: int, tmp_path: Path) -> None:
    """What its class in transformers adds."""
    found = {kv.key: kv.value for kv in converted(tmp_path, "dbrx", **changes).keys}
    assert found[f"dbrx.{key}"] == value


def test_a_context_length_is_not_made_up_for_falcon_h1(tmp_path: Path) -> None:
    """The converter writes 0 without one, with which no program can do anything."""
    with pytest.raises(FormatError, match=r"config\.json has no max_position_embeddings"):
        converted(tmp_path, "falcon_h1", max_position_embeddings=...)


@pytest.mark.parametrize("name", ["layer_types", "partial_rotary_factors"])
def test_step_says_how_much_of_a_head_turns(name: str, tmp_path: Path) -> None:
    """Its stretching is made for the layers with full attention: without them there is none."""
    with pytest.raises(FormatError, match="partial_rotary_factors has no number"):
        converted(tmp_path, "step3p5", **{name: ...})


def test_nemotron_h_says_how_much_of_a_head_turns(tmp_path: Path) -> None:
    """``attn_rotary_emb`` goes before the share of a head; 0 says nothing."""
    for place, changes, other in (("a", {}, True), ("b", {"attn_rotary_emb": 8}, False)):
        model = converted(tmp_path / place, "nemotron_h", **changes)
        turned = {kv.key: kv.value for kv in model.keys}["nemotron_h.rope.dimension_count"]
        assert (turned != 8) is other
    zero = converted(tmp_path / "c", "nemotron_h", attn_rotary_emb=0)
    assert {kv.key: kv.value for kv in zero.keys}["nemotron_h.rope.dimension_count"] != 0


def test_sections_of_a_head_are_those_of_all_layers(tmp_path: Path) -> None:
    """Of Gemma 3, too, whose other numbers are the full layers'."""
    rope = {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [2, 1, 1]}
    found = {kv.key: kv.value for kv in converted(tmp_path, "gemma3", rope_parameters=rope).keys}
    assert found["gemma3.rope.dimension_sections"] == [2, 1, 1, 0]
