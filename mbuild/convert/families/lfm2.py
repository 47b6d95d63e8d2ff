"""LFM2, also with experts: short convolutions between layers of attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, missing
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    U32,
    VOCAB_SIZE,
    computed,
    constant,
    f32,
    replaced,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.pooling import pooling
from mbuild.convert.rows.row import NO_HF_CONFIG, Family
from mbuild.convert.rows.rules import MIXTRAL_EXPERTS, Stack, each, experts
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper


def _layer_types(config: Mapping[str, Any]) -> Any:
    count, attention = config.get("num_hidden_layers"), config.get("full_attn_idxs")
    if type(count) is not int or not 0 < count < 1 << 16:
        return None
    chosen = list(range(count)) if attention is None else attention
    if not isinstance(chosen, list):
        return None
    return ["full_attention" if layer in chosen else "conv" for layer in range(count)]


def _kv_heads(hp: Hyper) -> list[int]:
    kinds = hp.texts("layer_types")
    if kinds is None:
        raise missing("layer_types")
    return [0 if kind == "conv" else hp.kv_heads for kind in kinds]


def _feed_forward(hp: Hyper) -> int | None:
    """Two thirds of the width in the config, times a factor, up to a multiple."""
    if not hp.flag("block_auto_adjust_ff_dim"):
        return hp.integer("block_ff_dim", "intermediate_size")
    width = int(2 * hp.integer("block_ff_dim", "intermediate_size", low=1) / 3)
    if hp.value("block_ffn_dim_multiplier") is not None:
        width = int(hp.number("block_ffn_dim_multiplier") * width)
    multiple = hp.integer("block_multiple_of", low=1)
    return multiple * ((width + multiple - 1) // multiple)


def _flat_kernel(hp: Hyper, lazy: Lazy) -> Lazy:
    lazy.need_dims(3)
    return lazy.reshape(lazy.shape[0], lazy.shape[2])


_LAYOUT = TensorLayout(
    (*p.EMBEDDING, *slots("token_embd_norm width"), *p.HEAD_OR_TIED),
    (
        Group((*p.NORMS, *p.GATED)),
        Group((*p.QK_NORM, *p.WIDE), p.some("kv")),
        Group(
            slots("""
                shortconv.conv kernel width F32
                shortconv.in_proj width 3*width
                shortconv.out_proj width width
            """),
            p.none("kv"),
        ),
    ),
    (*p.RMS, "shortconv.l_cache"),
)

LFM2 = Family(
    gguf="lfm2",
    names=("Lfm2ForCausalLM", "LFM2ForCausalLM"),
    layout=_LAYOUT,
    keys=(
        *replaced(
            COMMON,
            computed("attention.head_count_kv", U32, _kv_heads),
            computed("feed_forward_length", U32, _feed_forward),
        ),
        VOCAB_SIZE,
        u32("shortconv.l_cache", "conv_L_cache", required=True),
        f32("attention.layer_norm_rms_epsilon", "norm_eps", required=True),
    ),
    hf=HFConfig(
        "lfm2",
        values={
            "max_position_embeddings": 128000,
            "num_key_value_heads": 8,
            "norm_eps": 1e-5,
            "conv_L_cache": 3,
            "intermediate_size": 12288,
            "block_multiple_of": 256,
            "block_ffn_dim_multiplier": 1.0,
            "block_auto_adjust_ff_dim": True,
            "vocab_size": 65536,
        },
        fills={"layer_types": _layer_types},
        theta=1e6,
    ),
    rules=(each(r"conv\.conv\.", _flat_kernel),),
)


def _both_ways(hp: Hyper) -> bool | None:
    return False if hp.hf_arch == "Lfm2BidirectionalModel" else None


LFM2_MODEL = replace(
    LFM2,
    names=("Lfm2Model", "Lfm2BidirectionalModel"),
    keys=(*LFM2.keys, computed("attention.causal", BOOL, _both_ways), pooling),
    prefixes=(("", "model."),),
)


def _attention(hp: Hyper) -> list[int]:
    kinds = hp.texts("layer_types") or []
    return [hp.kv_heads if kind == "full_attention" else 0 for kind in kinds]


LFM2_MOE = Family(
    gguf="lfm2moe",
    names=("Lfm2MoeForCausalLM",),
    layout=TensorLayout(
        LFM2.layout.model,
        (
            Group(p.NORMS),
            *LFM2.layout.layers[1:],
            Group(p.GATED, p.leading),
            Group((*p.experts("expert_ff"), *slots("exp_probs_b.bias experts")), p.following),
        ),
        (*LFM2.layout.keys, "expert_feed_forward_length", "expert_gating_func"),
    ),
    keys=(
        *replaced(COMMON, computed("attention.head_count_kv", U32, _attention)),
        u32("expert_feed_forward_length", "moe_intermediate_size", required=True),
        u32("leading_dense_block_count", "num_dense_layers", required=True),
        constant("expert_gating_func", U32, 2),
        VOCAB_SIZE,
        u32("shortconv.l_cache", "conv_L_cache", required=True),
    ),
    hf=NO_HF_CONFIG,
    replaced=((".expert_bias", ".expert_bias.bias"),),
    rules=LFM2.rules,
    stacks=(
        Stack(
            regex(
                r"layers\.(?P<layer>\d+)\.feed_forward\.experts\.(?P<index>\d+)\."
                r"(?P<part>w1|w2|w3)\.weight$"
            ),
            MIXTRAL_EXPERTS.parts,
            MIXTRAL_EXPERTS.into,
            experts,
        ),
    ),
)

ROWS = (LFM2, LFM2_MODEL, LFM2_MOE)
