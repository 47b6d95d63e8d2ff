"""Grove MoE: Qwen 3's experts, and beside each two of them one small one."""

from __future__ import annotations

from mbuild.convert.families.qwen import QWEN3_MOE
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON, F32, U32, computed, constant, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.rows.rules import EXPERTS, drop, experts
from mbuild.core.patterns import regex
from mbuild.core.values import replace

_CHUNKS = replace(
    EXPERTS,
    pattern=regex(EXPERTS.pattern.pattern.replace("experts", "chunk_experts")),
    into=EXPERTS.into.replace("experts", "chunk_experts"),
    count=lambda hp: experts(hp) // 2,
)

GROVE_MOE = replace(
    QWEN3_MOE,
    gguf="grovemoe",
    names=(
        "GroveMoeForCausalLM",
        "modeling_grove_moe.GroveMoeForCausalLM",
    ),
    keys=(
        *COMMON,
        u32("expert_feed_forward_length", "moe_intermediate_size"),
        computed(
            "expert_chunk_feed_forward_length", U32, lambda hp: hp.integer("head_dim", default=128)
        ),
        constant("experts_per_group", U32, 2),
        constant("expert_group_scale", F32, 0.05),
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group((*p.NORMS, *p.separate(), *p.QK_NORM, *p.experts("expert_ff"))),
            Group(
                slots("""
                    ffn_gate_chexps width key experts/2
                    ffn_up_chexps width key experts/2
                    ffn_down_chexps key width experts/2
                """)
            ),
        ),
        (*p.RMS, "expert_feed_forward_length"),
    ),
    hf=NO_HF_CONFIG,
    rules=(drop(r"\.expert_bias$"),),
    stacks=(_CHUNKS, EXPERTS),
    silu=False,
)

ROWS = (GROVE_MOE,)
