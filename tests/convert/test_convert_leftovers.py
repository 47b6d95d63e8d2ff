"""What training and quantization leave in a checkpoint is read, left out or named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import DATA, write_checkpoint
from llama_runs import byte_level_tokenizer

from mbuild.convert.checkpoint import Checkpoint, open_checkpoint
from mbuild.convert.convert import convert, convert_body
from mbuild.convert.read.files import CheckpointFiles
from mbuild.convert.read.leftovers import LEFTOVERS, Verdict
from mbuild.convert.vocabulary.spm import has_pieces
from mbuild.core.errors import FormatError, MbuildError, SourceError, UnsupportedError

L0 = "model.layers.0."
UP = f"{L0}mlp.up_proj"


def spec(name: str = "llama") -> dict[str, Any]:
    return json.loads((DATA / f"{name}.json").read_text())  # type: ignore[no-any-return]


def opened(folder: Path, case: dict[str, Any]) -> Checkpoint:
    return open_checkpoint("tiny", write_checkpoint(folder / "tiny", case))


def names(checkpoint: Checkpoint) -> list[str]:
    return [tensor.name for tensor in convert_body(checkpoint).tensors]


def renamed(case: dict[str, Any], prefix: str) -> dict[str, Any]:
    shard = case["tensors"]["model.safetensors"]
    case["tensors"]["model.safetensors"] = {prefix + name: type_ for name, type_ in shard.items()}
    return case


# --- prefixes ---


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("_orig_mod.", ["_orig_mod. (torch.compile)"]),
        ("module.", ["module. (DataParallel or DeepSpeed)"]),
        ("base_model.model.", ["base_model.model. (PEFT)"]),
        ("module._orig_mod.", ["module.", "_orig_mod."]),
        ("_orig_mod.module._fsdp_wrapped_module.", ["_orig_mod.", "module.", "_fsdp_wrapped"]),
        ("_fsdp_wrapped_module._fpw_module.", ["_fsdp_wrapped_module.", "_fpw_module."]),
        ("model.", ["model. (another module around the model)"]),
        ("student.net.", ["student.net."]),
        ("module.pretrained_model.", ["module.", "pretrained_model."]),
    ],
)
def test_a_wrappers_prefix_is_taken_off_and_named(
    prefix: str, said: list[str], tmp_path: Path
) -> None:
    """The model is the one without the prefix, in the same order."""
    plain = opened(tmp_path / "plain", spec())
    wrapped = opened(tmp_path / "wrapped", renamed(spec(), prefix))
    assert names(wrapped) == names(plain) and not plain.warnings
    assert len(wrapped.warnings) == len(said)
    for text in said:
        assert any(text in warning and "38" not in warning for warning in wrapped.warnings)


def test_a_wrapper_inside_names_is_taken_off(tmp_path: Path) -> None:
    """Activation checkpointing and FSDP wrap single layers."""
    case = spec()
    shard = case["tensors"]["model.safetensors"]
    case["tensors"]["model.safetensors"] = {
        name.replace(".mlp.", "._checkpoint_wrapped_module.mlp._fsdp_wrapped_module."): type_
        for name, type_ in shard.items()
    }
    wrapped = opened(tmp_path / "wrapped", case)
    assert names(wrapped) == names(opened(tmp_path / "plain", spec()))
    assert any("activation checkpointing" in warning for warning in wrapped.warnings)


def test_a_model_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """With the prefix and without it; which one is meant nobody knows."""
    case = spec()
    case["tensors"]["model.safetensors"]["_orig_mod.model.norm.weight"] = "BF16 64"
    with pytest.raises(FormatError, match=r"'_orig_mod\.model\.norm\.weight'") as caught:
        opened(tmp_path, case)
    assert "'model.norm.weight'" in caught.value.message and "twice" in caught.value.hint


def test_prefixes_of_towers_are_left_to_the_family(tmp_path: Path) -> None:
    """A vision model's language_model. is no wrapper."""
    assert opened(tmp_path, spec("gemma3_vision")).warnings == ()


# --- left out with a warning ---

DROPPED = [
    (f"{L0}self_attn.k_scale", "F32", "key-value cache"),
    (f"{L0}self_attn.kv_scale", "F32", "key-value cache"),
    (f"{L0}self_attn.attn.v_scale", "F32", "key-value cache"),
    (f"{L0}self_attn.k_proj.output_scale", "F32", "key-value cache"),
    (f"{UP}.input_scale", "F32", "activations"),
    (f"{UP}.activation_scale", "F32 1", "activations"),
    (f"{UP}.input_quantizer._amax", "F32", "activations"),
    ("v_head.summary.weight", "F32 1 64", "value or reward head"),
    ("score.weight", "BF16 1 64", "value or reward head"),
    ("medusa_head.0.0.linear.weight", "BF16 64 64", "Medusa"),
    ("optimizer.state.0.exp_avg", "F32 64", "training state"),
    (f"{UP}.weight.exp_avg_sq", "F32 96 64", "training state"),
    (f"{UP}.weight.absmax", "F32 4", "bitsandbytes"),
    (f"{UP}.SCB", "F32 96", "bitsandbytes"),
    (f"{UP}.weight._scale", "F32 1", "Quanto"),
]


