"""Jamba: Mamba layers, attention at intervals, experts at others."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import mamba as m
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import BLOCK_COUNT, HEADS, U32, WIDTH, computed, f32, file_type, u32
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import Stack, experts
from mbuild.convert.vocabulary.rules import Prefix, Reader, VocabRule
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.sizes import Sizes


def _at(layer: int, offset: int, period: int) -> bool:
    return period > 0 and layer >= offset and (layer - offset) % period == 0


def _kv_heads(hp: Hyper) -> list[int]:
    offset, period = hp.integer("attn_layer_offset"), hp.integer("attn_layer_period", low=1)
    return [hp.kv_heads * _at(layer, offset, period) for layer in range(hp.blocks)]


def _rank(hp: Hyper) -> int:
    return hp.integer("mamba_dt_rank", default=-(hp.width // -16))


def _with_experts(sizes: Sizes, layer: int) -> bool:
    offset, period = sizes.given("expert_layer_offset", 1), sizes.given("expert_layer_period", 2)
    return _at(layer, offset, period)


def _single(config: Mapping[str, Any], name: str) -> str:
    """The network of a dense layer may be there as its only expert."""
    match = re.search(r"layers\.(\d+)\.feed_forward\.experts\.0\.", name)
    offset, period = config.get("expert_layer_offset", 1), config.get("expert_layer_period", 2)
    if match is None or type(offset) is not int or type(period) is not int:
        return name
    return name if _at(int(match[1]), offset, period) else name.replace(".experts.0.", ".")


JAMBA = Family(
    gguf="jamba",
    names=("JambaForCausalLM",),
    vocabulary=VocabRule((Reader.SENTENCEPIECE, Reader.LLAMA_HF), Prefix.FALSE_OF_JSON),
    keys=(
        BLOCK_COUNT,
        u32("context_length", "max_position_embeddings", "n_ctx", low=1, required=True),
        WIDTH,
        u32("feed_forward_length", "intermediate_size", required=True),
        HEADS,
        computed("attention.head_count_kv", U32, _kv_heads),
        u32("ssm.conv_kernel", "mamba_d_conv", low=1, default=4),
        computed("ssm.inner_size", U32, lambda hp: hp.integer("mamba_expand", low=1) * hp.width),
        u32("ssm.state_size", "mamba_d_state", low=1, default=16),
        computed("ssm.time_step_rank", U32, _rank),
        f32("attention.layer_norm_rms_epsilon", "layer_norm_epsilon", "rms_norm_eps", default=1e-6),
        u32("expert_count", "num_local_experts", "num_experts", required=True),
        u32("expert_used_count", "num_experts_per_tok", "num_experts_per_token", required=True),
        file_type,
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group(p.NORMS),
            Group(p.WIDE, p.some("kv")),
            Group((*m.MAMBA, *m.MAMBA_NORMS), p.none("kv")),
            Group(p.GATED, lambda sizes, layer: not _with_experts(sizes, layer)),
            Group(p.experts(), _with_experts),
        ),
        p.RMS,
    ),
    hf=HFConfig(
        "jamba",
        values={
            "max_position_embeddings": 262144,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-6,
            "num_experts_per_tok": 2,
            "num_experts": 16,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "attn_layer_period": 8,
            "attn_layer_offset": 4,
            "mamba_d_state": 16,
            "mamba_d_conv": 4,
            "mamba_expand": 2,
            "vocab_size": 65536,
        },
        theta=None,
    ),
    replaced=((".moe.", ".feed_forward."),),
    renamed=_single,
    rules=m.MAMBA_RULES,
    stacks=(
        Stack(
            regex(
                r"layers\.(?P<layer>\d+)\.feed_forward\.experts\.(?P<index>\d+)\."
                r"(?P<part>down_proj|gate_proj|up_proj)\.weight$"
            ),
            ("down_proj", "gate_proj", "up_proj"),
            "model.layers.{layer}.mlp.experts.{part}.weight",
            experts,
        ),
    ),
)

ROWS = (JAMBA,)
