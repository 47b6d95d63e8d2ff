"""Falcon (not its hybrid successors)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families.gpt import FOUR_WIDE
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import (
    BLOCK_COUNT,
    HEADS,
    NORM_EPS,
    TEXT,
    U32,
    computed,
    constant,
    file_type,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import each, regrouped

if TYPE_CHECKING:
    import numpy as np

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper

    Array = np.ndarray[Any, np.dtype[Any]]


def _kv_heads(hp: Hyper) -> int:
    """Falcon 7B has one key-value head, whatever num_kv_heads says: multi_query decides there."""
    if hp.flag("multi_query") and not hp.flag("new_decoder_architecture"):
        return 1
    found = hp.optional_integer("num_kv_heads", "n_head_kv", low=1)
    if found is not None:
        return found
    return hp.heads if hp.value("model_type") == "falcon" else 1


def _qkv(hp: Hyper, lazy: Lazy) -> Lazy:
    groups = _kv_heads(hp)
    return regrouped(groups, (hp.heads // groups, 1, 1), lazy)


_LAYOUT = TensorLayout(
    (*p.USUAL, *p.OUTPUT_NORM_BIAS),
    (
        Group(
            (
                *p.ATTN_NORM,
                *p.ATTN_NORM_BIAS,
                *slots("?attn_norm_2 attn_norm_2 width\n?attn_norm_2 attn_norm_2.bias width"),
                *slots("attn_qkv width width+kv*key+kv*value\nattn_output width width"),
                *p.PLAIN,
            )
        ),
    ),
    p.EPS,
    one_head=True,
)

FALCON = Family(
    gguf="falcon",
    names=("FalconForCausalLM", "RWForCausalLM"),
    layout=_LAYOUT,
    keys=(
        constant("context_length", U32, 2048),
        constant("tensor_data_layout", TEXT, "jploski"),
        u32("embedding_length", "hidden_size", low=1, required=True),
        FOUR_WIDE,
        BLOCK_COUNT,
        HEADS,
        computed("attention.head_count_kv", U32, _kv_heads),
        NORM_EPS,
        file_type,
    ),
    hf=HFConfig(
        "falcon",
        values={
            "layer_norm_epsilon": 1e-5,
            "multi_query": True,
            "vocab_size": 65024,
            "tie_word_embeddings": True,
        },
    ),
    rules=(each(r"query_key_value", _qkv),),
)

ROWS = (FALCON,)
