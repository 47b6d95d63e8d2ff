"""Falcon H1: Mamba 2 and attention side by side in each layer; its multipliers become part of the
weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.read.joining import joined
from mbuild.convert.rows import mamba as m
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import (
    HEADS,
    KEY_LENGTH,
    U32,
    VALUE_LENGTH,
    VOCAB_SIZE,
    computed,
    f32,
    file_type,
    rope_bases,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import each, scaled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Fill, Hyper


def _inner(hp: Hyper) -> int:
    return hp.integer("mamba_d_ssm", low=1, default=hp.integer("mamba_expand") * hp.width)


def _heads(hp: Hyper) -> int:
    return _inner(hp) // hp.integer("mamba_d_head", low=1)


def _input(hp: Hyper, lazy: Lazy) -> Lazy:
    """Gate, values, two kinds of state and time steps, each with a multiplier of its own."""
    state = m.groups(hp) * hp.integer("mamba_d_state", low=1)
    first = 2 * _inner(hp) + 2 * state
    rows = (*2 * (_inner(hp),), state, state, (lazy.shape or (0,))[0] - first)
    pieces = lazy.split(0, rows)
    return joined(
        [scaled("ssm_in_multiplier", f"ssm_multipliers.{i}")(hp, x) for i, x in enumerate(pieces)]
    )


def _head(config: Mapping[str, Any]) -> Any:
    inner, heads = config.get("mamba_d_ssm"), config.get("mamba_n_heads")
    automatic = config.get("mamba_d_head", "auto") == "auto"
    if automatic and type(inner) is int and type(heads) is int and heads > 0:
        return inner // heads
    return config.get("mamba_d_head")


def _ones(count: int) -> Fill:
    return lambda config: [1.0] * count if count else 1.0


_NUMBERS = (
    *("lm_head_multiplier", "embedding_multiplier", "key_multiplier", "ssm_in_multiplier"),
    *("attention_out_multiplier", "attention_in_multiplier", "ssm_out_multiplier"),
)

FALCON_H1 = Family(
    gguf="falcon-h1",
    names=("FalconH1ForCausalLM",),
    silu=True,
    keys=(
        computed("context_length", U32, lambda hp: hp.integer("max_position_embeddings")),
        u32("embedding_length", "hidden_size", low=1, required=True),
        u32("feed_forward_length", "intermediate_size", required=True),
        HEADS,
        computed("block_count", U32, lambda hp: hp.blocks),
        u32("ssm.conv_kernel", "mamba_d_conv", low=1, default=4),
        computed("ssm.inner_size", U32, _inner),
        u32("ssm.state_size", "mamba_d_state", low=1, default=128),
        computed("ssm.time_step_rank", U32, _heads),
        computed("ssm.group_count", U32, m.groups),
        f32("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5),
        file_type,
        VOCAB_SIZE,
        u32("attention.head_count_kv", "num_key_value_heads", required=True),
        KEY_LENGTH,
        VALUE_LENGTH,
        rope_bases,
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group((*p.ATTN_NORM, *p.separate(), *p.OUTPUT_BIAS, *p.GATED, *p.GATED_BIAS)),
            Group((*m.MAMBA2[:-2], *m.MAMBA2[-1:])),
            Group(slots("ffn_norm. width\n? ssm_norm inner/groups groups")),
        ),
        p.RMS,
    ),
    hf=HFConfig(
        "falcon_h1",
        untied=True,
        values={
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-5,
            "vocab_size": 128000,
            "mamba_d_ssm": 1024,
            "mamba_n_heads": 128,
            "mamba_n_groups": 1,
            "mamba_d_state": 256,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
        },
        fills={
            **dict.fromkeys(_NUMBERS, _ones(0)),
            "mlp_multipliers": _ones(2),
            "ssm_multipliers": _ones(5),
        },
        forced={"mamba_d_head": _head},
        theta=100000.0,
    ),
    folded=_NUMBERS,
    rules=(
        each(r"down_proj\.", scaled("mlp_multipliers.1")),
        each(r"gate_proj\.", scaled("mlp_multipliers.0")),
        each(r"k_proj\.", scaled("key_multiplier", "attention_in_multiplier")),
        each(r"[qv]_proj\.", scaled("attention_in_multiplier")),
        each(r"o_proj\.", scaled("attention_out_multiplier")),
        each(r"out_proj\.", scaled("ssm_out_multiplier")),
        each(r"in_proj\.weight$", _input),
        each(r"^lm_head\.", scaled("lm_head_multiplier")),
        each(r"embed_tokens\.", scaled("embedding_multiplier")),
        *m.MAMBA2_RULES,
    ),
)

ROWS = (FALCON_H1,)
