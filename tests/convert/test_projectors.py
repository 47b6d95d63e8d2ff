"""Projectors: every kind equal to llama.cpp's file, and what is refused instead of left out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import weights
from hyper_parameters import lazy
from multimodal import (
    CASES,
    DATA,
    convert,
    digest,
    listing,
    opened,
    projector,
    spec,
    write_case,
)
from torch_files import write_torch_zip

from mbuild.convert.projector import open_towers
from mbuild.convert.projectors import find, rows
from mbuild.convert.read.dtypes import to_f32
from mbuild.convert.read.lazy import lazy_of
from mbuild.convert.read.safetensors import read_header
from mbuild.convert.rows.clip_names import clip_name
from mbuild.convert.rows.conformer import folded
from mbuild.convert.rows.projector import frames
from mbuild.convert.rows.torch_math import sincos32
from mbuild.convert.rows.torch_softplus import softplus32
from mbuild.convert.rows.towers import Section, Towers, part
from mbuild.core.errors import FormatError, MbuildError, UnsupportedError
from mbuild.gguf.facts import describe
from mbuild.gguf.model import Model
from mbuild.gguf.types import GGMLType

WHOLE = [name for name in CASES if "digests" in spec(name)]
ROUNDED = [name for name in CASES if "rounded" in spec(name)]

_MATRICES = (
    *("out_proj.weight", "fc1.weight", "wo.weight", "linear_fc1.weight"),
    *("q_proj.linear.weight",),
)

NOT_CONVERTED = {
    "MiMoV2ForCausalLM": "a second checkpoint in audio_tokenizer/",
    "PocketTTSModel": "text to speech",
    "Qwen3TTSForConditionalGeneration": "text to speech",
}


NO_TYPE = {
    *("mimo_audio", "mimovl"),
    *("pockettts_gen", "pockettts_spkenc", "qwen3tts_gen", "qwen3tts_spkenc"),
}
"""The types of the classes that are not converted."""

NO_CASE = {"nemotron_v2_vl", "parakeet", "step3vl"}
"""The types of which there is one size, too large for a case."""

ROOT = Path(__file__).parents[2]


def reference() -> tuple[set[str], set[str]]:
    """llama.cpp's classes with projectors, and its types of projectors."""
    _, classes, types = (DATA / "reference.txt").read_text().split("# ")
    return {*classes.split("\n")[1:]} - {""}, {*types.split("\n")[1:]} - {""}


@pytest.mark.parametrize("name", WHOLE)
def test_a_projector_is_the_references_file(name: str, tmp_path: Path) -> None:
    """Every byte, whatever type is asked for."""
    case = spec(name)
    towers = opened(tmp_path, case)
    wanted = {each: case["digests"][each] for each in ("auto", "q8_0")}
    assert {each: digest(convert(towers, each)) for each in wanted} == wanted


def test_a_projector_of_pickled_weights_is_the_references_file(tmp_path: Path) -> None:
    """The same bytes as of safetensors."""
    case = spec("gemma3")
    files = write_case(tmp_path / "tiny", case)
    tensors = []
    for name, described in sorted(case["tensors"].items()):  # as in safetensors
        dtype, *dims = described.split()
        shape = tuple(map(int, dims))
        tensors.append((name, dtype, shape, weights(name, dtype, list(shape))))
    files.pop("model.safetensors").unlink()
    files["pytorch_model.bin"] = tmp_path / "tiny" / "pytorch_model.bin"
    write_torch_zip(files["pytorch_model.bin"], tensors)
    towers = open_towers("tiny", files)
    assert towers is not None
    assert digest(convert(towers, "auto")) == case["digests"]["auto"]


def test_an_encoder_in_fp8_is_dequantized(tmp_path: Path) -> None:
    """With ModelOpt's note in a file of its own: values times their scale."""
    case = spec("gemma3")
    name = next(n for n in case["tensors"] if n.endswith("layers.0.mlp.fc1.weight"))
    case["tensors"][name] = case["tensors"][name].replace("BF16", "F8_E4M3")
    case["tensors"][f"{name}_scale"] = "F32"
    note = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}
    case["files"]["hf_quant_config.json"] = note
    folder = tmp_path / "tiny"
    files = write_case(folder, case)
    towers = open_towers("tiny", files)
    assert towers is not None
    found = {t.name: t for t in convert(towers, "f32").tensors}["v.blk.0.ffn_up.weight"]
    stored = {t.name: t for t in read_header(files["model.safetensors"], "model.safetensors")}

    plain, scale = (lazy_of(stored[n]) for n in (name, f"{name}_scale"))
    wanted = to_f32(plain.load(), plain.dtype) * to_f32(scale.load(), scale.dtype)
    assert np.array_equal(np.frombuffer(bytes(found.load()), np.float32), wanted.ravel())


