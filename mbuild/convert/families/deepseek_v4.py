"""DeepSeek V4: streams beside the residual one, compressed keys, experts by hash; every tensor
keeps the precision that it has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.joining import stack
from mbuild.convert.read.lazy import Lazy, Packed
from mbuild.convert.read.mxfp4 import repacked
from mbuild.convert.read.safetensors import DType
from mbuild.convert.read.scaled import scaled
from mbuild.convert.read.values import encode_checked
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    F32,
    FILE_TYPE_MXFP4,
    U32,
    Key,
    computed,
    f32,
    file_type,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, Where, slots
from mbuild.convert.rows.row import TOWERS, Family
from mbuild.convert.rows.sizes import Size
from mbuild.convert.vocabulary.rules import VocabRule
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.patterns import regex
from mbuild.gguf.model import KV
from mbuild.gguf.types import GGMLType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.row import Tensors
    from mbuild.convert.rows.sizes import Sizes

_NAMES = {
    "embed": "token_embd",
    "norm": "output_norm",
    "head": "output",
    "hc_head_fn": "output_hc_fn",
    "hc_head_base": "output_hc_base",
    "hc_head_scale": "output_hc_scale",
    "attn.attn_sink": "attn_sinks",
    "attn.wq_a": "attn_q_a",
    "attn.wq_b": "attn_q_b",
    "attn.q_norm": "attn_q_a_norm",
    "attn.wkv": "attn_kv",
    "attn.kv_norm": "attn_kv_a_norm",
    "attn.wo_a": "attn_output_a",
    "attn.wo_b": "attn_output_b",
    "attn.compressor.ape": "attn_compressor_ape",
    "attn.compressor.wkv": "attn_compressor_kv",
    "attn.compressor.wgate": "attn_compressor_gate",
    "attn.compressor.norm": "attn_compressor_norm",
    "attn.indexer.wq_b": "indexer.attn_q_b",
    "attn.indexer.weights_proj": "indexer.proj",
    "attn.indexer.compressor.ape": "indexer_compressor_ape",
    "attn.indexer.compressor.wkv": "indexer_compressor_kv",
    "attn.indexer.compressor.wgate": "indexer_compressor_gate",
    "attn.indexer.compressor.norm": "indexer_compressor_norm",
    "ffn.gate": "ffn_gate_inp",
    "ffn.gate.tid2eid": "ffn_gate_tid2eid",
    "ffn.shared_experts.w1": "ffn_gate_shexp",
    "ffn.shared_experts.w2": "ffn_down_shexp",
    "ffn.shared_experts.w3": "ffn_up_shexp",
    "ffn.gate.bias": "exp_probs_b.bias",
    "ffn.gate.bias_vl": "exp_probs_b_vl.bias",
}
"""GGUF's names of parameters and modules; others are the same."""

_PLACE = regex(r"^(layers\.(\d{1,6})\.)?(.+?)(\.weight)?$")
_EXPERT = regex(r"\.ffn\.experts\.\d+\.w[123]\.(weight|scale)$")
_PARTS = {"w1": "gate", "w2": "down", "w3": "up"}
_BLOCK = 128  # rows and columns of one scale


def _name(name: str) -> str:
    match = _PLACE.match(name)
    assert match is not None  # any name fits
    inner = _NAMES.get(match[3], match[3])
    ending = "" if inner.endswith(".bias") else ".weight"
    return f"blk.{match[2]}.{inner}{ending}" if match[1] else f"{inner}{ending}"


def _tensors(hp: Hyper, tensors: Tensors) -> Iterator[tuple[str, Lazy | Packed]]:
    """All tensors: hash tables, experts in their four bits, then the others as they are stored.

    Layers for multi-token prediction (``mtp.``) are left out, as llama.cpp's converter does it.
    """
    hashed = hp.integer("num_hash_layers", default=0)
    for layer in range(min(hashed, hp.blocks)):
        table = _found(tensors, f"layers.{layer}.ffn.gate.tid2eid")
        yield _name(f"layers.{layer}.ffn.gate.tid2eid"), _stored(table, GGMLType.I32)
    for layer in range(hp.blocks):
        for part, label in _PARTS.items():
            yield f"blk.{layer}.ffn_{label}_exps.weight", _experts(hp, tensors, layer, part)
    for name, lazy in tensors.items():
        gate = re.match(r"layers\.(\d{1,6})\.ffn\.gate\.(bias|tid2eid)$", name)
        unused = gate is not None and int(gate[1]) < hashed
        scale = name.removesuffix(".scale") + ".weight"
        factors = name.endswith(".scale") and scale in tensors
        if name.startswith("mtp.") or _EXPERT.search(name) or unused or factors:
            continue
        yield _name(name), _as_stored(name, lazy, tensors)


