"""Hunyuan V3."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import main_layers
from mbuild.convert.rows.keys import BOOL, COMMON, U32, Key, computed, constant, f32, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import EXPERTS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.sizes import Sizes


def _shared_width(hp: Hyper) -> int:
    return hp.integer("moe_intermediate_size") * hp.integer("num_shared_experts", default=1)


def _last_norm(config: Mapping[str, Any], name: str) -> str:
    """The norm at the end of a layer ahead is that of its head."""
    match = re.match(r"model\.layers\.(\d+)\.final_layernorm\.", name)
    ahead = match is not None and int(match[1]) >= main_layers(config)
    return name.replace(".final_layernorm.", ".shared_head.norm.") if ahead else name


def _dense(sizes: Sizes, layer: int) -> bool:
    return layer < sizes.given("first_k_dense_replace", 0)


HY_V3 = Family(
    gguf="hy_v3",
    names=("HYV3ForCausalLM",),
    keys=(
        *COMMON,
        u32("expert_feed_forward_length", "moe_intermediate_size", required=True),
        computed("expert_shared_feed_forward_length", U32, _shared_width),
        Key("expert_weights_norm", BOOL, ("route_norm",), default=True),
        f32("expert_weights_scale", "router_scaling_factor", default=1.0),
        constant("expert_gating_func", U32, 2),
        computed("nextn_predict_layers", U32, lambda hp: hp.nextn or None),
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group((*p.NORMS, *p.separate(), *p.QK_NORM)),
            Group(p.GATED, _dense),
            Group(
                (
                    *p.experts("expert_ff"),
                    *p.shared_experts(),
                    *slots("? exp_probs_b. experts"),
                ),
                lambda sizes, layer: not _dense(sizes, layer),
            ),
            p.NEXTN,
        ),
        (*p.RMS, "expert_feed_forward_length"),
    ),
    renamed=_last_norm,
    stacks=(EXPERTS,),
    nextn="num_nextn_predict_layers",
)

ROWS = (HY_V3,)
