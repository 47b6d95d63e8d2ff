"""PEFT's settings: those that change the result are honoured, or refused by their names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pace import at_most

from mbuild.convert.lora.settings import read_config
from mbuild.convert.read.files import CheckpointFiles
from mbuild.core.errors import FormatError, UnsupportedError


def _read(folder: Path, **settings: Any) -> tuple[Any, list[str]]:
    path = folder / "adapter_config.json"
    plain = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "bias": "none"}
    path.write_text(json.dumps(plain | settings))
    warnings: list[str] = []
    return read_config("a", CheckpointFiles({path.name: path}), warnings.append), warnings


@pytest.mark.parametrize(
    ("key", "module", "fits"),
    [
        ("q_proj", "model.layers.0.self_attn.q_proj", True),
        ("q_proj", "model.layers.0.self_attn.xq_proj", False),
        ("self_attn.q_proj", "model.layers.0.self_attn.q_proj", True),
        ("^model.layers.3.self_attn.q_proj", "model.layers.3.self_attn.q_proj", True),
        ("^layers.3.self_attn.q_proj", "model.layers.3.self_attn.q_proj", False),
        (r".*\.layers\.3\..*(q_proj|k_proj)", "model.layers.3.self_attn.k_proj", True),
        (r".*\.layers\.3\..*(q_proj|k_proj)", "model.layers.13.self_attn.k_proj", False),
        (r"layers\.(1[0-9]|2[0-3])\.mlp\.\w+", "model.layers.21.mlp.up_proj", True),
        (r"layers\.(?:0|1)\.self_attn\.[qk]_proj$", "model.layers.1.self_attn.k_proj", True),
        (r"layers.\d.mlp.up_proj", "model.layers.9.mlp.up_proj", True),
    ],
)
def test_a_pattern_is_matched_as_peft_matches_it(
    key: str, module: str, fits: bool, tmp_path: Path
) -> None:
    """``(.*\\.)?(KEY)$`` from the start of the module's name."""
    config, _ = _read(tmp_path, alpha_pattern={key: 64})
    assert config.scale(module, 8) == (8.0 if fits else 2.0)


def test_the_first_pattern_that_fits_counts(tmp_path: Path) -> None:
    """Two keys match one module; PEFT takes the one that is written first."""
    config, _ = _read(tmp_path, alpha_pattern={"q_proj": 32, r"layers\.0\..*": 64})
    assert config.scale("model.layers.0.self_attn.q_proj", 8) == 4.0
    assert config.scale("model.layers.0.self_attn.k_proj", 8) == 8.0


@pytest.mark.parametrize(
    "key", ["(a|a)*b", "(a+)+", "(a*){9}", r"(a)\1", "(?=a)b", ".*a.*a.*a.*a.*b", "a" * 201]
)
def test_a_pattern_that_could_take_forever_is_refused(key: str, tmp_path: Path) -> None:
    """Repeated groups, references, look-ahead, many repetitions and long keys have a remedy."""
    with pytest.raises(UnsupportedError, match="alpha_pattern") as caught:
        _read(tmp_path, alpha_pattern={key: 1})
    assert "name the modules" in str(caught.value.hint)


def test_a_hostile_name_takes_no_time(tmp_path: Path) -> None:
    """A module's name of a million letters is not searched."""
    config, _ = _read(tmp_path, alpha_pattern={".*a.*a.*b": 1})
    with at_most(20):
        assert config.scale("a" * 1_000_000, 8) == 2.0
        for _ in range(10):
            config.scale("a" * 256, 8)


def test_a_pattern_that_is_no_expression_is_refused(tmp_path: Path) -> None:
    """An open bracket is an error with a remedy, not a traceback."""
    with pytest.raises(FormatError, match="not a regular expression"):
        _read(tmp_path, alpha_pattern={"q_[proj": 1})


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"lora_bias": True},
        {"layer_replication": [[0, 4], [2, 5]]},
        {"trainable_token_indices": [5]},
        {"trainable_token_indices": {"embed_tokens": [5]}},
        {"target_parameters": ["mlp.experts.gate_up_proj"]},
        {"use_qalora": True},
    ],
)
def test_what_gguf_cannot_say_is_refused_by_name(settings: dict[str, Any], tmp_path: Path) -> None:
    """Each such setting is named, and merging is the remedy."""
    with pytest.raises(UnsupportedError, match=next(iter(settings))) as caught:
        _read(tmp_path, **settings)
    assert "merge" in str(caught.value.hint)


def test_settings_of_training_say_nothing(tmp_path: Path) -> None:
    """What PEFT writes by default, and what the tensors show, needs no warning."""
    _, warnings = _read(
        tmp_path,
        **{"rank_pattern": {"q_proj": 4}, "lora_dropout": 0.1, "init_lora_weights": True},
        **{"target_modules": ["q_proj"], "modules_to_save": None, "fan_in_fan_out": False},
        **{"use_dora": False, "layer_replication": None, "loftq_config": {}, "corda_config": None},
    )
    assert warnings == []


def test_an_unknown_setting_and_a_changed_base_are_warnings(tmp_path: Path) -> None:
    """A setting of a newer PEFT, and PiSSA's start, which changes the base model."""
    _, warnings = _read(tmp_path, new_trick=3, init_lora_weights="pissa_niter_16")
    assert len(warnings) == 2
    assert "pissa_niter_16" in warnings[0] and "new_trick" in warnings[1]
