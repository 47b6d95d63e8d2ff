"""Spark X2.5: gates beside attention, two kinds of RoPE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BOOL, COMMON, U32, VOCAB_SIZE, computed, sliding_pattern, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.rope import turned
from mbuild.convert.rows.row import Family
from mbuild.core.errors import UnsupportedError

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper

_ONLY = (
    ("gate_attn_act_mode", "sigmoid"),
    ("headwise_attn_output_gate", True),
    ("hidden_act", "gelu"),
)


def _pattern(hp: Hyper) -> list[bool] | None:
    for name, value in _ONLY:
        if hp.value(name) != value:
            found = str(hp.value(name))[:40]
            raise UnsupportedError(f"config.json: {name} is {found}; llama.cpp has only {value}")
    return sliding_pattern(hp)


SPARK2_5 = Family(
    gguf="spark2_5",
    names=("Spark2_5ForCausalLM",),
    keys=(
        *COMMON,
        VOCAB_SIZE,
        u32("attention.sliding_window", "sliding_window", required=True),
        computed("attention.sliding_window_pattern", BOOL, _pattern),
        computed("rope.dimension_count", U32, turned("full_attention")),
        computed("rope.dimension_count_swa", U32, turned("sliding_attention")),
    ),
    layout=TensorLayout(
        p.USUAL,
        (Group((*p.NORMS, *p.fused("heads*key"), *slots("attn_gate width heads"), *p.GATED)),),
        (*p.RMS, "attention.sliding_window", "attention.sliding_window_pattern"),
    ),
    replaced=(("self_attn.q_k_v_proj", "self_attn.qkv_proj"),),
)

ROWS = (SPARK2_5,)
