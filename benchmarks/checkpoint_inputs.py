"""Writes the checkpoints of ``checkpoints.py``: families of 600 million weights, quantized Llamas.

Run through ``inputs.py``. A quantized weight's values are random, its scales are of the size that
trained weights have; all have one tokenizer of single letters.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from inputs import CONFIG, HEADS, HIDDEN, KV_HEADS, LAYERS, VOCABULARY, tensors
from inputs import weights as bf16

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from llama_runs import byte_level_tokenizer

Shapes = dict[str, list[int]]
Array = Any
GROUP = 128

_PLAIN = {**CONFIG, "head_dim": HIDDEN // HEADS}


def _attention(at: str) -> Shapes:
    narrow = HIDDEN // HEADS * KV_HEADS
    heads = {"q": HIDDEN, "k": narrow, "v": narrow, "o": HIDDEN}
    return {f"{at}.{name}_proj.weight": [rows, HIDDEN] for name, rows in heads.items()}


def _gated(at: str, size: int, names: tuple[str, str, str]) -> Shapes:
    gate, up, down = names
    return {
        f"{at}.{gate}.weight": [size, HIDDEN],
        f"{at}.{up}.weight": [size, HIDDEN],
        f"{at}.{down}.weight": [HIDDEN, size],
    }


_HF, _W = ("gate_proj", "up_proj", "down_proj"), ("w1", "w3", "w2")


def _norms(at: str, *names: str) -> Shapes:
    return {f"{at}.{name}.weight": [HIDDEN] for name in names}


def _minimax_m2(at: str, number: int) -> Shapes:
    narrow = HIDDEN // HEADS * KV_HEADS
    found = _norms(at, "input_layernorm", "post_attention_layernorm")
    found |= _attention(f"{at}.self_attn")
    found |= {
        f"{at}.self_attn.q_norm.weight": [HIDDEN],
        f"{at}.self_attn.k_norm.weight": [narrow],
        f"{at}.block_sparse_moe.gate.weight": [32, HIDDEN],
        f"{at}.block_sparse_moe.e_score_correction_bias": [32],
    }
    for expert in range(32):
        found |= _gated(f"{at}.block_sparse_moe.experts.{expert}", 256, _W)
    return found


def _dots1(at: str, number: int) -> Shapes:
    found = _norms(at, "input_layernorm", "post_attention_layernorm")
    found |= _attention(f"{at}.self_attn")
    found |= {f"{at}.self_attn.{name}_norm.weight": [HIDDEN // HEADS] for name in "qk"}
    found |= {f"{at}.self_attn.{name}_proj.weight": [HIDDEN, HIDDEN] for name in "kv"}
    if number == 0:
        return found | _gated(f"{at}.mlp", 3072, _HF)
    found |= {f"{at}.mlp.gate.weight": [32, HIDDEN], f"{at}.mlp.gate.e_score_correction_bias": [32]}
    found |= _gated(f"{at}.mlp.shared_experts", 256, _HF)
    for expert in range(32):
        found |= _gated(f"{at}.mlp.experts.{expert}", 256, _HF)
    return found


def _mamba2(at: str, number: int) -> Shapes:
    inner, heads, state = 2 * HIDDEN, 64, 128
    return {
        f"{at}.norm.weight": [HIDDEN],
        **{f"{at}.mixer.{name}": [heads] for name in ("A_log", "D", "dt_bias")},
        f"{at}.mixer.conv1d.weight": [inner + 2 * state, 1, 4],
        f"{at}.mixer.conv1d.bias": [inner + 2 * state],
        f"{at}.mixer.in_proj.weight": [2 * inner + 2 * state + heads, HIDDEN],
        f"{at}.mixer.norm.weight": [inner],
        f"{at}.mixer.out_proj.weight": [HIDDEN, inner],
    }


def _llama4(at: str, number: int) -> Shapes:
    found = _norms(at, "input_layernorm", "post_attention_layernorm")
    return (
        found
        | _attention(f"{at}.self_attn")
        | _gated(f"{at}.feed_forward.shared_expert", 512, _HF)
        | {
            f"{at}.feed_forward.router.weight": [16, HIDDEN],
            f"{at}.feed_forward.experts.gate_up_proj": [16, HIDDEN, 1024],
            f"{at}.feed_forward.experts.down_proj": [16, 512, HIDDEN],
        }
    )


def _lfm2_moe(at: str, number: int) -> Shapes:
    found = _norms(at, "operator_norm", "ffn_norm")
    if number % 4 == 2:
        attention = _attention(f"{at}.self_attn")
        found |= {name.replace("o_proj", "out_proj"): size for name, size in attention.items()}
        head = HIDDEN // HEADS
        found |= {f"{at}.self_attn.{name}_layernorm.weight": [head] for name in "qk"}
    else:
        found |= {
            f"{at}.conv.conv.weight": [HIDDEN, 1, 3],
            f"{at}.conv.in_proj.weight": [3 * HIDDEN, HIDDEN],
            f"{at}.conv.out_proj.weight": [HIDDEN, HIDDEN],
        }
    if number == 0:
        return found | _gated(f"{at}.feed_forward", 3072, _W)
    found |= {f"{at}.feed_forward.gate.weight": [32, HIDDEN]}
    found |= {f"{at}.feed_forward.expert_bias": [32]}
    for expert in range(32):
        found |= _gated(f"{at}.feed_forward.experts.{expert}", 256, _W)
    return found


_EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 32}
_OF_MOE = {**_PLAIN, **_EXPERTS, "moe_intermediate_size": 256, "n_shared_experts": 1}

FAMILIES: dict[str, tuple[dict[str, Any], int, Callable[[str, int], Shapes]]] = {
    "minimax_m2": (
        {**_PLAIN, **_EXPERTS, "architectures": ["MiniMaxM2ForCausalLM"], "rotary_dim": 32,
         "intermediate_size": 256, "use_qk_norm": True, "scoring_func": "sigmoid"},
        8, _minimax_m2,
    ),
    "dots1": (
        {**_OF_MOE, "architectures": ["Dots1ForCausalLM"],
         "num_key_value_heads": HEADS, "n_routed_experts": 32,
         "first_k_dense_replace": 1, "partial_rotary_factor": 0.5, "n_group": 1, "topk_group": 1,
         "norm_topk_prob": True, "routed_scaling_factor": 1.0, "num_nextn_predict_layers": 0},
        8, _dots1,
    ),
    "mamba2": (
        {**_PLAIN, "architectures": ["Mamba2ForCausalLM"], "state_size": 128, "num_heads": 64,
         "head_dim": 64, "expand": 2, "conv_kernel": 4, "n_groups": 1, "use_conv_bias": True,
         "layer_norm_epsilon": 1e-5, "chunk_size": 256, "intermediate_size": 2 * HIDDEN},
        18, _mamba2,
    ),
    "llama4": (
        {**_PLAIN, **_EXPERTS, "architectures": ["Llama4ForCausalLM"], "model_type": "llama4_text",
         "num_local_experts": 16, "intermediate_size": 512, "intermediate_size_mlp": 3072,
         "interleave_moe_layer_step": 1, "no_rope_layers": [1, 1, 1, 0] * 2,
         "attention_chunk_size": 8192, "use_qk_norm": False},
        8, _llama4,
    ),
    "lfm2_moe": (
        {**_PLAIN, "architectures": ["Lfm2MoeForCausalLM"], "model_type": "lfm2_moe",
         "num_experts": 32, "num_experts_per_tok": 2, "moe_intermediate_size": 256,
         "num_dense_layers": 1, "norm_eps": 1e-5, "conv_L_cache": 3, "use_expert_bias": True,
         "layer_types": ["conv", "conv", "full_attention", "conv"] * 2, "conv_bias": False,
         "tie_word_embeddings": True},
        8, _lfm2_moe,
    ),
}  # fmt: skip
"""Configuration, layers, and the shapes of a layer."""

_BACKBONE = {"mamba2"}


def family_shapes(name: str) -> tuple[dict[str, Any], Shapes]:
    """A family's configuration and its tensors; a Llama's are those of ``inputs.py``."""
    if name == "llama":
        return CONFIG, tensors(LAYERS)
    config, layers, of_layer = FAMILIES[name]
    shapes = {} if name == "lfm2_moe" else {"lm_head.weight": [VOCABULARY, HIDDEN]}
    if name in _BACKBONE:
        shapes |= {"backbone.embeddings.weight": [VOCABULARY, HIDDEN]}
        shapes |= {"backbone.norm_f.weight": [HIDDEN]}
    else:
        last = "embedding_norm" if name == "lfm2_moe" else "norm"
        shapes |= {"model.embed_tokens.weight": [VOCABULARY, HIDDEN]}
        shapes |= {f"model.{last}.weight": [HIDDEN]}
    prefix = "backbone" if name in _BACKBONE else "model"
    for number in range(layers):
        shapes |= of_layer(f"{prefix}.layers.{number}", number)
    return {**config, "num_hidden_layers": layers}, shapes


Parts = dict[str, tuple[str, Array]]
"""Tensors by their names: safetensors' type, and the stored values."""

