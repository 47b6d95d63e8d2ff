"""Multimodal checkpoints through the command line: two layers of one build, each with its key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Run
from example_models import change_tensors, edit_json, settle, write_chat
from inprocess import in_process
from multimodal import spec, write_tensors
from multimodal_models import EYES, TEXT, layers, write_vlm
from reads_counted import count_weights

from mbuild.build.steps import opened
from mbuild.gguf.reader import open_gguf


@pytest.fixture
def mbuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, in this process."""
    return in_process(tmp_path, monkeypatch)


@pytest.fixture
def vlm(tmp_path: Path) -> Path:
    """A SmolVLM whose text model is the small chat model, in a shard of its own."""
    (tmp_path / "Modelfile").write_text("FROM ./vlm\n")
    return write_vlm(tmp_path / "vlm")


def ran(mbuild: Run, *arguments: str) -> list[str]:
    """Build ``m``; the labels of the steps over weights that ran."""
    done = mbuild("--progress", "json", "-t", "m", *arguments)
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    finished = [event for event in events if event["event"] == "StepFinished"]
    labels = [event["label"] for event in finished if not event["cached"]]
    return [label for label in labels if label.startswith(("convert", "quantize"))]


@pytest.mark.parametrize("types", [(), ("q8_0",), ("q4_0", "q8_0")])
def test_both_halves_read_each_byte_once(
    types: tuple[str, ...], vlm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text and encoders, for their layers and for the files' digests together."""
    monkeypatch.setattr(opened, "MUCH", 1)
    monkeypatch.setattr(opened, "_LARGE", 1025)
    most = count_weights(monkeypatch)
    options = [word for type_ in types for word in ("-q", type_)]
    assert len(ran(in_process(tmp_path, monkeypatch), *options)) == max(1, len(types)) + 1
    assert most() == {TEXT: 1, EYES: 1}


def value(path: Path, key: str) -> Any:
    """A value of a GGUF's metadata."""
    with open_gguf(path, name="m") as file:
        return file.get(key)


BOTH = ["convert vlm", "convert the encoders of vlm"]


def test_one_build_makes_both_halves(mbuild: Run, vlm: Path, tmp_path: Path) -> None:
    """The model, right after it the projector; a second build does nothing."""
    assert ran(mbuild) == BOTH
    made = layers(tmp_path)
    assert list(made)[:2] == ["model", "projector"]
    assert value(made["projector"], "clip.projector_type") == "idefics3"
    assert value(made["model"], "general.architecture") == "llama"
    assert ran(mbuild) == []


def test_a_quantization_leaves_the_projector_as_it_is(
    mbuild: Run, vlm: Path, tmp_path: Path
) -> None:
    """It is the same layer, from the cache."""
    ran(mbuild)
    before = layers(tmp_path)["projector"]
    assert ran(mbuild, "-q", "q8_0") == ["quantize vlm to Q8_0"]
    after = layers(tmp_path)
    assert after["projector"] == before
    assert value(after["model"], "general.file_type") == 7


def test_both_halves_of_a_first_quantized_build(mbuild: Run, vlm: Path, tmp_path: Path) -> None:
    """The second build of it does nothing: every digest was found in passing."""
    assert sorted(ran(mbuild, "-q", "q8_0")) == [BOTH[1], "quantize vlm to Q8_0"]
    assert list(layers(tmp_path))[:2] == ["model", "projector"]
    assert ran(mbuild, "-q", "q8_0") == []


def test_an_option_of_the_conversion_leaves_the_projector_as_it_is(
    mbuild: Run, vlm: Path, tmp_path: Path
) -> None:
    """Both halves run together with it, and a later one makes the text half alone again."""
    assert ran(mbuild) == BOTH
    before = layers(tmp_path)
    assert ran(mbuild, "--fuse-qkv") == BOTH[:1]
    assert layers(tmp_path)["projector"] == before["projector"]
    assert ran(mbuild, "--fuse-qkv") == []


@pytest.mark.parametrize(
    ("change", "runs"),
    [
        (lambda f: edit_json(f / "tokenizer_config.json", extra=1), BOTH[:1]),
        (lambda f: change_tensors(f / TEXT, "layers.0.mlp.down_proj"), BOTH[:1]),
        (lambda f: change_tensors(f / EYES, "patch_embedding.weight"), BOTH),
        (
            lambda f: edit_json(f / "preprocessor_config.json", image_mean=[0.25, 0.5, 0.5]),
            BOTH[1:],
        ),
        (lambda f: edit_json(f / "config.json", scale_factor=2), BOTH),
    ],
    ids=["tokenizer", "text weights", "encoder weights", "processor", "config"],
)
def test_what_decides_each_half(mbuild: Run, vlm: Path, change: Any, runs: list[str]) -> None:
    """A half is made again only when something changed that it reads."""
    ran(mbuild)
    change(vlm)
    settle()
    assert ran(mbuild) == runs


def test_the_text_half_alone(mbuild: Run, vlm: Path, tmp_path: Path) -> None:
    """Nobody is warned of what was asked for."""
    done = mbuild("-t", "m", "--text-only")
    assert done.returncode == 0, done.stderr
    assert "left out" not in done.stderr
    assert "projector" not in layers(tmp_path)


def test_the_projector_alone(mbuild: Run, vlm: Path, tmp_path: Path) -> None:
    """The same bytes as beside the model; exported it is a file of its own."""
    ran(mbuild)
    beside = layers(tmp_path)["projector"]
    assert mbuild("-t", "p", "--mmproj").returncode == 0
    assert layers(tmp_path, "p/latest") == {"projector": beside}
    assert mbuild("export", "m", "-o", "out").returncode == 0
    (exported,) = (tmp_path / "out").glob("mmproj-*.gguf")
    assert exported.read_bytes() == beside.read_bytes()


@pytest.mark.parametrize(("outtype", "number"), [("f16", 1), ("q8_0", 7), ("f32", 0)])
def test_the_projectors_own_type(
    outtype: str, number: int, mbuild: Run, vlm: Path, tmp_path: Path
) -> None:
    """``--mmproj-outtype`` changes nothing of the model."""
    ran(mbuild)
    model = layers(tmp_path)["model"]
    assert ran(mbuild, "--mmproj-outtype", outtype) == BOTH[1:]
    made = layers(tmp_path)
    assert made["model"] == model
    assert value(made["projector"], "general.file_type") == number


def test_outtype_counts_for_both_where_the_projector_has_none(
    mbuild: Run, vlm: Path, tmp_path: Path
) -> None:
    """One option, two files of that type."""
    ran(mbuild, "--outtype", "f16")
    made = layers(tmp_path)
    assert {value(made[half], "general.file_type") for half in ("model", "projector")} == {1}


def test_encoders_that_no_file_describes_are_left_out_with_a_warning(
    mbuild: Run, vlm: Path, tmp_path: Path
) -> None:
    """The text half is what llama.cpp makes of it; the projector alone is refused."""
    processor = vlm / "preprocessor_config.json"
    processor.write_text("{}")
    settle()
    done = mbuild("-t", "m")
    assert done.returncode == 0, done.stderr
    assert "no image_mean" in done.stderr and "reads text only" in done.stderr
    assert "projector" not in layers(tmp_path)
    done = mbuild("-t", "m", "--mmproj")
    assert done.returncode == 1 and "no image_mean" in done.stderr


def test_encoders_that_cannot_be_converted_stop_the_build(
    mbuild: Run, vlm: Path, tmp_path: Path
) -> None:
    """Before a byte is written, with the option that builds the text half."""
    config = json.loads((vlm / "config.json").read_text())
    (vlm / "config.json").write_text(json.dumps({**config, "architectures": ["SeerForVision"]}))
    settle()
    done = mbuild("-t", "m")
    assert done.returncode == 1
    assert "SeerForVision" in done.stderr
    assert "--text-only" in done.stderr
    assert not list((tmp_path / "store/blobs").glob("sha256-*"))
    assert mbuild("-t", "m", "--text-only").returncode == 0


def test_encoders_without_tensors_are_said(mbuild: Run, vlm: Path, tmp_path: Path) -> None:
    """The text half of a fine-tune that was saved alone is built, with a warning."""
    (vlm / EYES).unlink()
    (vlm / "model.safetensors.index.json").unlink()
    (vlm / TEXT).rename(vlm / "model.safetensors")
    settle()
    done = mbuild("-t", "m")
    assert done.returncode == 0, done.stderr
    assert "the model reads text only" in done.stderr
    assert "projector" not in layers(tmp_path)


def test_a_projector_from_a_checkpoint_of_its_own(mbuild: Run, vlm: Path, tmp_path: Path) -> None:
    """A second FROM gives only its encoders: Ultravox has no text model itself."""
    write_chat(tmp_path / "chat")
    case = spec("ultravox")
    (tmp_path / "ears").mkdir()
    for name, content in case["files"].items():
        (tmp_path / "ears" / name).write_text(json.dumps(content))
    write_tensors(tmp_path / "ears" / "model.safetensors", case["tensors"])
    settle()
    (tmp_path / "Modelfile").write_text("FROM ./ears\n")
    done = mbuild("-t", "m")
    assert done.returncode == 1
    assert "maker/text" in done.stderr
    (tmp_path / "Modelfile").write_text("FROM ./chat\nFROM ./ears\n")
    assert sorted(ran(mbuild)) == ["convert chat", "convert the encoders of ears"]
    assert value(layers(tmp_path)["projector"], "clip.has_audio_encoder") is True


def test_show_has_a_section_of_the_projector(mbuild: Run, vlm: Path) -> None:
    """What kind it is, what it takes; as JSON too, with the capability."""
    ran(mbuild)
    shown = mbuild("show", "m").stdout
    section = shown[shown.index("  Projector") : shown.index("  Layers")]
    assert "idefics3" in section
    assert "images" in section
    described = json.loads(mbuild("show", "m", "--format", "json").stdout)
    assert described["projector"]["type"] == "idefics3"
    assert described["capabilities"] == ["completion", "vision"]


def test_a_lock_holds_both_halves(mbuild: Run, vlm: Path, tmp_path: Path) -> None:
    """The options about the halves and the processor's file are in it."""
    assert mbuild("lock", "-t", "m", "--mmproj-outtype", "f16").returncode == 0
    lock = json.loads((tmp_path / "Modelfile.lock").read_text())
    assert lock["options"]["mmproj_outtype"] == "f16"
    assert "preprocessor_config.json" in lock["sources"]["from"][0]["files"]
    assert ran(mbuild, "--locked") == []
    edit_json(vlm / "preprocessor_config.json", image_mean=[0.25, 0.5, 0.5])
    settle()
    done = mbuild("-t", "m", "--locked")
    assert done.returncode == 1
    assert "preprocessor_config.json" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--mmproj", "--text-only"), "cannot be combined"),
        (("--mmproj-outtype", "f16", "--text-only"), "cannot be combined"),
        (("--mmproj", "-q", "q4_0"), "not quantized"),
        (("--mmproj", "--split", "1MB"), "--mmproj makes no model"),
    ],
)
def test_options_that_contradict(
    arguments: tuple[str, ...], said: str, mbuild: Run, vlm: Path
) -> None:
    """They are refused before anything is read."""
    done = mbuild("-t", "m", *arguments)
    assert done.returncode in (1, 2)
    assert said in done.stderr


