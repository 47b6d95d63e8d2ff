"""What transformers adds to the parts of config.json that describe encoders.

llama.cpp's converter reads config.json through transformers (its pin is 4.57.6), whose classes fill
in what a file leaves out. A class that transformers does not have adds nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from mbuild.core.values import NamedTuple

Values = Mapping[str, Any]

_SIGLIP = {
    **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
    **{"num_attention_heads": 12, "patch_size": 16, "image_size": 224},
    **{"layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
}
_IDEFICS = {
    **{"hidden_size": 1152, "intermediate_size": 3072, "num_hidden_layers": 12},
    **{"num_attention_heads": 16, "patch_size": 32, "image_size": 224},
    **{"layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh"},
}
_QWEN = {"depth": 32, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2}
_QWEN25 = {
    **_QWEN,
    **{"hidden_size": 3584, "intermediate_size": 3420, "out_hidden_size": 3584},
    **{"fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112},
}
_QWEN3 = {
    **{"depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16},
    **{"patch_size": 16, "spatial_merge_size": 2, "num_position_embeddings": 2304},
    **{"out_hidden_size": 3584, "deepstack_visual_indexes": [8, 16, 24]},
}
_GLM4V = {
    **{"depth": 24, "hidden_size": 1536, "hidden_act": "silu", "num_heads": 12},
    **{"image_size": 336, "patch_size": 14, "spatial_merge_size": 2},
    **{"intermediate_size": 13696, "rms_norm_eps": 1e-5, "out_hidden_size": 4096},
}
_WHISPER = {
    **{"num_mel_bins": 128, "d_model": 1280, "encoder_layers": 32},
    **{"encoder_attention_heads": 20, "encoder_ffn_dim": 5120},
}

ENCODERS: Mapping[str, Values] = {
    "siglip_vision_model": _SIGLIP,
    "siglip2_vision_model": {k: v for k, v in _SIGLIP.items() if k != "image_size"},
    "clip_vision_model": {
        **{"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12},
        **{"num_attention_heads": 12, "patch_size": 32, "image_size": 224},
        **{"layer_norm_eps": 1e-5, "hidden_act": "quick_gelu", "projection_dim": 512},
    },
    "gemma3n_vision": {"hidden_size": 2048},
    "gemma3n_audio": {
        **{"input_feat_size": 128, "hidden_size": 1536},
        **{"conf_num_attention_heads": 8, "conf_num_hidden_layers": 12},
    },
    "qwen2_vl": {**_QWEN, "embed_dim": 1280, "hidden_size": 3584},
    "qwen2_5_vl": _QWEN25,
    "qwen2_5_omni_vision_encoder": _QWEN25,
    "qwen2_5_omni_audio_encoder": _WHISPER,
    "qwen3_vl": _QWEN3,
    "qwen3_vl_moe": _QWEN3,
    "qwen3_omni_moe_vision_encoder": _QWEN3,
    "qwen3_omni_moe_audio_encoder": {**_WHISPER, "downsample_hidden_size": 480},
    "idefics3_vision": _IDEFICS,
    "smolvlm_vision": _IDEFICS,
    "llama4_vision_model": {
        **{"hidden_size": 768, "hidden_act": "gelu", "num_hidden_layers": 34},
        **{"intermediate_size": 5632, "image_size": 448, "patch_size": 14, "norm_eps": 1e-5},
        **{"num_attention_heads": 16, "pixel_shuffle_ratio": 0.5},
    },
    "pixtral": {
        **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24},
        **{"num_attention_heads": 16, "patch_size": 16, "image_size": 1024, "hidden_act": "gelu"},
    },
    "internvl_vision": {
        **{"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24},
        **{"num_attention_heads": 16, "patch_size": [14, 14], "image_size": [448, 448]},
        **{"layer_norm_eps": 1e-6, "hidden_act": "gelu"},
    },
    "glm4v": _GLM4V,
    "glm4v_moe": _GLM4V,
    "qwen2_audio_encoder": _WHISPER,
    "voxtral_encoder": {
        **{"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32},
        **{"num_attention_heads": 20, "num_mel_bins": 128},
    },
    "granite_speech_encoder": {
        **{"input_dim": 160, "num_layers": 10, "hidden_dim": 1024, "feedforward_mult": 4},
        **{"num_heads": 8, "context_size": 200, "conv_kernel_size": 15, "max_pos_emb": 512},
        **{"dim_head": 128},
    },
    "blip_2_qformer": {"num_attention_heads": 12, "encoder_hidden_size": 1408},
    "janus_vision_model": {
        **{"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
        **{"patch_size": 16, "image_size": 384, "layer_norm_eps": 1e-6, "hidden_act": "gelu"},
        **{"mlp_ratio": 4.0},
    },
}
"""By the ``model_type`` of the part; only what a projector file depends on."""


class Root(NamedTuple):
    """What a whole config.json gets: values, and the ``model_type`` of parts that name none."""

    parts: Mapping[str, str]
    values: Values = MappingProxyType({})
    within: str = ""


ROOTS: Mapping[str, Root] = {
    "gemma3": Root({"vision_config": "siglip_vision_model"}),
    "gemma3n": Root({"vision_config": "gemma3n_vision", "audio_config": "gemma3n_audio"}),
    "qwen2_vl": Root({"vision_config": "qwen2_vl"}),
    "qwen2_5_vl": Root({"vision_config": "qwen2_5_vl"}),
    "qwen2_5_omni": Root(
        {
            "vision_config": "qwen2_5_omni_vision_encoder",
            "audio_config": "qwen2_5_omni_audio_encoder",
        },
        within="thinker_config",
    ),
    "qwen3_vl": Root({"vision_config": "qwen3_vl"}),
    "qwen3_vl_moe": Root({"vision_config": "qwen3_vl_moe"}),
    "qwen3_omni_moe": Root(
        {
            "vision_config": "qwen3_omni_moe_vision_encoder",
            "audio_config": "qwen3_omni_moe_audio_encoder",
        },
        within="thinker_config",
    ),
    "idefics3": Root({"vision_config": "idefics3_vision"}, {"scale_factor": 2}),
    "smolvlm": Root({"vision_config": "smolvlm_vision"}, {"scale_factor": 2}),
    "llama4": Root({"vision_config": "llama4_vision_model"}),
    "llava": Root({"vision_config": "clip_vision_model"}),
    "llava_next": Root({"vision_config": "clip_vision_model"}),
    "mistral3": Root({"vision_config": "pixtral"}, {"spatial_merge_size": 2}),
    "internvl": Root({"vision_config": "internvl_vision"}, {"downsample_ratio": 0.5}),
    "glm4v": Root({"vision_config": "glm4v"}),
    "glm4v_moe": Root({"vision_config": "glm4v_moe"}),
    "lfm2-vl": Root({"vision_config": "siglip2_vision_model"}, {"downsample_factor": 2}),
    "lfm2_vl": Root({"vision_config": "siglip2_vision_model"}, {"downsample_factor": 2}),
    "qwen2_audio": Root({"audio_config": "qwen2_audio_encoder"}),
    "voxtral": Root({"audio_config": "voxtral_encoder"}),
    "granite_speech": Root(
        {"encoder_config": "granite_speech_encoder", "projector_config": "blip_2_qformer"},
        {"downsample_rate": 5, "window_size": 15},
    ),
    "janus": Root({"vision_config": "janus_vision_model"}),
}
"""By the ``model_type`` of config.json."""


def completed(config: Values) -> dict[str, Any]:
    """config.json as transformers would have it, as far as projectors need it."""
    full = dict(config)
    known = ROOTS.get(str(config.get("model_type")))
    if known is None:
        return full
    for name, value in known.values.items():
        full.setdefault(name, value)
    home = full.get(known.within) if known.within else full
    if not isinstance(home, dict):
        return full
    filled = {name: _filled(home.get(name) or {}, type_) for name, type_ in known.parts.items()}
    if not known.within:
        return {**full, **filled}
    return {**full, known.within: {**home, **filled}}


def _filled(section: Any, model_type: str) -> Any:
    if not isinstance(section, dict):
        return section
    given = str(section.get("model_type", model_type))
    return {**ENCODERS.get(given, {}), **section}
