"""Mixtral."""

from __future__ import annotations

from mbuild.convert.families.llama import LLAMA
from mbuild.convert.rows.hyper import HFConfig, heads
from mbuild.convert.rows.rules import MIXTRAL_EXPERTS
from mbuild.core.values import replace

MIXTRAL = replace(
    LLAMA,
    names=("MixtralForCausalLM",),
    hf=HFConfig(
        "mixtral",
        untied=True,
        aliases={"num_experts": "num_local_experts"},
        values={
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "num_experts_per_tok": 2,
            "num_local_experts": 8,
            "rms_norm_eps": 1e-5,
            "vocab_size": 32000,
        },
        fills={"num_key_value_heads": heads},
        theta=1e6,
    ),
    stacks=(MIXTRAL_EXPERTS,),
)

ROWS = (MIXTRAL,)
