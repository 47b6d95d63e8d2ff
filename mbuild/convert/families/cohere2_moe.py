"""Cohere 2 with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.cohere import COHERE2, LOGIT_SCALE
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    ROPE_HEAD_DIM,
    ROPE_SCALING_NONE,
    U32,
    VOCAB_SIZE,
    Key,
    computed,
    sliding_pattern,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.rows.rules import EXPERTS
from mbuild.core.errors import UnsupportedError
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _dense(hp: Hyper) -> int:
    kinds = hp.texts("mlp_layer_types")
    if kinds is None:
        return hp.integer("first_k_dense_replace", default=0)
    return next((layer for layer, kind in enumerate(kinds) if kind != "dense"), len(kinds))


def _shared(hp: Hyper) -> int | None:
    way = hp.value("shared_expert_combination_strategy")
    if way not in (None, "average"):
        raise UnsupportedError(
            f"config.json: shared_expert_combination_strategy {str(way)[:40]!r} is not supported",
            hint="supported: average",
        )
    return hp.integer("num_shared_experts", default=0) or None


def _shared_width(hp: Hyper) -> int | None:
    count = _shared(hp)
    return None if count is None else count * hp.integer("intermediate_size")


COHERE2_MOE = replace(
    COHERE2,
    gguf="cohere2moe",
    names=("Cohere2MoeForCausalLM",),
    keys=(
        *COMMON,
        LOGIT_SCALE,
        u32("attention.sliding_window", "sliding_window", required=True),
        computed("attention.sliding_window_pattern", BOOL, sliding_pattern),
        VOCAB_SIZE,
        u32("expert_feed_forward_length", "intermediate_size", required=True),
        computed("leading_dense_block_count", U32, _dense),
        Key("expert_weights_norm", BOOL, ("norm_topk_prob",), default=False),
        computed("expert_shared_count", U32, _shared),
        computed("expert_shared_feed_forward_length", U32, _shared_width),
        computed("nextn_predict_layers", U32, lambda hp: hp.nextn or None),
        ROPE_HEAD_DIM,
        ROPE_SCALING_NONE,
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group((*p.ATTN_NORM, *p.separate())),
            Group(p.GATED, p.leading),
            Group(p.experts("expert_ff"), p.following),
            Group(
                p.shared_experts(),
                lambda sizes, layer: p.following(sizes, layer) and p.some("shared")(sizes, layer),
            ),
            p.NEXTN,
        ),
        (*p.EPS, "logit_scale", "attention.sliding_window", "expert_feed_forward_length"),
    ),
    hf=NO_HF_CONFIG,
    skip=(),
    stacks=(EXPERTS,),
    nextn="num_nextn_predict_layers",
)

ROWS = (COHERE2_MOE,)
