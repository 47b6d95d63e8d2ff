"""Mistral's own format: ``params.json``, ``consolidated*.safetensors``, ``tekken.json``.

Mistral publishes its models in it first. The names in params.json are other ones than those of
Hugging Face's config.json; here they become those, so that all that reads a config reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families.mistral_format import DENSE, MISTRAL3_FORMAT, MOE_FORMAT
from mbuild.core.errors import FormatError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.rows.row import Family

PARAMS = "params.json"
FORMAT = "MistralFormat"
"""What takes the place of a class name."""
WEIGHTS = "consolidated"
"""The beginning of the weights' file names."""

_NAMES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "hidden_dim": "intermediate_size",
    "norm_eps": "rms_norm_eps",
    "tied_embeddings": "tie_word_embeddings",
}


def is_mistral_format(files: Mapping[str, Any]) -> bool:
    """Whether a folder is in Mistral's format and not in Hugging Face's too, which counts then."""
    return PARAMS in files and "config.json" not in files


def mistral_config(params: Mapping[str, Any]) -> dict[str, Any]:
    """params.json with the names of config.json; raises :class:`FormatError` for what is none."""
    missing = next((name for name in ("dim", "n_layers", "n_heads") if name not in params), None)
    if missing is not None:
        raise FormatError(
            f"{PARAMS} has no {missing}: it is not the file of a Mistral model",
            hint="a checkpoint is a folder with config.json and model*.safetensors",
        )
    config = {_NAMES.get(name, name): value for name, value in params.items()}
    quantized = config.pop("quantization", None)
    if isinstance(quantized, dict):
        said = quantized.get("qformat_weight")
        if said != "fp8_e4m3":
            raise UnsupportedError(
                f"{PARAMS}: weights in {str(said)[:40]!r} are not supported, only in 'fp8_e4m3'",
                hint="use the checkpoint in Hugging Face's format",
            )
        config["quantization_config"] = {"quant_method": "fp8"}
    if config.get("moe") is not None:
        return config | _mixture(config)
    if "max_position_embeddings" not in config and "max_seq_len" in config:
        config["max_position_embeddings"] = config["max_seq_len"]
    return config


def mistral_towers(params: Mapping[str, Any]) -> dict[str, Any]:
    """params.json as the config.json of a multimodal model says what its encoder is."""
    vision = params.get("vision_encoder")
    config = mistral_config(params)
    sees = {"vision_config": vision} if isinstance(vision, dict) else {}
    return {**config, "norm_eps": params.get("norm_eps"), "architectures": [FORMAT], **sees}


_MIXTURE = {
    "route_every_n": "moe_layer_freq",
    "first_k_dense_replace": "first_k_dense_replace",
    "num_experts_per_tok": "num_experts_per_tok",
    "num_experts": "n_routed_experts",
    "expert_hidden_dim": "moe_intermediate_size",
    "routed_scale": "routed_scaling_factor",
    "num_shared_experts": "n_shared_experts",
    "num_expert_groups": "n_group",
    "num_expert_groups_per_tok": "topk_group",
}


def _mixture(config: Mapping[str, Any]) -> dict[str, Any]:
    """What params.json says of a mixture of experts, as config.json of a DeepSeek says it."""
    moe = config["moe"]
    if not isinstance(moe, dict):
        raise FormatError(f"{PARAMS}: moe is not an object")
    return {
        "max_position_embeddings": config.get("max_position_embeddings", 128_000),
        **{new: moe[old] for old, new in _MIXTURE.items() if old in moe},
        "norm_topk_prob": True,
        "scoring_func": "softmax",
    }


def mistral_row(config: Mapping[str, Any]) -> Family:
    """The row of a model in this format."""
    if config.get("moe") is not None:
        return MOE_FORMAT
    return DENSE if config.get("llama_4_scaling") is None else MISTRAL3_FORMAT
