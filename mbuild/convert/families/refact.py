"""Refact."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BLOCK_COUNT, U32, computed, constant, f32, file_type, u32
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import parts
from mbuild.convert.vocabulary.rules import VocabRule

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _inner(hp: Hyper) -> int:
    """Two thirds of four times the width, up to a multiple of 256."""
    return -(8 * hp.width // 3 // -256) * 256


def _head(hp: Hyper) -> int:
    return hp.width // hp.heads


REFACT = Family(
    gguf="refact",
    names=("GPTRefactForCausalLM",),
    vocabulary=VocabRule(
        second_pass={0: (("prefix", 1), ("suffix", 3), ("middle", 2), ("eot", None))}
    ),
    keys=(
        u32("context_length", "n_positions", low=1, required=True),
        u32("embedding_length", "n_embd", low=1, required=True),
        computed("feed_forward_length", U32, _inner),
        BLOCK_COUNT,
        u32("attention.head_count", "n_head", low=1, required=True),
        constant("attention.head_count_kv", U32, 1),
        f32("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", required=True),
        file_type,
    ),
    layout=TensorLayout(
        p.USUAL, (Group((*p.NORMS, *p.separate(), *p.OUTPUT_BIAS, *p.GATED, *p.GATED_BIAS)),), p.RMS
    ),
    replaced=((".attn.q.", ".attn.q_proj."),),
    rules=(
        parts(
            r"attn\.kv\.weight$",
            "attn.kv",
            ("attn.k_proj", "attn.v_proj"),
            lambda hp, lazy: lazy.split(0, (_head(hp), _head(hp))),
        ),
        parts(
            r"mlp\.gate_up_proj\.weight$",
            "mlp.gate_up_proj",
            ("mlp.w2", "mlp.w1"),
            lambda hp, lazy: lazy.split(0, (_inner(hp), _inner(hp))),
        ),
    ),
)

ROWS = (REFACT,)
