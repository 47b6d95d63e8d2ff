"""Llama 4 (text)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.llama import LLAMA, LLAMA_KEYS
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, heads
from mbuild.convert.rows.keys import replaced, u32
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.rules import Rule, halves, rename, transposed
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named
    from mbuild.convert.rows.sizes import Sizes


def _gate_up(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """All experts' gates and ups, side by side in the columns of one matrix each."""
    lazy.need_dims(3)
    gate, up = halves(-1)(hp, lazy)
    return [
        (name.replace("gate_up_proj", f"{part}.weight"), transposed(hp, half))
        for part, half in (("gate_proj", gate), ("up_proj", up))
    ]


def _with_experts(sizes: Sizes, layer: int) -> bool:
    step = sizes.value("step", layer) or 0
    return step > 0 and (layer + 1) % step == 0


def _dense(sizes: Sizes, layer: int) -> bool:
    return not _with_experts(sizes, layer)


JOINED_EXPERTS = (
    Rule(regex(r"\.experts\.gate_up_proj$"), _gate_up),
    rename(r"\.experts\.down_proj$", "down_proj", "down_proj.weight", transposed),
)
"""Experts as one tensor each way, that are multiplied from the other side."""

LLAMA4 = replace(
    LLAMA,
    gguf="llama4",
    names=("Llama4ForConditionalGeneration", "Llama4ForCausalLM"),
    keys=(
        *replaced(LLAMA_KEYS, u32("feed_forward_length", "intermediate_size_mlp", required=True)),
        u32("interleave_moe_layer_step", "interleave_moe_layer_step", required=True),
        u32("expert_feed_forward_length", "intermediate_size", required=True),
    ),
    layout=TensorLayout(
        (*p.USUAL, *p.ROPE_FREQS),
        (
            Group((*p.NORMS, *p.separate())),
            Group(p.GATED, _dense),
            Group((*p.experts("expert_ff"), *p.shared_experts("expert_ff")), _with_experts),
        ),
        (*p.RMS, "interleave_moe_layer_step", "expert_feed_forward_length"),
    ),
    hf=HFConfig(
        "llama4_text",
        untied=True,
        values={
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "vocab_size": 202048,
            "intermediate_size": 8192,
            "intermediate_size_mlp": 16384,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "num_experts_per_tok": 1,
            "num_local_experts": 16,
            "interleave_moe_layer_step": 1,
        },
        fills={"num_key_value_heads": heads},
        theta=500000.0,
    ),
    rules=JOINED_EXPERTS,
    silu=False,
)

ROWS = (LLAMA4,)
