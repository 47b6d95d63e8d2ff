"""Kimi Linear: delta attention with a gate for each channel, latent attention between."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families.deepseek import DEEPSEEK_V3
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import as_integer, missing
from mbuild.convert.rows.keys import COMMON, U32, VOCAB_SIZE, Key, computed, f32, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.recurrent import KDA, four_dims, negative_exp
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import MIXTRAL_EXPERTS, each, rename
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _linear(hp: Hyper) -> dict[str, Any]:
    config = hp.value("linear_attn_config")
    if not isinstance(config, dict) or not isinstance(config.get("full_attn_layers"), list):
        raise missing("linear_attn_config.full_attn_layers")
    return config


def _size(key: str, name: str) -> Key:
    return computed(
        key, U32, lambda hp: as_integer(_linear(hp).get(name), f"linear_attn_config.{name}", low=1)
    )


def _kv_heads(hp: Hyper) -> list[int]:
    full = _linear(hp)["full_attn_layers"]
    return [int(layer + 1 in full) for layer in range(hp.blocks)]


def _sum(*names: str) -> Any:
    return lambda hp: sum(hp.integer(name, low=1) for name in names)


KIMI_LINEAR = Family(
    gguf="kimi-linear",
    names=("KimiLinearForCausalLM", "KimiLinearModel"),
    keys=(
        *COMMON,
        VOCAB_SIZE,
        computed("attention.head_count_kv", U32, _kv_heads),
        _size("ssm.conv_kernel", "short_conv_kernel_size"),
        _size("kda.head_dim", "head_dim"),
        u32("attention.q_lora_rank", "q_lora_rank"),
        u32("attention.kv_lora_rank", "kv_lora_rank", low=1, required=True),
        u32("rope.dimension_count", "qk_rope_head_dim", low=1, required=True),
        computed("attention.key_length", U32, _sum("kv_lora_rank", "qk_rope_head_dim")),
        computed("attention.key_length_mla", U32, _sum("qk_nope_head_dim", "qk_rope_head_dim")),
        u32("attention.value_length_mla", "v_head_dim", low=1, required=True),
        u32("expert_feed_forward_length", "moe_intermediate_size", required=True),
        u32("expert_shared_count", "num_shared_experts", required=True),
        u32("leading_dense_block_count", "first_k_dense_replace", required=True),
        f32("expert_weights_scale", "routed_scaling_factor", required=True),
    ),
    layout=TensorLayout(
        p.UNTIED,
        (
            Group(p.NORMS),
            Group(
                (
                    *KDA,
                    *slots("""
                    ssm_f_a width kda
                    ssm_f_b kda kda*heads
                    ssm_a. 1 heads 1 1
                    ssm_g_a width kda
                    ssm_g_b kda kda*heads
                """),
                ),
                p.none("kv"),
            ),
            Group(
                slots("""
                    attn_q width heads*key_mla
                    attn_kv_a_norm kv_rank
                    attn_kv_a_mqa width kv_rank+rotary
                    attn_k_b key_mla+-rotary kv_rank heads
                    attn_v_b kv_rank value_mla heads
                    attn_output heads*value_mla width
                """),
                p.some("kv"),
            ),
            *p.dense_then_experts("exp_probs_b.bias experts"),
        ),
        (*p.RMS, "attention.kv_lora_rank", "ssm.conv_kernel", "expert_gating_func"),
    ),
    rules=(
        each(r"\.[qkv]_conv1d\.weight$", four_dims),
        each(r"\.A_log$", negative_exp),
        rename(r"\.dt_bias$", "dt_bias", "dt_proj.bias"),
        *DEEPSEEK_V3.rules,
    ),
    stacks=(replace(MIXTRAL_EXPERTS, parts=("w1", "w2", "w3")),),
)

ROWS = (KIMI_LINEAR,)