Random = np.random.Generator


def _f32_as_bf16(values: Array) -> Array:
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _scales(random: Random, shape: tuple[int, ...], size: float) -> Array:
    return random.uniform(0.5 * size, size, shape).astype(np.float32)


def _e4m3(random: Random, shape: tuple[int, ...]) -> Array:
    codes = random.integers(0, 255, shape, np.uint8)
    return np.where(codes & 0x7F == 0x7F, 0, codes).astype(np.uint8)


def _words(random: Random, shape: tuple[int, ...]) -> Array:
    return random.integers(-(1 << 31), 1 << 31, shape, np.int32)


def _fp8_block(name: str, rows: int, width: int, random: Random) -> Parts:
    blocks = -(-rows // GROUP), -(-width // GROUP)
    return {
        f"{name}.weight": ("F8_E4M3", _e4m3(random, (rows, width))),
        f"{name}.weight_scale_inv": ("BF16", _f32_as_bf16(_scales(random, blocks, 2e-4))),
    }


def _fp8_tensor(name: str, rows: int, width: int, random: Random) -> Parts:
    return {
        f"{name}.weight": ("F8_E4M3", _e4m3(random, (rows, width))),
        f"{name}.weight_scale_inv": ("BF16", _f32_as_bf16(_scales(random, (), 2e-4))),
    }


def _gptq_4(name: str, rows: int, width: int, random: Random) -> Parts:
    groups = width // GROUP
    return {
        f"{name}.qweight": ("I32", _words(random, (width // 8, rows))),
        f"{name}.qzeros": ("I32", _words(random, (groups, rows // 8))),
        f"{name}.scales": ("F16", _scales(random, (groups, rows), 4e-3).astype(np.float16)),
        f"{name}.g_idx": ("I32", (np.arange(width) // GROUP).astype(np.int32)),
    }


def _awq_4(name: str, rows: int, width: int, random: Random) -> Parts:
    groups = width // GROUP
    return {
        f"{name}.qweight": ("I32", _words(random, (width, rows // 8))),
        f"{name}.qzeros": ("I32", _words(random, (groups, rows // 8))),
        f"{name}.scales": ("F16", _scales(random, (groups, rows), 4e-3).astype(np.float16)),
    }


def _ct_int4(name: str, rows: int, width: int, random: Random) -> Parts:
    scales = _f32_as_bf16(_scales(random, (rows, width // GROUP), 4e-3))
    return {
        f"{name}.weight_packed": ("I32", _words(random, (rows, width // 8))),
        f"{name}.weight_scale": ("BF16", scales),
        f"{name}.weight_shape": ("I64", np.array([rows, width], np.int64)),
    }


def _ct_int8(name: str, rows: int, width: int, random: Random) -> Parts:
    scales = _f32_as_bf16(_scales(random, (rows, 1), 4e-4))
    return {
        f"{name}.weight": ("I8", random.integers(-127, 128, (rows, width), np.int8)),
        f"{name}.weight_scale": ("BF16", scales),
    }


def _ct_nvfp4(name: str, rows: int, width: int, random: Random) -> Parts:
    return {
        f"{name}.weight_packed": ("U8", random.integers(0, 256, (rows, width // 2), np.uint8)),
        f"{name}.weight_scale": ("F8_E4M3", _e4m3(random, (rows, width // 16)) & 0x7F),
        f"{name}.weight_global_scale": ("F32", np.array([5000], np.float32)),
        f"{name}.input_global_scale": ("F32", np.array([100], np.float32)),
    }


def _mxfp4(name: str, rows: int, width: int, random: Random) -> Parts:
    return {
        f"{name}.weight_packed": ("U8", random.integers(0, 256, (rows, width // 2), np.uint8)),
        f"{name}.weight_scale": ("U8", random.integers(110, 122, (rows, width // 32), np.uint8)),
    }


def _mlx_4(name: str, rows: int, width: int, random: Random) -> Parts:
    scales = _scales(random, (rows, width // 64), 4e-3)
    return {
        f"{name}.weight": ("U32", _words(random, (rows, width // 8)).view(np.uint32)),
        f"{name}.scales": ("BF16", _f32_as_bf16(scales)),
        f"{name}.biases": ("BF16", _f32_as_bf16(-8 * scales)),
    }


def _bnb_nf4(name: str, rows: int, width: int, random: Random) -> Parts:
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [rows, width]}
    text = np.frombuffer(json.dumps(state).encode(), np.uint8)
    magnitudes = _scales(random, (rows * width // 64,), 5e-2)
    return {
        f"{name}.weight": ("U8", random.integers(0, 256, (rows * width // 2, 1), np.uint8)),
        f"{name}.weight.absmax": ("F32", magnitudes),
        f"{name}.weight.quant_map": ("F32", np.linspace(-1, 1, 16, dtype=np.float32)),
        f"{name}.weight.quant_state.bitsandbytes__nf4": ("U8", text),
    }


def _bnb_int8(name: str, rows: int, width: int, random: Random) -> Parts:
    return {
        f"{name}.weight": ("I8", random.integers(-127, 128, (rows, width), np.int8)),
        f"{name}.SCB": ("F32", _scales(random, (rows,), 5e-2)),
    }


def _packer(form: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"symmetric": True, **weights}, "format": form}
    return {"quant_method": "compressed-tensors", "format": form, "config_groups": {"g": group}}


FORMATS: dict[str, tuple[dict[str, Any], Callable[[str, int, int, Random], Parts]]] = {
    "fp8_block": ({"quant_method": "fp8", "weight_block_size": [GROUP, GROUP]}, _fp8_block),
    "fp8_tensor": ({"quant_method": "fp8"}, _fp8_tensor),
    "gptq_4": ({"quant_method": "gptq", "bits": 4, "group_size": GROUP}, _gptq_4),
    "awq_4": ({"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}, _awq_4),
    "ct_int4": (
        _packer("pack-quantized", num_bits=4, type="int", strategy="group", group_size=GROUP),
        _ct_int4,
    ),
    "ct_int8": (_packer("int-quantized", num_bits=8, type="int", strategy="channel"), _ct_int8),
    "ct_nvfp4": (
        _packer("nvfp4-pack-quantized", num_bits=4, type="float", group_size=16),
        _ct_nvfp4,
    ),
    "mxfp4": (_packer("mxfp4-pack-quantized", num_bits=4, type="float", group_size=32), _mxfp4),
    "mlx_4": ({"quant_method": "mlx", "bits": 4, "group_size": 64}, _mlx_4),
    "bnb_nf4": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, _bnb_nf4),
    "bnb_int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, _bnb_int8),
}
"""What config.json says, and the parts of a weight."""


def _write(folder: Path, config: dict[str, Any], stored: Iterator[tuple[str, str, Array]]) -> None:
    """A checkpoint with one file of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    vocabulary = json.dumps(byte_level_tokenizer(VOCABULARY))
    (folder / "tokenizer.json").write_text(vocabulary, encoding="utf-8")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    _write_tensors(folder / "model.safetensors", sorted(stored, key=lambda item: item[0]))


def _write_tensors(path: Path, stored: list[tuple[str, str, Array]]) -> None:
    """A safetensors file, its tensors by name."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dtype, values in stored:
        end = at + values.nbytes
        header[name] = {"dtype": dtype, "shape": values.shape, "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(len(raw).to_bytes(8, "little") + raw)
        for _, _, values in stored:
            file.write(np.ascontiguousarray(values).data)


def _plain(shapes: Shapes, random: Random) -> Iterator[tuple[str, str, Array]]:
    for name, shape in shapes.items():
        if (name.endswith("bias") and "correction" in name) or name.endswith("expert_bias"):
            yield name, "F32", np.zeros(shape, np.float32)
        else:
            yield name, "BF16", bf16(random, shape)


def write_family(folder: Path, name: str) -> None:
    """A family's checkpoint in BF16, of about 1.2 GB."""
    config, shapes = family_shapes(name)
    _write(folder, config, _plain(shapes, np.random.default_rng(0)))


def write_quantized(folder: Path, name: str) -> None:
    """A Llama of 601 million weights, of which the matrices of the layers are quantized."""
    settings, make = FORMATS[name]
    random = np.random.default_rng(0)

    def stored() -> Iterator[tuple[str, str, Array]]:
        for tensor, shape in tensors(LAYERS).items():
            if len(shape) == 2 and ".layers." in tensor:
                parts = make(tensor.removesuffix(".weight"), *shape, random)
                yield from ((part, *held) for part, held in parts.items())
            else:
                yield tensor, "BF16", bf16(random, shape)

    _write(folder, {**CONFIG, "quantization_config": settings, "head_dim": 64}, stored())
