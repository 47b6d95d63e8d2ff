"""Kimi K3 (text): delta and latent attention, scores of residual streams, narrow experts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mbuild.convert.families.deepseek import LATENT_AT_KV, absorbed
from mbuild.convert.families.glm5_next import LOWER_BOUND, decay, linear, linear_size, total
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    U32,
    VOCAB_SIZE,
    Key,
    computed,
    f32,
    replaced,
    u32,
    without,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.names import placed
from mbuild.convert.rows.recurrent import KDA, four_dims
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import MIXTRAL_EXPERTS, Rule, Stack, each, parts
from mbuild.convert.rows.sizes import Size
from mbuild.convert.vocabulary.rules import VocabRule
from mbuild.core.errors import UnsupportedError
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper, missing
    from mbuild.convert.rows.rules import Named


def _full(hp: Hyper) -> list[int]:
    layers = linear(hp, "full_attn_layers")
    if not isinstance(layers, list):
        raise missing("linear_attn_config.full_attn_layers")
    if hp.value("mla_use_nope") is not True or hp.value("hidden_act") != "situ":
        raise UnsupportedError(
            "config.json: mla_use_nope is not true, or hidden_act is not 'situ'",
            hint="llama.cpp has only this form of Kimi K3",
        )
    return [int(layer + 1 in layers) for layer in range(hp.blocks)]


def _gate(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """The gate of delta attention, or that beside latent attention, under one name."""
    layer = int(name.split(".")[2])
    full = layer < hp.blocks and _full(hp)[layer]
    return [(f"blk.{layer}.{'attn_gate' if full else 'ssm_g'}.weight", lazy)]


def _flat(hp: Hyper, lazy: Lazy) -> Lazy:
    return lazy.reshape(lazy.size)


def _product(hp: Hyper, lazy: Lazy) -> Lazy:
    """A norm's weights times those of the projection behind it, of a stack of both."""
    whole = lazy.compute(lambda values: values.reshape(2, -1).prod(0))
    return replace(whole, shape=lazy.shape[1:], part=None)


def _scores(pattern: str, into: str) -> Stack:
    return Stack(
        re.compile(rf"{pattern}_res_(?P<index>[np])(?:orm|roj)\.weight$"),
        ("",),
        into,
        lambda hp: 2,
        labels=lambda hp: "np",
        before=_flat,
        change=_product,
    )


KIMI_K3 = Family(
    gguf="kimi-k3",
    names=("KimiK3ForConditionalGeneration",),
    vocabulary=VocabRule(elsewhere="Kimi-K3.jinja"),
    keys=(
        *replaced(
            without(COMMON, "attention.key_length", "attention.value_length"),
            computed("attention.head_count_kv", U32, _full),
        ),
        VOCAB_SIZE,
        linear_size("ssm.conv_kernel", "short_conv_kernel_size"),
        linear_size("kda.head_dim", "head_dim"),
        LOWER_BOUND,
        u32("attention.q_lora_rank", "q_lora_rank"),
        u32("attention.kv_lora_rank", "kv_lora_rank", low=1, required=True),
        u32("rope.dimension_count", "qk_rope_head_dim", required=True),
        computed("attention.key_length", U32, total("kv_lora_rank", "qk_rope_head_dim")),
        u32("attention.value_length", "kv_lora_rank", required=True),
        computed("attention.key_length_mla", U32, total("qk_nope_head_dim", "qk_rope_head_dim")),
        u32("attention.value_length_mla", "v_head_dim", low=1, required=True),
        u32("expert_feed_forward_length", "moe_intermediate_size", required=True),
        u32("expert_shared_count", "num_shared_experts", required=True),
        u32("leading_dense_block_count", "first_k_dense_replace", required=True),
        f32("expert_weights_scale", "routed_scaling_factor", required=True),
        Key("expert_weights_norm", BOOL, ("moe_renormalize",), required=True),
        u32("expert_latent_length", "routed_expert_hidden_size"),
        f32("activation.situ_beta", "activation_situ_beta", required=True),
        f32("activation.situ_linear_beta", "activation_situ_linear_beta", required=True),
        u32("attn_res.block_size", "attn_res_block_size", low=1, required=True),
    ),
    layout=TensorLayout(
        (*p.UNTIED, *slots("output_res_score width")),
        (
            Group((*p.FFN_NORM, *slots("attn_res_score width\nffn_res_score width"))),
            Group(
                (
                    *p.ATTN_NORM,
                    *KDA,
                    *slots("""
                        ssm_f_a width kda
                        ssm_f_b kda kda*heads
                        ssm_a. heads
                        ssm_g width kda*heads
                    """),
                ),
                p.none("kv"),
            ),
            *LATENT_AT_KV,
            Group(slots("? attn_gate width heads*value_mla"), p.some("kv")),
            Group(p.GATED, p.leading),
            Group(
                slots("""
                    ffn_gate_inp width experts F32
                    exp_probs_b.bias experts
                    ffn_gate_exps narrow expert_ff experts
                    ffn_up_exps narrow expert_ff experts
                    ffn_down_exps expert_ff narrow experts
                    ?narrow ffn_routed_down width narrow
                    ?narrow ffn_routed_up narrow width
                    ? ffn_routed_norm narrow
                    ?shared ffn_gate_shexp width expert_ff*shared
                    ?shared ffn_up_shexp width expert_ff*shared
                    ?shared ffn_down_shexp expert_ff*shared width
                """),
                p.following,
            ),
        ),
        (*p.RMS, "attention.kv_lora_rank", "ssm.conv_kernel", "attn_res.block_size"),
        sizes={
            "narrow": Size(
                "expert_latent_length",
                ("routed_expert_hidden_size",),
                lambda sizes, layer: sizes.value("width", layer),
            ),
        },
    ),
    renamed=placed(
        {
            "self_attn.A_log": "ssm_a.",
            "self_attn.dt_bias": "ssm_dt.bias.",
            "block_sparse_moe.routed_expert_down_proj": "ffn_routed_down",
            "block_sparse_moe.routed_expert_up_proj": "ffn_routed_up",
            "block_sparse_moe.routed_expert_norm": "ffn_routed_norm",
        }
    ),
    rules=(
        each(r"_conv1d\.weight$", four_dims),
        each(r"\.ssm_a$", decay),
        Rule(regex(r"self_attn\.g_proj\.weight$"), _gate),
        parts(
            r"kv_b_proj\.weight$",
            "kv_b_proj",
            ("k_b_proj", "v_b_proj"),
            lambda hp, lazy: absorbed(hp, lazy, hp.heads),
        ),
    ),
    stacks=(
        _scores(r"layers\.(?P<layer>\d+)\.self_attention", "blk.{layer}.attn_res_score.weight"),
        _scores(r"layers\.(?P<layer>\d+)\.mlp", "blk.{layer}.ffn_res_score.weight"),
        _scores(r"output_attn", "output_res_score.weight"),
        MIXTRAL_EXPERTS,
    ),
)

ROWS = (KIMI_K3,)
