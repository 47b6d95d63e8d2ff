"""StableLM."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import BLOCK_COUNT, BOOL, U32, Key, computed, f32, file_type, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import Stack

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _rotary_width(hp: Hyper) -> int:
    return int(hp.rope_number("partial_rotary_factor", 0.25) * (hp.width // hp.heads))


def _norms(letter: str) -> re.Pattern[str]:
    return re.compile(
        rf"layers\.(?P<layer>\d+)\.self_attn\.{letter}_layernorm\.norms\.(?P<index>\d+)\.weight$"
    )


def _stacked(letter: str) -> str:
    return "model.layers.{layer}.self_attn." + letter + "_layernorm.weight"


_LAYOUT = TensorLayout(
    (*p.UNTIED, *p.OUTPUT_NORM_BIAS),
    (
        Group(
            (
                *p.BIASED,
                *p.GATED,
                *slots("""
                    ?qk_norm attn_q_norm key heads
                    ?qk_norm attn_k_norm key kv
                    ?ffn_norm ffn_norm width
                    ?ffn_norm ffn_norm.bias width
                """),
            )
        ),
    ),
    p.EPS,
)

STABLELM = Family(
    gguf="stablelm",
    names=("StableLmForCausalLM", "StableLMEpochForCausalLM", "LlavaStableLMEpochForCausalLM"),
    layout=_LAYOUT,
    keys=(
        u32("context_length", "max_position_embeddings", low=1, required=True),
        u32("embedding_length", "hidden_size", low=1, required=True),
        BLOCK_COUNT,
        u32("feed_forward_length", "intermediate_size", low=1, required=True),
        computed("rope.dimension_count", U32, _rotary_width),
        u32("attention.head_count", "num_attention_heads", low=1, required=True),
        u32("attention.head_count_kv", "num_key_value_heads", low=1, required=True),
        Key("use_parallel_residual", BOOL, ("use_parallel_residual",), default=True),
        f32("attention.layer_norm_epsilon", "layer_norm_eps", "norm_eps", required=True),
        file_type,
    ),
    hf=HFConfig(
        "stablelm",
        untied=True,
        values={
            "max_position_embeddings": 4096,
            "num_key_value_heads": 32,
            "layer_norm_eps": 1e-5,
            "use_parallel_residual": False,
            "vocab_size": 50304,
        },
        partial=0.25,
    ),
    # One norm a head in the checkpoint, one matrix a layer in GGUF.
    stacks=(
        Stack(_norms("q"), ("",), _stacked("q"), lambda hp: hp.heads),
        Stack(_norms("k"), ("",), _stacked("k"), lambda hp: hp.kv_heads),
    ),
)

ROWS = (STABLELM,)
