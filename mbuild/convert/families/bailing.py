"""Ling (Bailing) with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    F32,
    ROPE_HEAD_DIM,
    VOCAB_SIZE,
    Key,
    constant,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import EXPERTS, Rule, rename, rotary
from mbuild.core.errors import UnsupportedError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named


def _separate(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """Queries, keys and values one after another; queries and keys are permuted for RoPE."""
    rows = (hp.heads * hp.head_dim, hp.kv_heads * hp.head_dim, hp.kv_heads * hp.head_dim)
    q, k, v = lazy.split(0, rows)
    base = name.replace("attention.query_key_value", "self_attn.{}_proj")
    return [
        (base.format("q"), rotary(q, hp.heads)),
        (base.format("k"), rotary(k, hp.kv_heads)),
        (base.format("v"), v),
    ]


def _head(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    if hp.flag("norm_head"):
        raise UnsupportedError(
            "config.json: norm_head is true; an output matrix that is divided by its norm is not"
            " supported",
            hint="divide lm_head.weight by its norm, save it, and set norm_head to false",
        )
    return [(name, lazy)]


BAILING_MOE = Family(
    gguf="bailingmoe",
    names=("BailingMoeForCausalLM",),
    keys=(
        *COMMON,
        ROPE_HEAD_DIM,
        u32("leading_dense_block_count", "first_k_dense_replace", required=True),
        VOCAB_SIZE,
        u32("expert_feed_forward_length", "moe_intermediate_size", required=True),
        constant("expert_weights_scale", F32, 1.0),
        u32("expert_shared_count", "num_shared_experts", required=True),
        Key("expert_weights_norm", BOOL, ("norm_topk_prob",), required=True),
    ),
    layout=TensorLayout(
        p.UNTIED,
        (
            Group((*p.NORMS, *p.experts("expert_ff"), *p.shared_experts("expert_ff*shared"))),
            Group(
                slots("""
                    attn_q width heads*rotary
                    attn_k width kv*rotary
                    attn_v width kv*rotary
                    attn_output heads*rotary width
                """)
            ),
        ),
        (*p.RMS, "expert_feed_forward_length", "expert_shared_count"),
    ),
    rules=(
        Rule(regex(r"attention\.query_key_value\.weight$"), _separate),
        rename(r"attention\.dense\.weight$", "attention.dense", "self_attn.o_proj"),
        Rule(regex(r"^lm_head\.weight$"), _head),
    ),
    stacks=(EXPERTS,),
)

ROWS = (BAILING_MOE,)
