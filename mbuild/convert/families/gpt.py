"""GPT-2 and GPT-NeoX."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import (
    BLOCK_COUNT,
    BOOL,
    HEADS,
    U32,
    Key,
    computed,
    f32,
    file_type,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import each, regrouped, transposed

if TYPE_CHECKING:
    import numpy as np

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper

    Array = np.ndarray[Any, np.dtype[Any]]

FOUR_WIDE = computed("feed_forward_length", U32, lambda hp: 4 * hp.width)
EPS = f32("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True)

_LAYER = (
    *p.ATTN_NORM,
    *p.ATTN_NORM_BIAS,
    *p.required(p.fused()),
    *slots("attn_output.bias width"),
    *p.FFN_NORM,
    *p.FFN_NORM_BIAS,
    *p.PLAIN,
    *p.required(p.PLAIN_BIAS),
)

GPT2 = Family(
    gguf="gpt2",
    names=("GPT2LMHeadModel",),
    layout=TensorLayout((*p.USUAL, *p.OUTPUT_NORM_BIAS, *p.POSITIONS), (Group(_LAYER),), p.EPS),
    keys=(
        BLOCK_COUNT,
        u32("context_length", "n_ctx", "n_positions", low=1, required=True),
        u32("embedding_length", "n_embd", low=1, required=True),
        FOUR_WIDE,
        u32("attention.head_count", "n_head", low=1, required=True),
        EPS,
        file_type,
    ),
    hf=HFConfig(
        "gpt2",
        aliases={
            "hidden_size": "n_embd",
            "max_position_embeddings": "n_positions",
            "num_attention_heads": "n_head",
            "num_hidden_layers": "n_layer",
        },
        values={"n_positions": 1024, "layer_norm_epsilon": 1e-5, "vocab_size": 50257},
        theta=None,
    ),
    skip=(r"\.attn\.(masked_)?bias$",),
    rules=(each(r"\.(c_attn|c_proj|c_fc)\.weight$", transposed),),
)


def _neox_qkv(hp: Hyper, lazy: Lazy) -> Lazy:
    return regrouped(hp.heads, (1, 1, 1), lazy)


def _rotary_width(hp: Hyper) -> int:
    share = hp.number("rotary_pct", default=hp.rope_number("partial_rotary_factor", 0.25))
    return int(share * (hp.width // hp.heads))


GPT_NEOX = Family(
    gguf="gptneox",
    names=("GPTNeoXForCausalLM",),
    # llama.cpp's converter writes no general.file_type for this family.
    head="embed_out",
    layout=TensorLayout((*p.UNTIED, *p.OUTPUT_NORM_BIAS), (Group(_LAYER),), p.EPS),
    keys=(
        u32("context_length", "max_position_embeddings", low=1, required=True),
        u32("embedding_length", "hidden_size", low=1, required=True),
        BLOCK_COUNT,
        u32("feed_forward_length", "intermediate_size", low=1, required=True),
        computed("rope.dimension_count", U32, _rotary_width),
        HEADS,
        Key("use_parallel_residual", BOOL, ("use_parallel_residual",), default=True),
        f32("attention.layer_norm_epsilon", "layer_norm_eps", required=True),
    ),
    hf=HFConfig(
        "gpt_neox",
        untied=True,
        values={
            "max_position_embeddings": 2048,
            "layer_norm_eps": 1e-5,
            "use_parallel_residual": True,
            "vocab_size": 50432,
        },
        partial=0.25,
    ),
    rules=(each(r"attention\.query_key_value\.(weight|bias)$", _neox_qkv),),
)

ROWS = (GPT2, GPT_NEOX)
