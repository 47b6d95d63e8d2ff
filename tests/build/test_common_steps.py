"""A build of several variants does what they have in common once."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from conftest import Run
from example_models import edit_json, generator, set_value, settle
from gguf_files import tiny_gguf
from inprocess import in_process

THREE = ("-q", "q4_0", "-q", "q5_0", "-q", "q8_0")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkpoint whose template is detected, a projector and a PEFT adapter."""
    generator().write_chat(tmp_path / "chat")
    generator().write_lora(tmp_path / "lora")
    tiny_gguf(tmp_path / "mmproj.gguf", kind="projector")
    text = "FROM ./chat\nFROM ./mmproj.gguf\nADAPTER ./lora\nSYSTEM You are Mario.\n"
    (tmp_path / "Modelfile").write_text(text)
    settle()
    return tmp_path


@pytest.fixture
def mbuild(project: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line in this process, in the folder, on a store of its own."""
    return in_process(project, monkeypatch)


def steps_run(mbuild: Run, *arguments: str) -> list[str]:
    """The labels of the steps that a build runs, each as often as it runs."""
    done = mbuild("-t", "m", *arguments, "--progress", "json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    finished = [event for event in events if event["event"] == "StepFinished"]
    return [event["label"] for event in finished if not event["cached"]]


def test_three_variants_do_their_common_work_once(mbuild: Run) -> None:
    """Only weights, config and manifest are each variant's own; every other step is there once."""
    assert Counter(steps_run(mbuild, *THREE)) == Counter(
        [
            "import mmproj.gguf",
            "read shapes of chat",
            "convert adapter lora",
            "read chat template of chat",
            "detect template",
            "system",
            "params",
            *(f"quantize chat to {name}" for name in ("Q4_0", "Q5_0", "Q8_0")),
            *(f"config for {name}" for name in ("Q4_0", "Q5_0", "Q8_0")),
            *(f"manifest for {name}" for name in ("Q4_0", "Q5_0", "Q8_0")),
        ]
    )
    assert steps_run(mbuild, *THREE) == []


def test_another_variant_only_needs_its_own_steps(mbuild: Run) -> None:
    """Neither the template nor the adapter depends on how the weights are quantized."""
    steps_run(mbuild, "-q", "q4_0")
    assert sorted(steps_run(mbuild, "-q", "q8_0")) == [
        "config",
        "manifest",
        "quantize chat to Q8_0",
    ]


def test_other_weights_change_neither_template_nor_adapter(mbuild: Run, project: Path) -> None:
    """What they need of the header is read again, comes out the same, and stops the rebuild."""
    steps_run(mbuild, "-q", "q4_0")
    weights = project / "chat" / "model.safetensors"
    set_value(weights, "model.layers.0.mlp.up_proj.weight", 0.5)
    settle()
    ran = steps_run(mbuild, "-q", "q4_0")
    assert sorted(ran) == [
        "config",
        "manifest",
        "quantize chat to Q4_0",
        "read chat template of chat",
        "read shapes of chat",
    ]


def test_another_adapter_does_not_open_the_source(mbuild: Run, project: Path) -> None:
    """Of a retrained adapter alone nothing but the adapter is read."""
    steps_run(mbuild, *THREE)
    edit_json(project / "lora" / "adapter_config.json", lora_alpha=64)
    settle()
    ran = steps_run(mbuild, *THREE)
    assert "convert adapter lora" in ran
    assert not [label for label in ran if "chat" in label]


def test_an_adapter_that_does_not_fit_stops_the_build_early(mbuild: Run, project: Path) -> None:
    """It is converted while the weights are quantized, and its fault is the build's."""
    generator(WIDTH=128, HEADS=4).write_lora(project / "lora")
    done = mbuild("-t", "m", *THREE, "--progress", "json")
    assert done.returncode == 1
    assert "this adapter was trained for another base model" in done.stderr


def test_what_is_detected_is_that_of_the_unquantized_model(mbuild: Run) -> None:
    """The layers beside weights and config are those of a build without ``-q``."""
    steps_run(mbuild)
    plain = layers(mbuild, "m")
    steps_run(mbuild, *THREE)
    for name in ("m:q4_0", "m:q5_0", "m:q8_0"):
        found = layers(mbuild, name)
        assert found.pop("model") != plain["model"]
        assert found.items() <= plain.items()
        assert {"template", "params", "adapter", "projector", "system"} <= set(found)


def layers(mbuild: Run, name: str) -> dict[str, str]:
    """A model's layers by kind."""
    shown = json.loads(mbuild("show", name, "--format", "json").stdout)["layers"]
    return {layer["mediaType"].rpartition(".")[2]: layer["digest"] for layer in shown}
