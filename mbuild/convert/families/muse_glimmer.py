"""Muse Glimmer (text): gates beside attention, norms of queries that only scale them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.read.lazy import constant
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BOOL, COMMON, computed, f32, sliding_pattern, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import Rule, each, plus_one, rotary
from mbuild.convert.vocabulary.rules import VocabRule
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named


def _with_norms(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """Queries, and norms that stand for the factor which the model multiplies them by."""
    norms = ((("q_norm"), hp.number("qk_scale_factor")), ("k_norm", 1.0))
    return [
        *(
            (name.replace("q_proj", norm), constant([value] * hp.head_dim, "qk_scale_factor"))
            for norm, value in norms
        ),
        (name, rotary(lazy, hp.heads)),
    ]


MUSE_GLIMMER = Family(
    gguf="muse-glimmer",
    names=("MuseGlimmerForConditionalGeneration",),
    silu=True,
    vocabulary=VocabRule(eot_text="<|eot|>"),
    keys=(
        *COMMON,
        f32("final_logit_softcapping", "final_logit_softcapping", required=True),
        f32("logit_scale", "output_multiplier", required=True),
        u32("attention.sliding_window", "sliding_window", required=True),
        computed("attention.sliding_window_pattern", BOOL, sliding_pattern),
    ),
    layout=TensorLayout(
        p.UNTIED,
        (
            Group((*p.NORMS, *p.POST_NORMS, *p.separate(), *p.QK_NORM, *p.GATED)),
            Group(slots("attn_gate width heads*key")),
        ),
        (*p.RMS, "attention.sliding_window", "logit_scale"),
    ),
    replaced=(("post_attention_layernorm", "post_self_attn_layernorm"),),
    rules=(
        each(r"layernorm\.weight$", plus_one),
        Rule(regex(r"\.self_attn\.q_proj\.weight$"), _with_norms),
        each(r"\.self_attn\.k_proj\.weight$", lambda hp, lazy: rotary(lazy, hp.kv_heads)),
    ),
)

ROWS = (MUSE_GLIMMER,)
