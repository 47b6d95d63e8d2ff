"""MiniMax M2."""

from __future__ import annotations

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import MIXTRAL_EXPERTS

MINIMAX_M2 = Family(
    gguf="minimax-m2",
    names=("MiniMaxM2ForCausalLM",),
    keys=(
        *COMMON,
        u32("expert_feed_forward_length", "intermediate_size", required=True),
        u32("rope.dimension_count", "rotary_dim", low=1, required=True),
    ),
    layout=TensorLayout(
        p.UNTIED,
        (
            Group((*p.NORMS, *p.separate(), *p.experts())),
            Group(slots("attn_q_norm heads*key\nattn_k_norm kv*key\nexp_probs_b.bias experts")),
        ),
        (*p.RMS, "expert_feed_forward_length"),
    ),
    stacks=(MIXTRAL_EXPERTS,),
)

ROWS = (MINIMAX_M2,)
