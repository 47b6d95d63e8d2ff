"""Qwen3-Next: gated delta nets, every fourth layer full attention, many small experts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families.qwen import QWEN2_MOE
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, main_layers
from mbuild.convert.rows.keys import U32, computed
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.nextn import ahead_layers, behind
from mbuild.convert.rows.recurrent import DELTA_NET, DELTA_NET_KEYS, DELTA_NET_RULES
from mbuild.convert.rows.rules import Rule, regrouped
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named


def _layer_types(config: Mapping[str, Any]) -> Any:
    count, every = main_layers(config), config.get("full_attention_interval", 4)
    if type(every) is not int or every < 1:
        return None
    kinds = ("full_attention", "linear_attention")
    return [kinds[(layer + 1) % every != 0] for layer in range(count)]


def _qkvz(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """Queries, keys, values and gates in a group for each key head become two matrices."""
    keys, width = hp.integer("linear_num_key_heads", low=1), hp.integer("linear_key_head_dim")
    values = hp.integer("linear_num_value_heads", low=1) // keys
    values *= hp.integer("linear_value_head_dim", low=1)
    moved = regrouped(keys, (width, width, values, values), lazy)
    qkv, gate = moved.split(0, (keys * (2 * width + values), keys * values))
    layer = name.split(".")[2]
    return [(f"blk.{layer}.attn_qkv.weight", qkv), (f"blk.{layer}.attn_gate.weight", gate)]


ATTENTION = slots("""
    attn_q width 2*heads*key
    attn_k width kv*key
    attn_v width kv*value
    attn_output heads*key width
    attn_q_norm key
    attn_k_norm key
""")
"""Full attention with a gate beside the queries."""

EXPERTS = (
    *p.experts("expert_ff"),
    *p.shared_experts(),
    *slots("ffn_gate_inp_shexp width F32"),
)
NORMS = slots("attn_norm width\npost_attention_norm width")

QWEN3_NEXT = replace(
    QWEN2_MOE,
    gguf="qwen3next",
    names=("Qwen3NextForCausalLM",),
    biased=False,
    keys=(
        *QWEN2_MOE.keys,
        computed("nextn_predict_layers", U32, lambda hp: hp.nextn or None),
        *DELTA_NET_KEYS,
        computed(
            "rope.dimension_count",
            U32,
            lambda hp: int(hp.head_dim * hp.rope_number("partial_rotary_factor", 0.25)),
        ),
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group((*NORMS, *EXPERTS)),
            Group(ATTENTION, p.none("recurrent")),
            Group((*DELTA_NET, *slots("ssm_ba width 2*time")), p.some("recurrent")),
            p.NEXTN,
        ),
        p.RMS,
    ),
    hf=HFConfig(
        "qwen3_next",
        untied=True,
        values={
            "max_position_embeddings": 32768,
            "rms_norm_eps": 1e-6,
            "vocab_size": 151936,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "linear_conv_kernel_dim": 4,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 32,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
            "num_experts_per_tok": 10,
            "num_experts": 512,
        },
        fills={"layer_types": _layer_types},
        partial=0.25,
    ),
    rules=(
        Rule(regex(r"in_proj_qkvz\.weight$"), _qkvz),
        *DELTA_NET_RULES,
        *QWEN2_MOE.rules,
    ),
    renamed=behind,
    counted=ahead_layers,
)

ROWS = (QWEN3_NEXT,)
