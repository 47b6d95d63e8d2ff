"""ERNIE 4.5, dense and with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, heads
from mbuild.convert.rows.keys import COMMON, U32, computed, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import NO_HF_CONFIG, Family
from mbuild.convert.rows.rules import EXPERTS, halves, parts
from mbuild.convert.vocabulary.rules import (
    SPM_PREFIX,
)
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper


def _separate(hp: Hyper, lazy: Lazy) -> list[Lazy]:
    head = hp.head_dim
    return lazy.split(0, (hp.heads * head, hp.kv_heads * head, hp.kv_heads * head))


ERNIE = Family(
    gguf="ernie4_5",
    names=("Ernie4_5_ForCausalLM", "Ernie4_5ForCausalLM"),
    vocabulary=SPM_PREFIX,
    layout=replace(p.DENSE, layers=(Group((*p.NORMS, *p.separate(), *p.OUTPUT_BIAS, *p.GATED)),)),
    keys=COMMON,
    hf=HFConfig(
        "ernie4_5",
        values={
            "max_position_embeddings": 131072,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "rms_norm_eps": 1e-5,
            "vocab_size": 103424,
            "tie_word_embeddings": True,
        },
        fills={"num_key_value_heads": heads},
        theta=500000.0,
    ),
    replaced=(("ernie.", "model."),),
    rules=(
        parts(r"qkv_proj\.weight$", "qkv_proj", ("q_proj", "k_proj", "v_proj"), _separate),
        parts(r"up_gate_proj\.weight$", "up_gate_proj", ("gate_proj", "up_proj"), halves(0)),
    ),
)


def _shared_width(hp: Hyper) -> int | None:
    """llama.cpp's rule, odd as it is: the dense width over the number of key-value heads."""
    if not hp.optional_integer("moe_num_shared_experts"):
        return None
    width = hp.optional_integer("intermediate_size")
    count = hp.optional_integer("num_key_value_heads", low=1)
    return None if width is None or count is None else width // count


_MOE_LAYOUT = TensorLayout(
    p.USUAL,
    (
        Group((*p.NORMS, *p.separate(), *p.OUTPUT_BIAS)),
        Group(p.GATED, p.leading),
        Group((*p.experts("expert_ff"), *slots("? exp_probs_b.bias experts")), p.following),
        Group(
            p.shared_experts(),
            lambda sizes, layer: (
                p.following(sizes, layer) and bool(sizes.value("shared_ff", layer))
            ),
        ),
    ),
    p.RMS,
)

PADDLE_OCR = replace(
    ERNIE,
    gguf="paddleocr",
    names=("PaddleOCRVLForConditionalGeneration",),
    layout=replace(ERNIE.layout, keys=(*p.RMS, "rope.dimension_sections")),
    hf=NO_HF_CONFIG,
)

ERNIE_MOE = replace(
    ERNIE,
    gguf="ernie4_5-moe",
    names=("Ernie4_5_MoeForCausalLM",),
    layout=_MOE_LAYOUT,
    keys=(
        *COMMON,
        u32("expert_count", "moe_num_experts", required=True),
        u32("expert_used_count", "moe_k", required=True),
        u32("interleave_moe_layer_step", "moe_layer_interval", required=True),
        u32("leading_dense_block_count", "moe_layer_start_index", required=True),
        u32("expert_feed_forward_length", "moe_intermediate_size"),
        u32("expert_shared_count", "moe_num_shared_experts"),
        computed("expert_shared_feed_forward_length", U32, _shared_width),
    ),
    hf=HFConfig(
        "ernie4_5_moe",
        aliases={"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_k"},
        values={
            "max_position_embeddings": 131072,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-5,
            "moe_intermediate_size": 1536,
            "moe_k": 6,
            "moe_num_experts": 64,
            "moe_num_shared_experts": 2,
            "moe_layer_start_index": 1,
            "moe_layer_interval": 1,
            "vocab_size": 103424,
            "tie_word_embeddings": True,
        },
        fills={"num_key_value_heads": heads},
        theta=500000.0,
    ),
    rules=(),
    skip=(r"^model\.mtp_(block|emb_norm|hidden_norm|linear_proj)\.\d+",),
    stacks=(
        replace(
            EXPERTS,
            parts=("gate_proj", "up_proj", "down_proj"),
            count=lambda hp: hp.integer("moe_num_experts", low=1),
        ),
    ),
)

ROWS = (ERNIE, ERNIE_MOE, PADDLE_OCR)