def _found(tensors: Tensors, name: str) -> Lazy:
    if name not in tensors:
        raise FormatError(f"tensor {name!r} is missing", hint="a shard is missing")
    return tensors[name]


def _experts(hp: Hyper, tensors: Tensors, layer: int, part: str) -> Packed:
    count = hp.integer("n_routed_experts", low=1)
    base = [f"layers.{layer}.ffn.experts.{expert}.{part}" for expert in range(count)]
    codes = stack([_found(tensors, f"{name}.weight") for name in base])
    scales = stack([_found(tensors, f"{name}.scale") for name in base])
    codes.need_dims(3)
    experts, rows, half = codes.shape
    return repacked(codes.reshape(experts, rows, half // 16, 16), scales)


def _as_stored(name: str, lazy: Lazy, tensors: Tensors) -> Lazy | Packed:
    """FP8 becomes Q8_0, BF16 and F32 stay, whatever the others become."""
    if lazy.dtype is DType.F8_E4M3 or lazy.dtype is DType.F8_E5M2:
        scale = _found(tensors, name.removesuffix(".weight") + ".scale")
        return _stored(_scaled(lazy, scale), GGMLType.Q8_0)
    if lazy.dtype is DType.F32 or (lazy.dtype is DType.BF16 and len(lazy.shape) < 2):
        return _stored(lazy, GGMLType.F32)
    return _stored(lazy, GGMLType.BF16) if lazy.dtype is DType.BF16 else lazy


def _stored(lazy: Lazy, type_: GGMLType) -> Packed:
    width = lazy.size // max(lazy.shape[0], 1) if lazy.shape else 1

    def encoded(values: Any, start: int) -> Any:
        import numpy as np

        if type_ is GGMLType.I32:
            return values.astype("<i4").view(np.uint8).reshape(-1)
        return encode_checked(values, lazy.dtype, type_, lazy.origin, start)

    def some(first: int, last: int) -> Any:
        assert lazy.part is not None
        return encoded(lazy.part(first * width, last * width), first * width)

    if type_ is GGMLType.I32 and lazy.dtype not in (DType.I32, DType.I64):
        raise UnsupportedError(f"{lazy.origin} is {lazy.dtype}; whole numbers are needed")
    part = some if lazy.part is not None and len(lazy.shape) > 1 else None
    return Packed(type_, lazy.shape, lambda: encoded(lazy.load(), 0), lazy.origin, part)


def _scaled(weight: Lazy, scale: Lazy) -> Lazy:
    """Weights times the scale of their block of 128 by 128."""
    shape = tuple(-(-size // _BLOCK) for size in weight.shape)
    if len(shape) != 2 or scale.shape != shape:
        raise FormatError(f"{scale.origin} of {list(scale.shape)} does not fit its weight")
    return scaled(weight, scale, (_BLOCK, _BLOCK))


def _mixed(hp: Hyper) -> Iterator[KV]:
    yield KV("general.file_type", U32, FILE_TYPE_MXFP4)


def _compressed(*ratios: int) -> Where:
    return lambda sizes, layer: sizes.value("ratio", layer) in ratios


def _clamp(key: str) -> Key:
    return computed(key, F32, lambda hp: [hp.number("swiglu_limit")] * hp.blocks)


def _integer(key: str, name: str) -> Key:
    return u32(key, name, required=True)


def _hashed(sizes: Sizes, layer: int) -> bool:
    return layer < (sizes.value("hashed", 0) or 0)


DEEPSEEK_V4 = Family(
    gguf="deepseek4",
    names=("DeepseekV4ForCausalLM",),
    vocabulary=VocabRule(elsewhere="deepseek-ai-DeepSeek-V4.jinja"),
    keys=(
        *(_mixed if rule is file_type else rule for rule in COMMON),
        _integer("rope.dimension_count", "qk_rope_head_dim"),
        _integer("attention.q_lora_rank", "q_lora_rank"),
        _integer("attention.sliding_window", "sliding_window"),
        _integer("expert_feed_forward_length", "moe_intermediate_size"),
        _integer("expert_shared_count", "n_shared_experts"),
        f32("expert_weights_scale", "routed_scaling_factor", required=True),
        Key("expert_weights_norm", BOOL, ("norm_topk_prob",), required=True),
        _clamp("swiglu_clamp_exp"),
        _clamp("swiglu_clamp_shexp"),
        _integer("attention.indexer.head_count", "index_n_heads"),
        _integer("attention.indexer.key_length", "index_head_dim"),
        _integer("attention.indexer.top_k", "index_topk"),
        _integer("attention.output_group_count", "o_groups"),
        _integer("attention.output_lora_rank", "o_lora_rank"),
        _integer("attention.compress_ratios", "compress_ratios"),
        f32("attention.compress_rope_freq_base", "compress_rope_theta", required=True),
        _integer("hyper_connection.count", "hc_mult"),
        _integer("hyper_connection.sinkhorn_iterations", "hc_sinkhorn_iters"),
        f32("hyper_connection.epsilon", "hc_eps", required=True),
        _integer("hash_layer_count", "num_hash_layers"),
        computed("embedding_length_out", U32, lambda hp: hp.width * hp.integer("hc_mult", low=1)),
    ),
    layout=TensorLayout(
        (
            *p.UNTIED,
            *slots("""
                output_hc_fn streams*width streams
                output_hc_base streams
                output_hc_scale 1
            """),
        ),
        (
            Group(
                (
                    *p.NORMS,
                    *slots("""
                        attn_sinks heads
                        attn_q_a width q_rank
                        attn_q_a_norm q_rank
                        attn_q_b q_rank heads*key
                        attn_kv width key
                        attn_kv_a_norm key
                        attn_output_a heads*key/o_groups o_groups*o_rank
                        attn_output_b o_groups*o_rank width
                        hc_attn_fn streams*width 2*streams+streams*streams
                        hc_attn_base 2*streams+streams*streams
                        hc_attn_scale 3
                        hc_ffn_fn streams*width 2*streams+streams*streams
                        hc_ffn_base 2*streams+streams*streams
                        hc_ffn_scale 3
                    """),
                    *p.experts("expert_ff"),
                    *p.shared_experts("expert_ff*shared"),
                )
            ),
            Group(
                slots("""
                    attn_compressor_kv width 2*key
                    attn_compressor_gate width 2*key
                    attn_compressor_ape 2*key ratio
                    attn_compressor_norm key
                    indexer.proj width index_heads F32
                    indexer.attn_q_b q_rank index_heads*index_key
                    indexer_compressor_kv width 2*index_key
                    indexer_compressor_gate width 2*index_key
                    indexer_compressor_ape 2*index_key ratio
                    indexer_compressor_norm index_key
                """),
                _compressed(4),
            ),
            Group(
                slots("""
                    attn_compressor_kv width key
                    attn_compressor_gate width key
                    attn_compressor_ape key ratio
                    attn_compressor_norm key
                """),
                _compressed(128),
            ),
            Group(slots("ffn_gate_tid2eid used tokens"), _hashed),
            Group(
                slots("exp_probs_b.bias experts"), lambda sizes, layer: not _hashed(sizes, layer)
            ),
            Group(slots("?images exp_probs_b_vl.bias experts")),
        ),
        (*p.RMS, "attention.compress_ratios", "hyper_connection.count", "expert_gating_func"),
        sizes={
            "o_groups": Size("attention.output_group_count", ("o_groups",)),
            "o_rank": Size("attention.output_lora_rank", ("o_lora_rank",)),
            "hashed": Size("hash_layer_count", ("num_hash_layers",)),
        },
    ),
    towers=regex(rf"^(aligner\.|image_)|{TOWERS.pattern}"),
    extra=_tensors,
    skip=("",),
)

ROWS = (DEEPSEEK_V4,)
