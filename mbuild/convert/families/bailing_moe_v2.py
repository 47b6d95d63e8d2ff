"""Ling 2 (Bailing V2) and Sarvam, with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    NEXTN,
    ROPE_HEAD_DIM,
    U32,
    VOCAB_SIZE,
    Key,
    computed,
    f32,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, ahead, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import EXPERTS, each
from mbuild.convert.rows.torch_math import mean32
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper


def _rotary(hp: Hyper) -> int:
    return int(hp.head_dim * hp.rope_number("partial_rotary_factor", 0.5))


def _shared_width(hp: Hyper) -> int:
    own = hp.integer("moe_intermediate_size") * hp.integer("num_shared_experts")
    return hp.integer("moe_shared_expert_intermediate_size", default=own)


def _centred(hp: Hyper, lazy: Lazy) -> Lazy:
    """The biases of the experts less their mean."""
    return lazy.compute(lambda values: values - mean32(values).astype(values.dtype))


BAILING_MOE_V2 = Family(
    gguf="bailingmoe2",
    names=("BailingMoeV2ForCausalLM",),
    keys=(
        *COMMON,
        computed("rope.dimension_count", U32, _rotary),
        u32("leading_dense_block_count", "first_k_dense_replace", required=True),
        VOCAB_SIZE,
        u32("expert_feed_forward_length", "moe_intermediate_size", required=True),
        computed("expert_shared_feed_forward_length", U32, _shared_width),
        f32("expert_weights_scale", "routed_scaling_factor", required=True),
        u32("expert_shared_count", "num_shared_experts", required=True),
        Key("expert_weights_norm", BOOL, ("norm_topk_prob",), required=True),
        NEXTN,
    ),
    layout=TensorLayout(
        p.UNTIED,
        (
            Group(
                (
                    *p.NORMS,
                    *p.QK_NORM,
                    *slots("attn_qkv width heads*key+2*kv*key\nattn_output heads*key width"),
                )
            ),
            Group(p.GATED, p.leading),
            Group(
                (
                    *p.experts("expert_ff"),
                    *p.shared_experts(),
                    *slots("? exp_probs_b.bias experts"),
                ),
                p.following,
            ),
            p.NEXTN,
            Group(slots("layer_output_norm width"), ahead),
        ),
        (*p.RMS, "expert_feed_forward_length", "expert_shared_count", "expert_gating_func"),
    ),
    replaced=((".expert_bias", ".expert_bias.bias"),),
    stacks=(EXPERTS,),
    nextn="num_nextn_predict_layers",
)

SARVAM_MOE = replace(
    BAILING_MOE_V2,
    names=("SarvamMoEForCausalLM", "modeling_sarvam_moe.SarvamMoEForCausalLM"),
    keys=(*BAILING_MOE_V2.keys, ROPE_HEAD_DIM),
    rules=(each(r"\.expert_bias\.bias$", _centred),),
)

ROWS = (BAILING_MOE_V2, SARVAM_MOE)
