"""DeepSeek V1, and V2 and V3: latent attention, split for the absorbed form; many small experts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, as_number, heads
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    F32,
    ROPE_HEAD_DIM,
    ROPE_SCALING_NONE,
    U32,
    VOCAB_SIZE,
    Key,
    KeyRule,
    computed,
    constant,
    f32,
    replaced,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import NO_HF_CONFIG, Family
from mbuild.convert.rows.rules import EXPERTS, ROTARY, parts
from mbuild.convert.vocabulary.rules import (
    SPM_OR_BPE,
    VocabRule,
)
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.sizes import Sizes


def _dense_layers(hp: Hyper) -> int:
    default = hp.blocks if hp.value("n_routed_experts") is None else 0
    return hp.integer("first_k_dense_replace", default=default)


def _latent(hp: Hyper) -> int:
    return hp.integer("kv_lora_rank", default=512, low=1)


def _rotary(hp: Hyper) -> int:
    return hp.integer("qk_rope_head_dim", low=1)


def _yarn_log(hp: Hyper) -> float | None:
    scale = hp.rope.get("mscale_all_dim")
    return None if scale is None else 0.1 * as_number(scale, "rope_parameters.mscale_all_dim")


def _rope_head(config: Mapping[str, Any]) -> Any:
    return config.get("qk_rope_head_dim")


def _beyond(hp: Hyper, name: str) -> bool:
    """Layers for multi-token prediction stand behind the last layer; they are not used."""
    match = re.match(r"model\.layers\.(\d+)\.", name)
    return match is not None and int(match[1]) >= hp.blocks


def tied_head(hp: Hyper, name: str) -> bool:
    """An output matrix beside an embedding that counts as both."""
    return name in ("lm_head.weight", "model.lm_head.weight") and hp.flag("tie_word_embeddings")


def absorbed(hp: Hyper, lazy: Lazy, heads: int) -> list[Lazy]:
    """kv_b_proj per head as (key, value): the key's part transposed."""
    key, value = hp.integer("qk_nope_head_dim", low=1), hp.integer("v_head_dim", low=1)
    lazy.need_dims(2)
    both = lazy.reshape(heads, key + value, lazy.shape[1])
    first, second = both.split(1, (key, value))
    return [first.transpose(0, 2, 1), second]


def _absorbed(hp: Hyper, lazy: Lazy) -> list[Lazy]:
    return absorbed(hp, lazy, hp.kv_heads)


_KEYS: tuple[KeyRule, ...] = (
    *replaced(
        COMMON,
        constant("attention.head_count_kv", U32, 1),  # the absorbed form has one key for all
        f32("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-6),
    ),
    computed("leading_dense_block_count", U32, _dense_layers),
    VOCAB_SIZE,
    u32("attention.q_lora_rank", "q_lora_rank"),
    computed("attention.kv_lora_rank", U32, _latent),
    computed("attention.key_length", U32, lambda hp: _latent(hp) + _rotary(hp)),
    computed("attention.value_length", U32, _latent),
    computed(
        "attention.key_length_mla", U32, lambda hp: hp.integer("qk_nope_head_dim") + _rotary(hp)
    ),
    u32("attention.value_length_mla", "v_head_dim", low=1, required=True),
    u32("expert_feed_forward_length", "moe_intermediate_size", "intermediate_size", required=True),
    u32("expert_count", "n_routed_experts"),
    u32("expert_shared_count", "n_shared_experts", default=0),
    f32("expert_weights_scale", "routed_scaling_factor"),
    Key("expert_weights_norm", BOOL, ("norm_topk_prob",), truthy=True),
    computed("rope.dimension_count", U32, _rotary),
    computed("rope.scaling.yarn_log_multiplier", F32, _yarn_log),
)

_COMMON_VALUES = {
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "rms_norm_eps": 1e-6,
}

DEEPSEEK = Family(
    gguf="deepseek",
    names=("DeepseekForCausalLM",),
    keys=(
        *COMMON,
        ROPE_HEAD_DIM,
        ROPE_SCALING_NONE,
        u32("leading_dense_block_count", "first_k_dense_replace", required=True),
        VOCAB_SIZE,
        u32("expert_feed_forward_length", "moe_intermediate_size", required=True),
        constant("expert_weights_scale", F32, 1.0),
        u32("expert_count", "n_routed_experts", required=True),
        u32("expert_shared_count", "n_shared_experts", required=True),
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group((*p.NORMS, *p.WIDE)),
            Group(p.GATED, p.leading),
            Group((*p.experts("expert_ff"), *p.shared_experts("expert_ff*shared")), p.following),
        ),
        (*p.RMS, "expert_feed_forward_length", "expert_shared_count"),
    ),
    vocabulary=SPM_OR_BPE,
    rules=ROTARY,
    stacks=(EXPERTS,),
)

