"""Maple: experts, windows, and no RoPE in layers without one."""

from __future__ import annotations

from mbuild.convert.families.qwen import QWEN3_MOE
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    F32,
    U32,
    VOCAB_SIZE,
    computed,
    sliding_pattern,
    u32,
)
from mbuild.convert.rows.layout import TensorLayout
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.core.values import replace

MAPLE = replace(
    QWEN3_MOE,
    gguf="maple",
    names=("MapleForCausalLM",),
    keys=(
        *COMMON,
        VOCAB_SIZE,
        computed(
            "rope.dimension_count",
            U32,
            lambda hp: int(hp.head_dim * hp.rope_number("partial_rotary_factor", 1.0)),
        ),
        u32("attention.sliding_window", "sliding_window", required=True),
        computed("attention.sliding_window_pattern", BOOL, sliding_pattern),
        u32("expert_feed_forward_length", "moe_intermediate_size", required=True),
        computed("swiglu_clamp_exp", F32, lambda hp: [7.0] * hp.blocks),
    ),
    layout=TensorLayout(
        p.UNTIED,
        QWEN3_MOE.layout.layers,
        (*p.RMS, "attention.sliding_window", "attention.sliding_window_pattern"),
    ),
    hf=NO_HF_CONFIG,
)

ROWS = (MAPLE,)