@pytest.mark.parametrize("outtype", ("f16", "f32"))
@pytest.mark.parametrize("name", ("gemma3", "hunyuan_vl", "pixtral", "voxtral", "gemma4"))
def test_types_that_are_asked_for_are_the_references(
    name: str, outtype: str, tmp_path: Path
) -> None:
    """Which of the small matrices are F32, F16 or as the file is."""
    case = spec(name)
    assert digest(projector(tmp_path, case, outtype)) == case["digests"][outtype]


@pytest.mark.parametrize("name", ROUNDED)
def test_all_else_is_the_references_where_torch_rounds_wrongly(name: str, tmp_path: Path) -> None:
    """Roots, sines and cosines are rounded as they should be; every other tensor is equal."""
    case = spec(name)
    assert all("conv_norm" in each or "position_embd" in each for each in case["rounded"])
    towers, rounded = opened(tmp_path, case), case["rounded"]
    assert listing(convert(towers, "auto"), rounded) == case["listings"]["auto"]


def test_every_class_of_the_reference_is_known() -> None:
    """It has a row, or its reason stands here; every row but these has a case.

    test_mistral_format.py has those of Mistral's own format.
    """
    classes, types = reference()
    assert {name for name in classes if find(name) is None} == NOT_CONVERTED.keys()
    assert len(types) == 57
    used = {id(find(_class_of(spec(name)))) for name in CASES}
    without = [row.names[0] for row in rows() if id(row) not in used]
    assert sorted(without) == [
        "MistralFormat",
        "NemotronH_Nano_VL_V2",
        "StepVLForConditionalGeneration",
    ]


def _class_of(case: dict[str, Any]) -> str:
    config = case["files"]["config.json"]
    inner = config.get("vision_config", {}).get("architectures")
    return (inner or config["architectures"])[0]  # type: ignore[no-any-return]


def test_every_type_of_projector_is_one_of_the_reference(tmp_path: Path) -> None:
    """What is written as projector_type is a word that llama.cpp's loader knows, and the
    documentation says how many of them there are."""
    _, types = reference()
    found = set()
    for name in CASES:
        model = projector(tmp_path / name, spec(name))
        keys = ("clip.projector_type", "clip.vision.projector_type", "clip.audio.projector_type")
        found |= {value for key in keys if (value := model.get(key))}
    assert types - found == NO_TYPE | NO_CASE
    text = (ROOT / "docs" / "convert.md").read_text()
    assert f"{len(types - NO_TYPE)} of the {len(types)} types of projectors" in " ".join(
        text.split()
    )


@pytest.mark.parametrize("name", ("gemma3", "qwen3_vl", "voxtral", "gemma4", "kimi_vl"))
def test_a_missing_tensor_is_refused(name: str, tmp_path: Path) -> None:
    """An encoder without one of its matrices is no encoder; text alone is offered."""
    case = spec(name)
    gone = [n for n in case["tensors"] if ".1." in n and n.endswith(_MATRICES)]
    for tensor in gone:
        del case["tensors"][tensor]
    assert gone
    with pytest.raises(FormatError, match="has no tensor for") as caught:
        projector(tmp_path, case)
    assert "--text-only" in caught.value.hint


@pytest.mark.parametrize("name", ("gemma3", "qwen2_5_vl", "internvl", "ultravox"))
def test_one_layer_more_or_less_is_refused(name: str, tmp_path: Path) -> None:
    """config.json and the tensors say the same number of layers."""
    case = spec(name)
    config = case["files"]["config.json"]
    inner = config.get("vision_config") or config["audio_config"]
    key = next(k for k in ("num_hidden_layers", "depth") if k in inner)
    for count in (inner[key] - 1, inner[key] + 1):
        changed = copy.deepcopy(case)
        part_ = "vision_config" if "vision_config" in config else "audio_config"
        changed["files"]["config.json"][part_][key] = count
        with pytest.raises(FormatError):
            projector(tmp_path / str(count), changed)


def test_a_shape_that_config_contradicts_is_refused(tmp_path: Path) -> None:
    """The message names the tensor, its place in the projector, and what is asked for."""
    case = spec("gemma3")
    case["files"]["config.json"]["text_config"]["hidden_size"] = 96
    with pytest.raises(FormatError, match=r"mm\.input_projection\.weight.*\[32, 96\]"):
        projector(tmp_path, case)