LATENT = (
    Group(
        (
            *p.NORMS,
            *slots("""
                attn_kv_a_norm kv_rank
                attn_kv_a_mqa width kv_rank+rotary
                attn_k_b key_mla+-rotary kv_rank heads
                attn_v_b kv_rank value_mla heads
                attn_output heads*value_mla width
            """),
        )
    ),
    Group(
        slots("""
            attn_q_a width q_rank
            attn_q_a_norm q_rank
            attn_q_b q_rank heads*key_mla
        """),
        p.some("q_rank"),
    ),
    Group(slots("attn_q width heads*key_mla"), p.none("q_rank")),
)
"""Latent attention with keys and values split for the absorbed form."""


def _at_kv(group: Group) -> Group:
    def where(sizes: Sizes, layer: int) -> bool:
        return bool(sizes.value("kv", layer)) and group.where(sizes, layer)

    # The norm before the network is every layer's.
    return Group(tuple(slot for slot in group.slots if slot.name != "ffn_norm.weight"), where)


LATENT_AT_KV = tuple(map(_at_kv, LATENT))
"""The same in those layers alone that have key-value heads."""

_LAYOUT = TensorLayout(
    p.USUAL,
    (
        *LATENT,
        Group(p.GATED, p.leading),
        Group(
            (
                *p.experts("expert_ff"),
                *p.shared_experts("expert_ff*shared"),
                *slots("? exp_probs_b.bias experts"),
            ),
            p.following,
        ),
        p.NEXTN,
    ),
    p.RMS,
)

_VOCABULARY = VocabRule(pre_names={"joyai-llm": "deepseek-v3"})
"""DeepSeek V3's pre-tokenizer has two names with one regular expression, by whether the loader
put a BOS before the check text; older llama.cpp knows only ``deepseek-v3``."""

DEEPSEEK_V2 = Family(
    gguf="deepseek2",
    names=("DeepseekV2ForCausalLM",),
    vocabulary=_VOCABULARY,
    layout=_LAYOUT,
    keys=_KEYS,
    hf=HFConfig(
        "deepseek_v2",
        untied=True,
        aliases={"num_experts": "n_routed_experts"},
        values={
            **_COMMON_VALUES,
            "max_position_embeddings": 2048,
            "first_k_dense_replace": 0,
            "n_routed_experts": 64,
            "n_shared_experts": 2,
            "routed_scaling_factor": 1.0,
            "norm_topk_prob": False,
            "moe_intermediate_size": 1407,
            "vocab_size": 102400,
        },
        fills={"num_key_value_heads": heads},
        forced={"head_dim": _rope_head},
    ),
    skip=(tied_head, _beyond),
    rules=(parts(r"kv_b_proj\.weight$", "kv_b_proj", ("k_b_proj", "v_b_proj"), _absorbed),),
    stacks=(EXPERTS,),
)

DEEPSEEK_V3 = Family(
    gguf="deepseek2",
    names=("DeepseekV3ForCausalLM",),
    vocabulary=_VOCABULARY,
    layout=_LAYOUT,
    keys=_KEYS,
    hf=HFConfig(
        "deepseek_v3",
        untied=True,
        aliases={"num_local_experts": "n_routed_experts"},
        values={
            **_COMMON_VALUES,
            "max_position_embeddings": 4096,
            "num_key_value_heads": 128,
            "first_k_dense_replace": 3,
            "n_routed_experts": 256,
            "n_shared_experts": 1,
            "n_group": 8,
            "topk_group": 4,
            "num_experts_per_tok": 8,
            "routed_scaling_factor": 2.5,
            "norm_topk_prob": True,
            "moe_intermediate_size": 2048,
            "vocab_size": 129280,
        },
        fills={"num_key_value_heads": heads},
        forced={"head_dim": _rope_head},
    ),
    skip=(tied_head, _beyond),
    rules=DEEPSEEK_V2.rules,
    stacks=(EXPERTS,),
)

YOUTU = replace(
    DEEPSEEK_V2, names=("YoutuForCausalLM", "YoutuVLForConditionalGeneration"), hf=NO_HF_CONFIG
)

KIMI_VL = replace(
    DEEPSEEK_V3,
    names=("KimiVLForConditionalGeneration", "KimiK25ForConditionalGeneration"),
    hf=NO_HF_CONFIG,
)

ROWS = (DEEPSEEK, DEEPSEEK_V2, DEEPSEEK_V3, YOUTU, KIMI_VL)
