"""Mistral."""

from __future__ import annotations

from mbuild.convert.families.llama import LLAMA
from mbuild.convert.rows.hyper import HFConfig, heads
from mbuild.core.values import replace

MISTRAL = replace(
    LLAMA,
    names=("MistralForCausalLM",),
    hf=HFConfig(
        "mistral",
        untied=True,
        values={
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-6,
            "vocab_size": 32000,
        },
        fills={
            "num_key_value_heads": heads,
        },
    ),
)

ROWS = (MISTRAL,)