def test_a_projector_needs_encoders(mbuild: Run, tmp_path: Path) -> None:
    """``--mmproj`` of a text model is refused."""
    write_chat(tmp_path / "chat")
    (tmp_path / "Modelfile").write_text("FROM ./chat\n")
    done = mbuild("-t", "m", "--mmproj")
    assert done.returncode in (1, 2)
    assert "FROM names none" in done.stderr


def test_a_plan_shows_both_halves(mbuild: Run, vlm: Path) -> None:
    """Before the build it says which steps will run, and what they write."""
    done = mbuild("plan")
    assert done.returncode == 0, done.stderr
    assert "convert the encoders of vlm" in done.stdout
    shutil.rmtree(vlm)


def test_a_name_that_is_given_is_the_projector_s_too(
    mbuild: Run, vlm: Path, tmp_path: Path
) -> None:
    """As with --model-name and --metadata of llama.cpp's converter; both halves are made again."""
    assert ran(mbuild) == BOTH
    (tmp_path / "about.json").write_text(json.dumps({"general.author": "Jane"}))
    assert ran(mbuild, "--model-name", "Eyes", "--metadata", "about.json") == BOTH
    made = layers(tmp_path)
    for half in ("model", "projector"):
        assert value(made[half], "general.name") == "Eyes"
        assert value(made[half], "general.author") == "Jane"
    assert ran(mbuild, "--model-name", "Eyes", "--metadata", "about.json") == []
