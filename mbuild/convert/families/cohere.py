"""Cohere Command-R and Command-R7B (Cohere 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, head_width, heads
from mbuild.convert.rows.keys import (
    COMMON,
    ROPE_SCALING_NONE,
    U32,
    VOCAB_SIZE,
    computed,
    f32,
    replaced,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import Rule
from mbuild.core.errors import UnsupportedError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named

_VALUES = {
    "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.0625,
    "vocab_size": 256000,
    "tie_word_embeddings": True,
}
LOGIT_SCALE = f32("logit_scale", "logit_scale", required=True)

_LAYOUT = TensorLayout(
    p.TIED,
    (
        Group((*p.ATTN_NORM, *p.WIDE, *p.GATED)),
        Group(
            slots("attn_q_norm key heads\nattn_k_norm key kv"),
            # Command R+ has 64 layers; llama.cpp knows it by them.
            lambda sizes, layer: (sizes.value("layers", layer) or 0) >= 64,
        ),
    ),
    p.EPS,
)

COMMAND_R = Family(
    gguf="command-r",
    names=("CohereForCausalLM",),
    # max_position_embeddings of published models is less than what they were trained for.
    layout=_LAYOUT,
    keys=(
        *replaced(
            COMMON,
            u32("context_length", "model_max_length", "max_position_embeddings", low=1),
        ),
        LOGIT_SCALE,
        ROPE_SCALING_NONE,
    ),
    hf=HFConfig("cohere", values=_VALUES, fills={"num_key_value_heads": heads}),
    skip=(r"^lm_head\.weight$",),
)


def _rotary_width(hp: Hyper) -> int:
    return int(hp.number("rotary_pct", default=1.0) * (hp.width // hp.heads))


def _zero_bias(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """Biases that are zero are left out; these few values are read right away to know it."""
    if lazy.load().any():
        raise UnsupportedError(f"{lazy.origin} is not zero; Cohere 2 has no biases in GGUF")
    return []


COHERE2 = Family(
    gguf="cohere2",
    names=("Cohere2ForCausalLM",),
    layout=TensorLayout(
        p.TIED,
        (Group((*p.ATTN_NORM, *p.WIDE, *p.GATED)),),
        (*p.EPS, "logit_scale", "attention.sliding_window"),
    ),
    keys=(
        *COMMON,
        LOGIT_SCALE,
        u32("attention.sliding_window", "sliding_window", required=True),
        VOCAB_SIZE,
        computed("rope.dimension_count", U32, _rotary_width),
        ROPE_SCALING_NONE,
    ),
    hf=HFConfig(
        "cohere2",
        values={**_VALUES, "sliding_window": 4096},
        fills={"num_key_value_heads": heads},
        forced={"head_dim": head_width},
    ),
    rules=(Rule(regex(r"\.bias$"), _zero_bias),),
    skip=(r"^lm_head\.weight$",),
)

ROWS = (COMMAND_R, COHERE2)