@pytest.mark.parametrize(("name", "type_", "what"), DROPPED, ids=[row[0] for row in DROPPED])
def test_what_changes_nothing_is_left_out_with_a_warning(
    name: str, type_: str, what: str, tmp_path: Path
) -> None:
    """The model is the same without it: the weights beside it are plain BF16."""
    case = spec()
    case["tensors"]["model.safetensors"][name] = type_
    found = opened(tmp_path / "more", case)
    assert names(found) == names(opened(tmp_path / "plain", spec()))
    assert len(found.warnings) == 1
    assert name in found.warnings[0] and what in found.warnings[0]


def test_many_of_a_kind_are_one_warning(tmp_path: Path) -> None:
    """A line for each of a hundred layers would hide all others."""
    case = spec()
    for layer in range(2):
        for letter in "kv":
            name = f"model.layers.{layer}.self_attn.{letter}_scale"
            case["tensors"]["model.safetensors"][name] = "F32"
    (warning,) = opened(tmp_path, case).warnings
    assert "like 3 more" in warning


# --- refused with a remedy ---

REFUSED = [
    (f"{UP}.base_layer.weight", "BF16 96 64", "LoRA", "merge_and_unload"),
    (f"{UP}.lora_A.default.weight", "F32 8 64", "LoRA", "merge_and_unload"),
    (f"{UP}.lora_magnitude_vector.default.weight", "F32 96", "LoRA", "merge_and_unload"),
    ("lm_head.modules_to_save.default.weight", "BF16 80 64", "LoRA", "ADAPTER"),
    (f"{UP}.parametrizations.weight.original0", "BF16 96 1", "parametriz", "remove_param"),
    (f"{UP}.g_idx", "I32 64", "GPTQ", "merge its adapter"),
    (f"{UP}.qweight", "I32 8 96", "AWQ", "merge its adapter"),
    (f"{UP}.biases", "BF16 96 1", "MLX", "--dequantize"),
    (f"{UP}.weight_scales", "F16 96", "EETQ", "merge its adapter"),
    (f"{UP}.W_q", "U8 96 32", "HQQ", "dequantize"),
    (f"{UP}.codebooks", "F16 1 256 1 8", "AQLM", "merge its adapter"),
    (f"{UP}.Qidxs", "I16 96 8", "QuIP#", "merge its adapter"),
    (f"{UP}.trellis", "I16 4 6 64", "ExLlama", "merge its adapter"),
    (f"{UP}.weight_packed", "I32 96 8", "compressed-tensors", "dequantize"),
    (f"{UP}.pre_quant_scale", "BF16 64", "smoothed", "merge its adapter"),
    (f"{UP}.weight_scale", "F32 1", "scale of a quantized weight", "without their scales"),
    (f"{UP}.weight_scale_inv", "F32 1 1", "scale of a quantized weight", "without their scales"),
    (f"{UP}.scales", "F16 1 96", "quantization", "merge its adapter"),
]


@pytest.mark.parametrize(
    ("name", "type_", "what", "remedy"), REFUSED, ids=[row[0] for row in REFUSED]
)
def test_what_means_other_weights_is_refused_with_a_way_to_keep_the_fine_tune(
    name: str, type_: str, what: str, remedy: str, tmp_path: Path
) -> None:
    """Never by 'build from the original weights', which would throw the training away."""
    case = spec()
    case["tensors"]["model.safetensors"][name] = type_
    with pytest.raises(UnsupportedError) as caught:
        opened(tmp_path, case)
    assert name in caught.value.message and what in caught.value.message
    assert remedy in caught.value.hint and "original weights" not in caught.value.hint


def test_every_refusal_of_the_table_has_a_remedy() -> None:
    """What is left out needs none."""
    assert [
        row.what for row in LEFTOVERS if bool(row.remedy) is (row.verdict is Verdict.DROP)
    ] == []


