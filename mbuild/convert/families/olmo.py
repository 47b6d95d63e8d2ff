"""OLMo, OLMo 2, OLMo 3 and OLMoE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, heads
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    F32,
    computed,
    constant,
    f32,
    sliding_pattern,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import EXPERTS, ROTARY_WEIGHTS
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper

_VALUES = {"max_position_embeddings": 2048, "vocab_size": 50304}

OLMO = Family(
    gguf="olmo",
    names=("OlmoForCausalLM", "OLMoForCausalLM"),
    layout=TensorLayout((*p.EMBEDDING, *p.HEAD_OR_TIED), (Group((*p.WIDE, *p.GATED)),), p.EPS),
    keys=(
        *COMMON,
        constant("attention.layer_norm_epsilon", F32, 1e-5),
        f32("attention.clamp_kqv", "clip_qkv"),
    ),
    hf=HFConfig("olmo", untied=True, values=_VALUES, fills={"num_key_value_heads": heads}),
    rules=ROTARY_WEIGHTS,
)


def _window_pattern(hp: Hyper) -> list[bool] | None:
    """OLMo 3: all layers but every fourth; OLMo 2 has no window and no pattern."""
    if "sliding_window" not in hp.config:
        return None
    return sliding_pattern(hp) or [(layer + 1) % 4 != 0 for layer in range(hp.blocks)]


_OLMO2_LAYOUT = TensorLayout(
    p.UNTIED,
    (Group((*p.WIDE, *p.POST_NORMS, *slots("attn_q_norm width\nattn_k_norm kv*key"), *p.GATED)),),
    p.RMS,
)

OLMO2 = Family(
    gguf="olmo2",
    names=("Olmo2ForCausalLM",),
    silu=True,
    layout=_OLMO2_LAYOUT,
    keys=(
        *COMMON,
        u32("attention.sliding_window", "sliding_window"),
        computed("attention.sliding_window_pattern", BOOL, _window_pattern),
    ),
    hf=HFConfig(
        "olmo2",
        untied=True,
        values={**_VALUES, "rms_norm_eps": 1e-5},
        fills={"num_key_value_heads": heads},
    ),
)

OLMO3 = replace(
    OLMO2,
    names=("Olmo3ForCausalLM",),
    hf=HFConfig(
        "olmo3",
        untied=True,
        values={**_VALUES, "rms_norm_eps": 1e-5, "sliding_window": 4096},
        fills={"num_key_value_heads": heads},
    ),
)

_OLMOE_LAYOUT = TensorLayout(
    p.UNTIED,
    (Group((*p.NORMS, *p.WIDE, *slots("attn_q_norm width\nattn_k_norm width"), *p.experts())),),
    p.RMS,
)

OLMOE = Family(
    gguf="olmoe",
    names=("OlmoeForCausalLM",),
    layout=_OLMOE_LAYOUT,
    keys=(*COMMON, constant("attention.layer_norm_rms_epsilon", F32, 1e-5)),
    hf=HFConfig(
        "olmoe",
        untied=True,
        aliases={"num_local_experts": "num_experts"},
        values={
            "max_position_embeddings": 4096,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "rms_norm_eps": 1e-5,
            "vocab_size": 50304,
        },
        fills={"num_key_value_heads": heads},
    ),
    stacks=(EXPERTS,),
)

ROWS = (OLMO, OLMO2, OLMO3, OLMOE)
