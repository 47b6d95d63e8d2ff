"""AFMoE (Trinity)."""

from __future__ import annotations

from mbuild.convert.families.llama import LLAMA
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BOOL, Key, f32, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.rows.rules import EXPERTS
from mbuild.core.values import replace

AFMOE = replace(
    LLAMA,
    gguf="afmoe",
    names=("AfmoeForCausalLM",),
    keys=(
        *LLAMA.keys,
        u32("expert_shared_count", "num_shared_experts"),
        u32("expert_feed_forward_length", "moe_intermediate_size"),
        u32("leading_dense_block_count", "num_dense_layers"),
        Key("expert_weights_norm", BOOL, ("route_norm",)),
        f32("expert_weights_scale", "route_scale"),
        u32("attention.sliding_window", "sliding_window"),
    ),
    layout=TensorLayout(
        (*p.USUAL, *p.ROPE_FREQS),
        (
            Group((*p.NORMS, *p.POST_NORMS, *p.separate(), *p.QK_NORM)),
            Group(slots("attn_gate width heads*key")),
            *p.dense_then_experts("exp_probs_b.bias experts"),
        ),
        (*p.RMS, "expert_feed_forward_length", "expert_shared_count"),
    ),
    hf=NO_HF_CONFIG,
    replaced=((".expert_bias", ".expert_bias.bias"),),
    rules=(),
    stacks=(replace(EXPERTS, parts=("gate_proj", "up_proj", "down_proj")),),
    silu=False,
)

ROWS = (AFMOE,)
