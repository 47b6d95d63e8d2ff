"""MiMo V2: values of another width than keys, two kinds of layers, three for multi-token
prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON, U32, computed, f32, replaced, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.nextn import behind
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import EXPERTS
from mbuild.core.errors import FormatError
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.sizes import Sizes

_AHEAD = 3
"""Layers for multi-token prediction; config.json does not say."""


def _sliding(hp: Hyper) -> list[int]:
    """1 for layers with a window, as those for multi-token prediction are."""
    kinds = hp.value("hybrid_layer_pattern")
    if not isinstance(kinds, list) or len(kinds) != hp.main:
        raise FormatError(f"config.json: hybrid_layer_pattern is not one number for {hp.main}")
    return [*kinds, *[1] * hp.nextn]


def _kv_heads(hp: Hyper) -> list[int]:
    sliding = hp.integer("swa_num_key_value_heads", low=1)
    return [sliding if kind == 1 else hp.kv_heads for kind in _sliding(hp)]


def _named(config: Mapping[str, Any], name: str) -> str:
    ending = ".weight" if "attention_sink" in name and not name.endswith(".weight") else ""
    return behind(config, name + ending)


def _sparse(sizes: Sizes, layer: int) -> bool:
    kinds = sizes.setting("moe_layer_freq")
    return isinstance(kinds, list) and layer < len(kinds) and bool(kinds[layer])


MIMO2 = Family(
    gguf="mimo2",
    names=("MiMoV2FlashForCausalLM", "MiMoV2ForCausalLM"),
    keys=(
        *replaced(
            COMMON,
            computed("attention.head_count_kv", U32, _kv_heads),
            u32("attention.value_length", "v_head_dim", low=1, required=True),
        ),
        u32("attention.sliding_window", "sliding_window", required=True),
        computed("attention.sliding_window_pattern", U32, _sliding),
        u32("expert_feed_forward_length", "moe_intermediate_size", required=True),
        computed(
            "rope.dimension_count",
            U32,
            lambda hp: int(hp.head_dim * hp.rope_number("partial_rotary_factor")),
        ),
        f32("attention.layer_norm_rms_epsilon", "layernorm_epsilon", default=1e-5),
        f32("attention.value_scale", "attention_value_scale"),
        computed("nextn_predict_layers", U32, lambda hp: hp.nextn or None),
    ),
    layout=TensorLayout(
        p.UNTIED,
        (
            Group((*p.NORMS, *p.separate("heads*key", "heads*value"))),
            Group(slots("? attn_sinks heads"), p.some("sliding")),
            Group(p.GATED, lambda sizes, layer: not _sparse(sizes, layer)),
            Group((*p.experts("expert_ff"), *slots("? exp_probs_b.bias experts")), _sparse),
            p.NEXTN,
            replace(p.NEXTN, slots=slots("? layer_output_norm width")),
        ),
        (*p.RMS, "attention.sliding_window", "expert_feed_forward_length"),
    ),
    renamed=_named,
    stacks=(replace(EXPERTS, parts=("gate_proj", "up_proj", "down_proj")),),
    counted=lambda names: _AHEAD,
)

ROWS = (MIMO2,)
