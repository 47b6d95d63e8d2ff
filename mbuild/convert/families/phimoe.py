"""Phi 3.5 with experts."""

from __future__ import annotations

from mbuild.convert.families.phi import PHI3
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, heads
from mbuild.convert.rows.keys import u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.rules import MIXTRAL_EXPERTS
from mbuild.core.values import replace

PHI_MOE = replace(
    PHI3,
    gguf="phimoe",
    names=("PhiMoEForCausalLM",),
    keys=(
        *PHI3.keys,
        u32("expert_used_count", "num_experts_per_tok", "num_experts_per_token", required=True),
        u32("expert_count", "num_local_experts", "num_experts", required=True),
    ),
    layout=TensorLayout(
        (*p.UNTIED, *p.OUTPUT_NORM_BIAS, *slots("output.bias tokens"), *p.ROPE_FACTORS),
        (
            Group((*p.BIASED, *p.required(p.OUTPUT_BIAS))),
            Group((*p.FFN_NORM, *p.FFN_NORM_BIAS, *p.experts())),
        ),
        p.RMS,
    ),
    hf=HFConfig(
        "phimoe",
        untied=True,
        values={
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "vocab_size": 32064,
            "num_experts_per_tok": 2,
            "num_local_experts": 16,
            "num_key_value_heads": 8,
        },
        fills={"num_key_value_heads": heads},
        theta=1e6,
    ),
    stacks=(replace(MIXTRAL_EXPERTS, parts=("w1", "w2", "w3")),),
)

ROWS = (PHI_MOE,)
