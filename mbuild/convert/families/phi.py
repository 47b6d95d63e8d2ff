"""Phi 2 and Phi 3 (also Phi 3.5 and 4)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, as_integer, heads, missing
from mbuild.convert.rows.keys import (
    BLOCK_COUNT,
    F32,
    HEADS,
    NO_BOS,
    U32,
    computed,
    f32,
    file_type,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.rope import long_factors
from mbuild.convert.rows.row import Family
from mbuild.convert.vocabulary.rules import (
    Reader,
    VocabRule,
)
from mbuild.core.errors import UnsupportedError
from mbuild.gguf.model import KV
from mbuild.gguf.types import ValueType

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named

_CONTEXT = ("n_positions", "max_position_embeddings")


def _rotary_width(hp: Hyper, default: float) -> int:
    return int(hp.rope_number("partial_rotary_factor", default) * hp.width) // hp.heads


_PHI2_LAYOUT = TensorLayout(
    (*p.UNTIED, *p.OUTPUT_NORM_BIAS, *slots("output.bias tokens")),
    (
        Group(
            (
                *p.ATTN_NORM,
                *p.ATTN_NORM_BIAS,
                *p.required(p.WIDE),
                *p.required(p.OUTPUT_BIAS),
                *p.PLAIN,
                *p.required(p.PLAIN_BIAS),
            )
        ),
    ),
    p.EPS,
)

PHI2 = Family(
    gguf="phi2",
    names=("PhiForCausalLM",),
    layout=_PHI2_LAYOUT,
    keys=(
        u32("context_length", *_CONTEXT, low=1, required=True),
        u32("embedding_length", "hidden_size", "n_embd", low=1, required=True),
        computed("feed_forward_length", U32, lambda hp: 4 * hp.width),
        BLOCK_COUNT,
        HEADS,
        computed("attention.head_count_kv", U32, lambda hp: hp.heads),
        f32("attention.layer_norm_epsilon", "layer_norm_epsilon", "layer_norm_eps", required=True),
        computed("rope.dimension_count", U32, lambda hp: _rotary_width(hp, 0.5)),
        file_type,
        NO_BOS,
    ),
    hf=HFConfig(
        "phi",
        untied=True,
        values={"max_position_embeddings": 2048, "layer_norm_eps": 1e-5, "vocab_size": 51200},
        fills={"num_key_value_heads": heads},
        partial=0.5,
    ),
)


def _original(hp: Hyper) -> int:
    """The context length before it was stretched."""
    name = "original_max_position_embeddings"
    value = hp.rope.get(name)
    if value is None:
        raise missing(name)
    return as_integer(value, name, low=2)


def _long_rope_scale(hp: Hyper, tensors: Mapping[str, Any]) -> Iterator[KV]:
    """``rope.scaling.attn_factor``, where there are factors for long contexts.

    llama.cpp's converter writes it while it collects tensors, before all other keys.
    """
    if not hp.rope.get("long_factor"):
        return
    if hp.rope.get("rope_type") not in ("su", "longrope", "yarn"):
        raise UnsupportedError(
            f"config.json: rope_parameters of type {hp.rope.get('rope_type')!r} are not supported"
        )
    original = _original(hp)
    scale = hp.integer(*_CONTEXT, low=1) / original
    factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1.0 else 1.0
    yield KV(f"{hp.arch}.rope.scaling.attn_factor", ValueType.FLOAT32, factor)


def _factors(hp: Hyper, tensors: Mapping[str, Any]) -> Iterator[Named]:
    return long_factors(hp, _rotary_width(hp, 1.0))


_PHI3_LAYOUT = TensorLayout(
    (*p.USUAL, *p.ROPE_FACTORS),
    (Group((*p.NORMS, *p.fused(), *slots("ffn_up width 2*ff\nffn_down ff width"))),),
    p.RMS,
)

PHI3 = Family(
    gguf="phi3",
    names=("Phi3ForCausalLM", "Phi4ForCausalLMV"),
    vocabulary=VocabRule((Reader.PHI3, Reader.BPE)),
    layout=_PHI3_LAYOUT,
    keys=(
        u32("context_length", *_CONTEXT, low=1, required=True),
        computed("rope.scaling.original_context_length", U32, _original),
        u32("embedding_length", "hidden_size", "n_embd", low=1, required=True),
        u32("feed_forward_length", "intermediate_size", low=1, required=True),
        BLOCK_COUNT,
        HEADS,
        computed("attention.head_count_kv", U32, lambda hp: hp.kv_heads),
        f32("attention.layer_norm_rms_epsilon", "rms_norm_eps", required=True),
        computed("rope.dimension_count", U32, lambda hp: _rotary_width(hp, 1.0)),
        computed("rope.freq_base", F32, lambda hp: hp.rope_number("rope_theta")),
        file_type,
        # Zero tells Phi 4, which has no window, from the other models of this architecture.
        u32("attention.sliding_window", "sliding_window", default=0),
    ),
    hf=HFConfig(
        "phi3",
        untied=True,
        values={
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
            "vocab_size": 32064,
        },
        fills={"num_key_value_heads": heads},
        partial=1.0,
    ),
    extra=_factors,
    early=_long_rope_scale,
)

ROWS = (PHI2, PHI3)
