"""Qwen 2, 2-MoE, 3 and 3-MoE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, heads
from mbuild.convert.rows.keys import COMMON, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.pooling import pooling
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import EXPERTS, Rule, halves, rename
from mbuild.convert.vocabulary.rules import (
    SPM_OR_BPE,
)
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named

_VALUES = {"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "vocab_size": 151936}

_LAYOUT = TensorLayout(
    (*p.USUAL, *slots("? output.bias tokens")), (Group((*p.NORMS, *p.WIDE, *p.GATED)),), p.RMS
)

QWEN2 = Family(
    gguf="qwen2",
    names=(
        *("Qwen2ForCausalLM", "KORMoForCausalLM", "Qwen2AudioForConditionalGeneration"),
        *("AudioFlamingo3ForConditionalGeneration", "DotsOCRForCausalLM"),
    ),
    biased=True,
    silu=True,
    vocabulary=SPM_OR_BPE,
    layout=_LAYOUT,
    keys=(*COMMON, pooling),
    hf=HFConfig(
        "qwen2",
        untied=True,
        values={**_VALUES, "num_key_value_heads": 32},
        fills={"num_key_value_heads": heads},
    ),
)

QWEN2_MODEL = replace(QWEN2, names=("Qwen2Model",), prefixes=(("", "model."),))

QWEN3 = replace(
    QWEN2,
    gguf="qwen3",
    names=("Qwen3ForCausalLM", "Qwen3Model", "StepVLForConditionalGeneration"),
    biased=False,
    layout=TensorLayout(p.USUAL, (Group((*p.NORMS, *p.separate(), *p.QK_NORM, *p.GATED)),), p.RMS),
    hf=replace(
        QWEN2.hf,
        model_type="qwen3",
        values={**_VALUES, "num_key_value_heads": 32, "head_dim": 128},
    ),
)


def _fused_experts(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """All experts' gate and up projections in one tensor, as transformers 5 keeps them."""
    lazy.need_dims(3)
    gate, up = halves(1)(hp, lazy)
    base = name.removesuffix(".weight").removesuffix(".gate_up_proj")
    return [(f"{base}.gate_proj.weight", gate), (f"{base}.up_proj.weight", up)]


FUSED_EXPERTS = (
    Rule(regex(r"mlp\.experts\.gate_up_proj(\.weight)?$"), _fused_experts),
    rename(r"mlp\.experts\.down_proj$", "down_proj", "down_proj.weight"),
)

_MOE_LAYOUT = TensorLayout(
    p.UNTIED,
    (
        Group((*p.NORMS, *p.WIDE, *p.experts("expert_ff"), *p.shared_experts())),
        Group(slots("ffn_gate_inp_shexp width F32")),
    ),
    p.RMS,
)

QWEN2_MOE = Family(
    gguf="qwen2moe",
    names=("Qwen2MoeForCausalLM",),
    biased=True,
    silu=True,
    layout=_MOE_LAYOUT,
    keys=(
        *COMMON,
        u32("expert_feed_forward_length", "moe_intermediate_size"),
        u32("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
    ),
    hf=HFConfig(
        "qwen2_moe",
        untied=True,
        values={
            **_VALUES,
            "num_key_value_heads": 16,
            "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
            "num_experts_per_tok": 4,
            "num_experts": 60,
        },
    ),
    rules=FUSED_EXPERTS,
    stacks=(EXPERTS,),
)

_QWEN3_MOE_LAYOUT = TensorLayout(
    p.USUAL,
    (Group((*p.NORMS, *p.separate(), *p.QK_NORM, *p.experts("expert_ff"))),),
    p.RMS,
)

QWEN3_MOE = replace(
    QWEN2_MOE,
    gguf="qwen3moe",
    names=("Qwen3MoeForCausalLM",),
    biased=False,
    layout=_QWEN3_MOE_LAYOUT,
    hf=HFConfig(
        "qwen3_moe",
        untied=True,
        aliases={"num_experts": "num_local_experts"},
        values={
            **_VALUES,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 768,
            "num_experts_per_tok": 8,
            "num_local_experts": 128,
        },
        fills={"num_key_value_heads": heads},
    ),
)

ROWS = (QWEN2, QWEN2_MODEL, QWEN3, QWEN2_MOE, QWEN3_MOE)
