"""dots.llm1."""

from __future__ import annotations

from mbuild.convert.families.qwen import QWEN2_MOE
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, heads
from mbuild.convert.rows.keys import BOOL, Key, f32, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.vocabulary.rules import BPE
from mbuild.core.values import replace

# llama.cpp takes as many keys and values as there are heads.
_ATTENTION = slots("""
    attn_q width heads*key
    attn_k width heads*key
    attn_v width heads*key
    ?qkv attn_q.bias heads*key
    ?qkv attn_k.bias heads*key
    ?qkv attn_v.bias heads*key
    attn_output heads*key width
""")

DOTS1 = replace(
    QWEN2_MOE,
    gguf="dots1",
    names=("Dots1ForCausalLM",),
    keys=(
        *QWEN2_MOE.keys,
        u32("leading_dense_block_count", "first_k_dense_replace", required=True),
        u32("expert_shared_count", "n_shared_experts", required=True),
        f32("expert_weights_scale", "routed_scaling_factor", required=True),
        Key("expert_weights_norm", BOOL, ("norm_topk_prob",), required=True),
    ),
    layout=TensorLayout(
        p.UNTIED,
        (Group((*p.NORMS, *_ATTENTION, *p.QK_NORM)), *p.dense_then_experts()),
        (*p.RMS, "expert_feed_forward_length", "expert_shared_count"),
    ),
    vocabulary=BPE,
    hf=HFConfig(
        "dots1",
        untied=True,
        values={
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "vocab_size": 152064,
            "moe_intermediate_size": 1408,
            "num_key_value_heads": 32,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 0,
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.0,
        },
        fills={"num_key_value_heads": heads},
    ),
    biased=False,
    silu=False,
)

ROWS = (DOTS1,)
