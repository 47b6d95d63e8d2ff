"""BLOOM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.gpt import EPS, GPT2
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import BLOCK_COUNT, U32, computed, file_type
from mbuild.convert.rows.layout import slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import each, regrouped
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _width(hp: Hyper) -> int:
    return hp.integer("hidden_size", "n_embed", low=1)


def _heads(hp: Hyper) -> int:
    return hp.integer("n_head", "num_attention_heads", low=1)


BLOOM = Family(
    gguf="bloom",
    names=("BloomForCausalLM", "BloomModel"),
    keys=(
        computed("context_length", U32, lambda hp: hp.integer("seq_length", default=_width(hp))),
        computed("embedding_length", U32, _width),
        computed("feed_forward_length", U32, lambda hp: 4 * _width(hp)),
        BLOCK_COUNT,
        computed("attention.head_count", U32, _heads),
        computed("attention.head_count_kv", U32, _heads),
        EPS,
        file_type,
    ),
    layout=replace(
        GPT2.layout,
        model=(
            *p.USUAL,
            *p.OUTPUT_NORM_BIAS,
            *slots("token_embd_norm width\ntoken_embd_norm.bias width"),
        ),
    ),
    hf=HFConfig(
        "bloom",
        aliases={"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
        values={"layer_norm_epsilon": 1e-5, "vocab_size": 250880},
        theta=None,
    ),
    prefixes=(("transformer.", ""),),
    rules=(
        each(
            r"self_attention\.query_key_value\.(weight|bias)$",
            lambda hp, lazy: regrouped(_heads(hp), (1, 1, 1), lazy),
        ),
    ),
)

ROWS = (BLOOM,)