def test_4_bit_weights_that_nothing_describes_are_refused(tmp_path: Path) -> None:
    """The tensors tell it: packed bytes, and the state that unpacks them."""
    case = spec()
    shard = case["tensors"]["model.safetensors"]
    shard[f"{UP}.weight"], shard[f"{UP}.weight.absmax"] = "U8 3072 1", "U8 96"
    shard[f"{UP}.weight.quant_state.bitsandbytes__nf4"] = "U8 80"
    with pytest.raises(UnsupportedError, match="bitsandbytes") as caught:
        opened(tmp_path, case)
    assert "model.dequantize()" in caught.value.hint


def test_torchao_is_refused_by_name(tmp_path: Path) -> None:
    """Its tensors are Python objects; whether those of this file are complete nobody knows."""
    case = spec()
    case["files"]["config.json"]["quantization_config"] = {"quant_method": "torchao"}
    with pytest.raises(UnsupportedError, match="'torchao'") as caught:
        opened(tmp_path, case)
    assert "model.dequantize()" in caught.value.hint
    assert "remove quantization_config" in caught.value.hint


def test_integers_without_scales_are_no_weights(tmp_path: Path) -> None:
    """They would convert without a word, to noise."""
    for type_ in ("I8", "U8", "I32"):
        case = spec()
        case["tensors"]["model.safetensors"][f"{UP}.weight"] = f"{type_} 96 64"
        with pytest.raises(UnsupportedError, match=rf"up_proj.*{type_}.*quantized"):
            convert_body(opened(tmp_path / type_, case))


@pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "mxfp4", "bitnet"])
def test_a_note_that_the_weights_contradict_is_ignored_with_a_warning(
    method: str, tmp_path: Path
) -> None:
    """Merged and saved in 16 bits again, but the note stayed."""
    case = spec()
    case["files"]["config.json"]["quantization_config"] = {"quant_method": method}
    noted = opened(tmp_path / "noted", case)
    assert names(noted) == names(opened(tmp_path / "plain", spec()))
    assert len(noted.warnings) == 1 and method in noted.warnings[0]
    assert convert_body(noted).keys == convert_body(opened(tmp_path / "p", spec())).keys


def test_an_fp8_weight_without_its_scale_is_refused(tmp_path: Path) -> None:
    """Where others have theirs it was lost, and the weight would be wrong by that factor."""
    case = spec("llama_fp8")
    (shard,) = case["tensors"].values()
    lost = next(name for name in shard if name.endswith("_scale_inv"))
    del shard[lost]
    with pytest.raises(FormatError, match=lost.removesuffix("_scale_inv")):
        opened(tmp_path, case)


def test_fp8_weights_without_any_scale_are_told(tmp_path: Path) -> None:
    """Cast and not scaled: the values are what they are."""
    case = spec()
    for layer in range(2):
        case["tensors"]["model.safetensors"][f"model.layers.{layer}.mlp.up_proj.weight"] = (
            "F8_E4M3 96 64"
        )
    (warning,) = opened(tmp_path, case).warnings
    assert "F8_E4M3" in warning and "no scales" in warning


# --- folders and files that are another thing ---


def test_a_folder_of_an_adapter_says_adapter(tmp_path: Path) -> None:
    """With config.json beside it or without."""
    path = tmp_path / "adapter_config.json"
    path.write_text("{}")
    with pytest.raises(SourceError, match=r"no config\.json") as caught:
        open_checkpoint("lora", {"adapter_config.json": path})
    assert "ADAPTER" in caught.value.hint


def test_an_adapter_beside_the_model_is_not_applied_and_told(tmp_path: Path) -> None:
    """A folder of a training run often has both."""
    case = spec()
    case["files"]["adapter_config.json"] = {}
    (warning,) = opened(tmp_path, case).warnings
    assert "ADAPTER" in warning


def test_tiktokens_tokenizer_model_is_passed_over(tmp_path: Path) -> None:
    """Llama 3's original has that name; tokenizer.json beside it is good, alone it is named."""
    model, other = tmp_path / "tokenizer.model", tmp_path / "tokenizer.json"
    model.write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(FormatError, match="tiktoken") as caught:
        has_pieces(CheckpointFiles({"tokenizer.model": model}))
    assert "tokenizer.json" in caught.value.hint
    other.write_text(json.dumps(byte_level_tokenizer(80)))
    files = write_checkpoint(tmp_path / "tiny", spec())
    files |= {"tokenizer.model": model, "tokenizer.json": other}
    built = convert(open_checkpoint("tiny", files), pre="gpt-2")
    assert built.get("tokenizer.ggml.model") == "gpt2"


def test_a_damaged_note_is_refused(tmp_path: Path) -> None:
    """A note that is no object says nothing."""
    case = spec()
    case["files"]["config.json"]["quantization_config"] = "int4"
    with pytest.raises(MbuildError, match="quantization_config"):
        opened(tmp_path, case)