def test_a_tensor_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    """It would be another encoder without it."""
    case = spec("gemma3")
    case["tensors"]["vision_tower.vision_model.encoder.layers.0.gate.weight"] = "BF16 32"
    with pytest.raises(UnsupportedError, match="no place in a projector"):
        projector(tmp_path, case)


def test_encoders_of_an_unknown_class_are_refused(tmp_path: Path) -> None:
    """They are never left out without a word: the remedy is to ask for that."""
    case = spec("gemma3")
    case["files"]["config.json"]["architectures"] = ["MllamaForConditionalGeneration"]
    with pytest.raises(UnsupportedError, match="Mllama") as caught:
        projector(tmp_path, case)
    assert "--text-only" in caught.value.hint


def test_another_encoder_under_pixtrals_class_is_refused(tmp_path: Path) -> None:
    """LLaVA with CLIP has the class of LLaVA with Pixtral."""
    case = spec("pixtral")
    case["files"]["config.json"]["vision_config"]["model_type"] = "clip_vision_model"
    with pytest.raises(UnsupportedError, match="clip_vision_model"):
        projector(tmp_path, case)


def test_names_of_another_version_of_the_library_are_known(tmp_path: Path) -> None:
    """llama.cpp's converter writes an empty projector for them."""
    case = spec("gemma3")
    expected = projector(tmp_path / "old", case)
    names = {
        f"model.{name}" if "language" not in name else name: described
        for name, described in case["tensors"].items()
    }
    towers = open_towers("tiny", write_case(tmp_path / "new" / "tiny", {**case, "tensors": names}))
    assert towers is not None
    made = convert(towers, "auto")
    assert [tensor.name for tensor in made.tensors] == [t.name for t in expected.tensors]
    assert made.metadata == expected.metadata


def test_encoders_without_tensors_are_no_projector(tmp_path: Path) -> None:
    """A fine-tune of the text half is saved without them."""
    case = spec("gemma3")
    case["tensors"] = {"language_model.model.embed_tokens.weight": "BF16 80 64"}
    assert open_towers("tiny", write_case(tmp_path / "tiny", case)) is None


@pytest.mark.parametrize("value", (-1, True, "16", [16], 1e300, None, {}))
def test_a_hostile_number_is_refused_by_its_place(value: Any, tmp_path: Path) -> None:
    """The message says in which part of which file it stands."""
    case = spec("gemma3")
    case["files"]["config.json"]["vision_config"]["patch_size"] = value
    with pytest.raises(MbuildError, match=r"config\.json: vision_config"):
        projector(tmp_path, case)


@pytest.mark.parametrize("mean", (None, [0.5, "x"], {}, [float("inf")]))
def test_the_images_mean_must_be_numbers(mean: Any, tmp_path: Path) -> None:
    """Without it an encoder sees other images than it was trained with."""
    case = spec("gemma3")
    case["files"]["preprocessor_config.json"]["image_mean"] = mean
    with pytest.raises(FormatError, match=r"preprocessor_config\.json.*image_mean"):
        projector(tmp_path, case)


def test_a_processor_config_counts_before_a_preprocessor_config(tmp_path: Path) -> None:
    """Its image_processor's values are its own, as transformers saves them."""
    case = spec("gemma3")
    mean = {"image_processor": {"image_mean": [0.25, 0.25, 0.25]}}
    case["files"]["processor_config.json"] = mean
    model = projector(tmp_path, case)
    assert model.get("clip.vision.image_mean") == [0.25, 0.25, 0.25]
    assert model.get("clip.vision.image_std") == [0.5, 0.5, 0.5]


def test_the_own_table_of_names_adds_to_the_packages() -> None:
    """A name of each, a number that counts layers and one that does not, and an unknown one."""
    endings = (".weight", ".bias")
    assert clip_name("vision_tower.vision_model.encoder.layers.7.mlp.fc1.bias", endings) == (
        "v.blk.7.ffn_up.bias"
    )
    assert clip_name("model.vision_tower.vit_merger.linear_1.weight", endings) == (
        "v.vit_merger.ds_ffn_up.weight"
    )
    assert clip_name("visual.merger.mlp.2.weight", endings) == "mm.2.weight"
    assert clip_name("v.blk.3.attn_q.weight", endings) == "v.blk.3.attn_q.weight"
    assert clip_name("model.layers.0.mlp.up_proj.weight", endings) is None


def _towers(**tensors: Any) -> Towers:
    from mbuild.convert.read.dtypes import OutType
    from mbuild.convert.read.files import CheckpointFiles

    none = Section({})
    given = {name.replace("__", "."): lazy(value) for name, value in tensors.items()}
    order = {name: place for place, name in enumerate(given)}
    return Towers(none, none, none, 8, OutType.F32, CheckpointFiles({}), given, order=order)


