"""SmallThinker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON, U32, computed, u32
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import Stack
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _gating(hp: Hyper) -> int:
    return 1 if hp.flag("moe_primary_router_apply_softmax") else 2


def _window(hp: Hyper) -> int | None:
    layout = hp.value("sliding_window_layout")
    used = isinstance(layout, list) and any(layout)
    return (hp.optional_integer("sliding_window_size") or None) if used else None


SMALLTHINKER = Family(
    gguf="smallthinker",
    names=("SmallThinkerForCausalLM",),
    keys=(
        *COMMON,
        u32("expert_count", "moe_num_primary_experts"),
        u32("expert_used_count", "moe_num_active_primary_experts"),
        u32("expert_feed_forward_length", "moe_ffn_hidden_size"),
        u32("feed_forward_length", "moe_ffn_hidden_size"),
        computed("expert_gating_func", U32, _gating),
        computed("attention.sliding_window", U32, _window),
    ),
    layout=TensorLayout(
        p.USUAL, (Group((*p.NORMS, *p.separate(), *p.experts("expert_ff"))),), p.RMS
    ),
    stacks=(
        Stack(
            regex(
                r"layers\.(?P<layer>\d+)\.block_sparse_moe\.experts\.(?P<index>\d+)\."
                r"(?P<part>down|gate|up)\.weight$"
            ),
            ("down", "gate", "up"),
            "model.layers.{layer}.block_sparse_moe.experts.{part}.weight",
            lambda hp: hp.integer("moe_num_primary_experts", "num_local_experts", low=1),
        ),
    ),
)

ROWS = (SMALLTHINKER,)
