"""Groups of tensors that many architectures share, and which layers have them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows.layout import Group, Slot, TensorLayout, Where, ahead, slots
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.sizes import Sizes


RMS_EPSILON = "attention.layer_norm_rms_epsilon"
LAYER_EPSILON = "attention.layer_norm_epsilon"
RMS, EPS = (RMS_EPSILON,), (LAYER_EPSILON,)
"""The keys that most models need."""


def some(name: str) -> Where:
    """Layers of a model in which a size is not zero."""
    return lambda sizes, layer: bool(sizes.value(name, layer))


def none(name: str) -> Where:
    """Layers of a model in which a size is zero."""
    return lambda sizes, layer: not sizes.value(name, layer)


def leading(sizes: Sizes, layer: int) -> bool:
    """The first layers, whose feed-forward network is dense."""
    return layer < (sizes.value("dense", layer) or 0)


def following(sizes: Sizes, layer: int) -> bool:
    """The layers behind those, with experts."""
    return not leading(sizes, layer)


def alternate(sizes: Sizes, layer: int) -> bool:
    """Every n-th layer, the second of each n."""
    every = sizes.value("every", layer) or 0
    return every > 0 and layer % every == 1 % every


def not_alternate(sizes: Sizes, layer: int) -> bool:
    """All other layers."""
    return not alternate(sizes, layer)


EMBEDDING = slots("token_embd width tokens")
HEAD = slots("output width tokens")
HEAD_OR_TIED = slots("? output width tokens")
OUTPUT_NORM = slots("output_norm width")
OUTPUT_NORM_BIAS = slots("output_norm.bias width")
POSITIONS = slots("position_embd width context F32")

TIED = (*EMBEDDING, *OUTPUT_NORM)
USUAL = (*EMBEDDING, *OUTPUT_NORM, *HEAD_OR_TIED)
UNTIED = (*EMBEDDING, *OUTPUT_NORM, *HEAD)

ROPE_FREQS = slots("? rope_freqs rotary/2")
ROPE_FACTORS = slots("?factors rope_factors_long rotary/2\n?factors rope_factors_short rotary/2")

ATTN_NORM = slots("attn_norm width")
ATTN_NORM_BIAS = slots("attn_norm.bias width")
FFN_NORM = slots("ffn_norm width")
FFN_NORM_BIAS = slots("ffn_norm.bias width")
NORMS = (*ATTN_NORM, *FFN_NORM)
POST_NORMS = slots("post_attention_norm width\npost_ffw_norm width")
OUTPUT_BIAS = slots("? attn_output.bias width")
QK_NORM = slots("attn_q_norm key\nattn_k_norm key")

GATED = slots("ffn_gate width ff\nffn_up width ff\nffn_down ff width")
PLAIN = slots("ffn_up width ff\nffn_down ff width")
GATED_BIAS = slots("?mlp ffn_gate.bias ff\n?mlp ffn_up.bias ff\n?mlp ffn_down.bias width")
PLAIN_BIAS = slots("?mlp ffn_up.bias ff\n?mlp ffn_down.bias width")


def fused(queries: str = "width") -> tuple[Slot, ...]:
    """Queries, keys and values in one matrix."""
    return slots(
        f"attn_qkv width {queries}+kv*key+kv*value\n"
        f"?qkv attn_qkv.bias {queries}+kv*key+kv*value\n"
        f"attn_output {queries} width"
    )


def separate(queries: str = "heads*key", out: str = "") -> tuple[Slot, ...]:
    """Queries, keys and values in a matrix each, perhaps with biases; ``out``: rows of output."""
    return slots(
        f"attn_q width {queries}\nattn_k width kv*key\nattn_v width kv*value\n"
        f"?qkv attn_q.bias {queries}\n?qkv attn_k.bias kv*key\n?qkv attn_v.bias kv*value\n"
        f"attn_output {out or queries} width"
    )


WIDE = separate("width")
"""Attention whose heads together are as wide as the model."""

EITHER = (Group(fused(), some("fused")), Group(WIDE, none("fused")))


def experts(inner: str = "ff") -> tuple[Slot, ...]:
    """A router and gated experts."""
    return slots(
        f"ffn_gate_inp width experts F32\nffn_gate_exps width {inner} experts\n"
        f"ffn_up_exps width {inner} experts\nffn_down_exps {inner} width experts"
    )


def shared_experts(inner: str = "shared_ff") -> tuple[Slot, ...]:
    """Experts that every token goes through, as one network."""
    return slots(
        f"ffn_gate_shexp width {inner}\nffn_up_shexp width {inner}\nffn_down_shexp {inner} width"
    )


def required(found: tuple[Slot, ...]) -> tuple[Slot, ...]:
    """The same tensors, none of them optional."""
    return tuple(replace(slot, together="") for slot in found)


def optional(found: tuple[Slot, ...], together: str) -> tuple[Slot, ...]:
    """The same tensors, which are there all or none."""
    return tuple(replace(slot, together=together) for slot in found)


BIASED = (*ATTN_NORM, *ATTN_NORM_BIAS, *WIDE)

DENSE = TensorLayout(USUAL, (Group((*NORMS, *separate(), *GATED)),), RMS)
"""Two norms, separate projections and a gated network: what most dense models have."""

NEXTN = Group(
    slots("""
        nextn.eh_proj 2*width width
        nextn.enorm width
        nextn.hnorm width
        ? nextn.embed_tokens width tokens
        ? nextn.shared_head_head width tokens
        ? nextn.shared_head_norm width
    """),
    ahead,
)
"""What layers for multi-token prediction have besides the usual."""

QK_NORMS = slots("?qk_norm attn_q_norm key\n?qk_norm attn_k_norm key")


def dense_then_experts(bias: str = "? exp_probs_b.bias experts") -> tuple[Group, ...]:
    """The first layers dense; then experts with a shared one, and the router's bias."""
    shared = shared_experts("expert_ff*shared")
    return (
        Group(GATED, leading),
        Group((*experts("expert_ff"), *slots(bias)), following),
        Group(
            shared, lambda sizes, layer: following(sizes, layer) and some("shared")(sizes, layer)
        ),
    )