def test_a_batch_norm_is_folded_where_its_last_tensor_stands() -> None:
    """weight / sqrt(var + 1e-5), and bias - mean * that, in float32."""
    given = {
        "n__batch_norm__bias": np.array([1, 2], np.float32),
        "n__batch_norm__running_mean": np.array([4, 5], np.float32),
        "n__batch_norm__running_var": np.array([4, 9], np.float32),
        "n__batch_norm__weight": np.array([2, 3], np.float32),
    }
    towers, rule = _towers(**given), folded(r"batch_norm\.")
    made = [
        pair for name, item in towers.tensors.items() for pair in rule.action(towers, name, item)
    ]
    assert [name for name, _ in made] == ["n.batch_norm.weight", "n.batch_norm.bias"]
    scale = given["n__batch_norm__weight"] / np.sqrt(np.float32([4, 9]) + np.float32(1e-5))
    assert made[0][1].load().tolist() == scale.tolist()
    assert made[1][1].load().tolist() == (np.float32([1, 2]) - np.float32([4, 5]) * scale).tolist()


def test_a_batch_norm_without_its_variance_is_refused() -> None:
    """It cannot be folded."""
    towers = _towers(n__batch_norm__bias=np.zeros(2, np.float32))
    (item,) = towers.tensors.values()
    with pytest.raises(FormatError, match="missing"):
        list(folded(r"batch_norm\.").action(towers, "n.batch_norm.bias", item))


def test_a_convolution_over_frames_becomes_one_over_each() -> None:
    """The second has a number behind its name; three frames are refused."""
    kernel = np.arange(2 * 3 * 2 * 2 * 2, dtype=np.float32).reshape(2, 3, 2, 2, 2)
    first, second = frames("x").action(_towers(), "x", lazy(kernel))
    assert (first[0], second[0]) == ("v.patch_embd.weight", "v.patch_embd.weight.1")
    assert (second[1].load() == kernel[:, :, 1]).all()
    with pytest.raises(FormatError):
        frames("x").action(_towers(), "x", lazy(kernel[:, :, :1]))


def test_defaults_and_fixed_values_of_a_part() -> None:
    """A default fills in, a fixed value replaces; no part, no encoder."""
    from mbuild.core.values import replace

    towers = replace(_towers(), root=Section({"v": {"a": 1, "b": 2}}))
    found = part("v", {"a": 7, "c": 3}, fixed={"b": 9})(towers)
    assert found == {"a": 1, "b": 9, "c": 3}
    assert part("w", {"a": 7})(towers) is None


def test_softplus_and_the_circle() -> None:
    """Within one unit in the last place; large values and zero exactly."""
    values = np.linspace(-30, 30, 77, dtype=np.float32)
    exact = np.where(values > 20, values, np.log1p(np.exp(values.astype(np.float64))))
    assert np.abs(softplus32(values) - exact).max() <= 2e-6
    assert softplus32(np.float32([25]))[0] == 25
    sines, cosines = sincos32(np.float32([0, np.pi / 2]))
    assert (sines.tolist(), cosines[0]) == ([0.0, 1.0], 1.0)


@pytest.mark.parametrize(
    ("name", "capabilities", "senses"),
    [
        ("gemma3", ("vision",), ("images",)),
        ("voxtral", ("vision", "audio"), ("sound",)),
        ("gemma4", ("vision", "audio"), ("images", "sound")),
        ("gemma3n", ("vision",), ("images", "sound")),
    ],
)
def test_what_a_projector_adds_to_a_model(
    name: str, capabilities: tuple[str, ...], senses: tuple[str, ...], tmp_path: Path
) -> None:
    """Capabilities are Ollama's: vision whenever there is one, nothing of Gemma 3n's ears."""
    facts = describe(projector(tmp_path, spec(name)))
    assert (facts.kind, facts.capabilities, facts.senses) == ("projector", capabilities, senses)


@pytest.mark.parametrize("outtype", ("bf16", "f16"))
def test_matrices_keep_their_own_types(outtype: str, tmp_path: Path) -> None:
    """The patch embedding is never BF16, Gemma's input projection always F16."""
    model: Model = projector(tmp_path, spec("gemma3"), outtype)
    types = {tensor.name: tensor.type for tensor in model.tensors}
    assert types["v.patch_embd.weight"] is GGMLType.F32
    assert types["mm.input_projection.weight"] is GGMLType.F16
    assert types["v.blk.0.attn_q.weight"] is GGMLType[outtype.upper()]
    assert json.dumps(model.get("general.type")) == '"mmproj"'
