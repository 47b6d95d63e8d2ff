"""Laguna: heads that differ by layer, gates beside attention, two kinds of RoPE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BOOL, COMMON, U32, VOCAB_SIZE, computed, constant, f32, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.rope import turned
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import EXPERTS
from mbuild.convert.vocabulary.rules import VocabRule
from mbuild.core.errors import FormatError
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.sizes import Sizes


def _heads(hp: Hyper) -> list[int]:
    heads = hp.value("num_attention_heads_per_layer") or [hp.heads] * hp.blocks
    if not isinstance(heads, list) or len(heads) != hp.blocks:
        raise FormatError("config.json: num_attention_heads_per_layer is not one number per layer")
    return heads


def _dense(hp: Hyper) -> int:
    kinds = hp.texts("mlp_layer_types") or []
    return next((layer for layer, kind in enumerate(kinds) if kind != "dense"), len(kinds))


def _by_element(sizes: Sizes, layer: int) -> bool:
    """Whether the gate has a value for each of a head's, by what config.json says of it."""
    kinds, kind = sizes.setting("gating_types"), sizes.setting("gating")
    if isinstance(kinds, list) and layer < len(kinds):
        kind = kinds[layer]
    return str(kind).replace("_", "-") == "per-element"


LAGUNA = Family(
    gguf="laguna",
    names=("LagunaForCausalLM",),
    vocabulary=VocabRule(controls=frozenset({"</assistant>"}), eot_besides=True),
    keys=(
        *COMMON,
        VOCAB_SIZE,
        computed("attention.head_count", U32, _heads),
        u32("attention.sliding_window", "sliding_window"),
        u32("expert_feed_forward_length", "moe_intermediate_size", required=True),
        u32("expert_shared_feed_forward_length", "shared_expert_intermediate_size", required=True),
        constant("expert_weights_norm", BOOL, True),
        f32("expert_weights_scale", "moe_routed_scaling_factor", required=True),
        constant("expert_gating_func", U32, 2),
        computed("leading_dense_block_count", U32, _dense),
        computed("rope.dimension_count", U32, turned("full_attention")),
        computed("rope.dimension_count_swa", U32, turned("sliding_attention")),
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group((*p.NORMS, *p.separate(), *p.QK_NORM)),
            Group(slots("attn_gate width heads*key"), _by_element),
            Group(
                slots("attn_gate width heads"), lambda sizes, layer: not _by_element(sizes, layer)
            ),
            Group(p.GATED, p.leading),
            Group(
                (*p.experts("expert_ff"), *p.shared_experts(), *slots("exp_probs_b.bias experts")),
                p.following,
            ),
        ),
        (*p.RMS, "expert_feed_forward_length"),
    ),
    stacks=(replace(EXPERTS, parts=("gate_proj", "up_proj", "down_proj")),),
)

ROWS = (LAGUNA,)
