"""SmolLM 3."""

from __future__ import annotations

from mbuild.convert.families.llama import LLAMA
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, heads
from mbuild.core.values import replace

SMOLLM3 = replace(
    LLAMA,
    gguf="smollm3",
    names=("SmolLM3ForCausalLM",),
    layout=p.DENSE,
    hf=HFConfig(
        "smollm3",
        values={
            "max_position_embeddings": 32768,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6,
            "vocab_size": 128256,
        },
        fills={"num_key_value_heads": heads},
        theta=2e6,
    ),
)

ROWS = (SMOLLM3,)
