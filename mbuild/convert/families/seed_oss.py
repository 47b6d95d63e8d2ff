"""Seed-OSS."""

from __future__ import annotations

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, heads
from mbuild.convert.rows.keys import COMMON
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family

SEED_OSS = Family(
    gguf="seed_oss",
    names=("SeedOssForCausalLM",),
    layout=TensorLayout(
        p.USUAL,
        (Group((*p.ATTN_NORM, *slots("post_attention_norm width"), *p.separate(), *p.GATED)),),
        p.RMS,
    ),
    keys=COMMON,
    hf=HFConfig(
        "seed_oss",
        untied=True,
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

ROWS = (SEED_OSS,)
