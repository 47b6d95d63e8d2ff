"""StarCoder 1 and 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families.gpt import EPS, FOUR_WIDE, GPT2
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import (
    BLOCK_COUNT,
    COMMON,
    U32,
    constant,
    file_type,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.row import Family

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

GPT_BIGCODE = Family(
    gguf="starcoder",
    names=("GPTBigCodeForCausalLM",),
    layout=GPT2.layout,
    keys=(
        u32("context_length", "n_positions", low=1, required=True),
        u32("embedding_length", "n_embd", low=1, required=True),
        FOUR_WIDE,
        BLOCK_COUNT,
        u32("attention.head_count", "n_head", low=1, required=True),
        constant("attention.head_count_kv", U32, 1),
        EPS,
        file_type,
    ),
    hf=HFConfig(
        "gpt_bigcode",
        aliases=GPT2.hf.aliases,
        values={"n_positions": 1024, "layer_norm_epsilon": 1e-5, "vocab_size": 50257},
        theta=None,
    ),
    skip=(r"\.attn\.(masked_)?bias$",),
)

_LAYOUT = TensorLayout(
    (*p.USUAL, *p.OUTPUT_NORM_BIAS),
    (
        Group(
            (
                *p.BIASED,
                *p.required(p.OUTPUT_BIAS),
                *p.FFN_NORM,
                *p.FFN_NORM_BIAS,
                *p.PLAIN,
                *p.required(p.PLAIN_BIAS),
            )
        ),
    ),
    p.EPS,
)

STARCODER2 = Family(
    gguf="starcoder2",
    names=("Starcoder2ForCausalLM",),
    layout=_LAYOUT,
    keys=COMMON,
    hf=HFConfig(
        "starcoder2",
        values={
            "max_position_embeddings": 4096,
            "num_key_value_heads": 2,
            "norm_epsilon": 1e-5,
            "vocab_size": 49152,
            "tie_word_embeddings": True,
        },
    ),
)

ROWS = (GPT_BIGCODE, STARCODER2)
