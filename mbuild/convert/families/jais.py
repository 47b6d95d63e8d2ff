"""Jais and Jais 2."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import (
    BLOCK_COUNT,
    COMMON,
    F32,
    ROPE_HEAD_DIM,
    f32,
    file_type,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import each, times, transposed
from mbuild.core.errors import FormatError
from mbuild.gguf.model import KV

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.row import Tensors

_SLOPES = "transformer.relative_pe.slopes"


def _embedding(hp: Hyper, lazy: Lazy) -> Lazy:
    return times(lazy, hp.number("mup_embeddings_scale", "embeddings_scale"))


def _head(hp: Hyper, lazy: Lazy) -> Lazy:
    if hp.value("mup_output_alpha") is None:
        return times(lazy, hp.number("width_scale"))
    return times(lazy, hp.number("mup_output_alpha") * hp.number("mup_width_scale"))


def _bias(hp: Hyper, tensors: Tensors) -> Iterator[KV]:
    """The largest bias of attention, from the slopes that it gave when the model was made."""
    bias, slopes = 8.0, tensors.get(_SLOPES)
    if slopes is not None and slopes.size:
        from mbuild.convert.read.dtypes import to_f32

        first = float(to_f32(slopes.load(), slopes.dtype).reshape(-1)[0])
        if not 0 < first < math.inf:
            raise FormatError(f"{slopes.origin}: the first slope is {first}")
        bias = -round(math.log2(first) * 2 ** math.floor(math.log2(hp.heads)))
    yield KV(f"{hp.arch}.attention.max_alibi_bias", F32, float(bias))


JAIS = Family(
    gguf="jais",
    names=("JAISLMHeadModel",),
    early=_bias,
    keys=(
        BLOCK_COUNT,
        u32("context_length", "n_positions", low=1, required=True),
        u32("embedding_length", "n_embd", low=1, required=True),
        u32("feed_forward_length", "n_inner", low=1, required=True),
        u32("attention.head_count", "n_head", low=1, required=True),
        f32("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True),
        file_type,
    ),
    layout=TensorLayout(
        (*p.UNTIED, *p.OUTPUT_NORM_BIAS),
        (
            Group((*p.NORMS, *p.ATTN_NORM_BIAS, *p.FFN_NORM_BIAS, *p.required(p.fused()))),
            Group((*slots("attn_output.bias width"), *p.GATED, *p.required(p.GATED_BIAS))),
        ),
        p.EPS,
    ),
    rules=(
        each(r"\.(c_attn|c_proj|c_fc2?)\.weight$", transposed),
        each(r"^transformer\.wte\.weight$", _embedding),
        each(r"^lm_head\.weight$", _head),
    ),
    skip=(r"\.attn\.bias$", r"relative_pe\.slopes$"),
)

JAIS2 = Family(
    gguf="jais2",
    names=("Jais2ForCausalLM",),
    keys=(*COMMON, ROPE_HEAD_DIM),
    layout=TensorLayout(
        (*p.USUAL, *p.OUTPUT_NORM_BIAS),
        (
            Group((*p.NORMS, *p.ATTN_NORM_BIAS, *p.FFN_NORM_BIAS, *p.separate())),
            Group((*slots("attn_output.bias width"), *p.PLAIN, *p.required(p.PLAIN_BIAS))),
        ),
        p.EPS,
    ),
)

ROWS = (JAIS, JAIS2)
