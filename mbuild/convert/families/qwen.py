"""Qwen 2, 2-MoE, 3, 3-MoE and Seed-OSS."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from mbuild.convert.rows.hyper import HFConfig, heads
from mbuild.convert.rows.keys import COMMON, u32
from mbuild.convert.rows.pooling import pooling
from mbuild.convert.rows.row import Architecture
from mbuild.convert.rows.rules import EXPERTS, Rule, halves, rename

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named

_VALUES = {"max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "vocab_size": 151936}

QWEN2 = Architecture(
    gguf="qwen2",
    names=("Qwen2ForCausalLM", "KORMoForCausalLM"),
    keys=(*COMMON, pooling),
    hf=HFConfig(
        "qwen2",
        values={**_VALUES, "num_key_value_heads": 32},
        fills={"num_key_value_heads": heads},
    ),
)

QWEN2_MODEL = replace(QWEN2, names=("Qwen2Model",), prefixes=(("", "model."),))

QWEN3 = replace(
    QWEN2,
    gguf="qwen3",
    names=("Qwen3ForCausalLM", "Qwen3Model"),
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
    Rule(re.compile(r"mlp\.experts\.gate_up_proj(\.weight)?$"), _fused_experts),
    rename(r"mlp\.experts\.down_proj$", "down_proj", "down_proj.weight"),
)

QWEN2_MOE = Architecture(
    gguf="qwen2moe",
    names=("Qwen2MoeForCausalLM",),
    keys=(
        *COMMON,
        u32("expert_feed_forward_length", "moe_intermediate_size"),
        u32("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
    ),
    hf=HFConfig(
        "qwen2_moe",
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

QWEN3_MOE = replace(
    QWEN2_MOE,
    gguf="qwen3moe",
    names=("Qwen3MoeForCausalLM",),
    hf=HFConfig(
        "qwen3_moe",
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

SEED_OSS = Architecture(
    gguf="seed_oss",
    names=("SeedOssForCausalLM",),
    keys=COMMON,
    hf=HFConfig(
        "seed_oss",
        values={
            "max_position_embeddings": 524288,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rms_norm_eps": 1e-6,
            "vocab_size": 155136,
        },
        fills={"num_key_value_heads": heads},
    ),
)
