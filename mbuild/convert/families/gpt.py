"""The GPT-2 line: GPT-2, GPT-NeoX, StarCoder 1 and 2, Falcon."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from mbuild.convert.read.lazy import CONTRADICTS, ShapeError
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import (
    BLOCK_COUNT,
    BOOL,
    COMMON,
    HEADS,
    NORM_EPS,
    TEXT,
    U32,
    Key,
    computed,
    constant,
    f32,
    file_type,
    u32,
)
from mbuild.convert.rows.row import Architecture
from mbuild.convert.rows.rules import each, transposed

if TYPE_CHECKING:
    import numpy as np

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper

    Array = np.ndarray[Any, np.dtype[Any]]

_FOUR_WIDE = computed("feed_forward_length", U32, lambda hp: 4 * hp.width)
_EPS = f32("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True)

GPT2 = Architecture(
    gguf="gpt2",
    names=("GPT2LMHeadModel",),
    keys=(
        BLOCK_COUNT,
        u32("context_length", "n_ctx", "n_positions", low=1, required=True),
        u32("embedding_length", "n_embd", low=1, required=True),
        _FOUR_WIDE,
        u32("attention.head_count", "n_head", low=1, required=True),
        _EPS,
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

GPT_BIGCODE = Architecture(
    gguf="starcoder",
    names=("GPTBigCodeForCausalLM",),
    keys=(
        u32("context_length", "n_positions", low=1, required=True),
        u32("embedding_length", "n_embd", low=1, required=True),
        _FOUR_WIDE,
        BLOCK_COUNT,
        u32("attention.head_count", "n_head", low=1, required=True),
        constant("attention.head_count_kv", U32, 1),
        _EPS,
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


def _regrouped(groups: int, per_group: tuple[int, ...], lazy: Lazy) -> Lazy:
    """Rows from groups of (queries, key, value) to all queries, all keys, all values.

    ``per_group`` counts heads of each kind in one group.
    """
    import numpy as np

    total = sum(per_group)
    rows = lazy.shape[0] if lazy.shape else 0
    if rows == 0 or rows % (groups * total):
        raise ShapeError(
            f"{lazy.origin}: {rows} rows are not {groups} groups of {total} heads",
            hint=CONTRADICTS,
        )
    bounds = [sum(per_group[:i]) for i in range(len(per_group) + 1)]
    rest = lazy.shape[1:]

    def change(values: Array) -> Array:
        grouped = values.reshape(groups, total, -1, *rest)
        return np.concatenate(
            [grouped[:, start:stop].reshape(-1, *rest) for start, stop in pairwise(bounds)]
        )

    return lazy.move(lazy.shape, change)


def _neox_qkv(hp: Hyper, lazy: Lazy) -> Lazy:
    return _regrouped(hp.heads, (1, 1, 1), lazy)


def _rotary_width(hp: Hyper) -> int:
    share = hp.number("rotary_pct", default=hp.rope_number("partial_rotary_factor", 0.25))
    return int(share * (hp.width // hp.heads))


GPT_NEOX = Architecture(
    gguf="gptneox",
    names=("GPTNeoXForCausalLM",),
    # llama.cpp's converter writes no general.file_type for this family.
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

STARCODER2 = Architecture(
    gguf="starcoder2",
    names=("Starcoder2ForCausalLM",),
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


def _falcon_kv_heads(hp: Hyper) -> int:
    """Falcon 7B has one key-value head, whatever num_kv_heads says: multi_query decides there."""
    if hp.flag("multi_query") and not hp.flag("new_decoder_architecture"):
        return 1
    found = hp.optional_integer("num_kv_heads", "n_head_kv", low=1)
    if found is not None:
        return found
    return hp.heads if hp.value("model_type") == "falcon" else 1


def _falcon_qkv(hp: Hyper, lazy: Lazy) -> Lazy:
    groups = _falcon_kv_heads(hp)
    return _regrouped(groups, (hp.heads // groups, 1, 1), lazy)


FALCON = Architecture(
    gguf="falcon",
    names=("FalconForCausalLM", "RWForCausalLM"),
    keys=(
        constant("context_length", U32, 2048),
        constant("tensor_data_layout", TEXT, "jploski"),
        u32("embedding_length", "hidden_size", low=1, required=True),
        _FOUR_WIDE,
        BLOCK_COUNT,
        HEADS,
        computed("attention.head_count_kv", U32, _falcon_kv_heads),
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
    rules=(each(r"query_key_value", _falcon_qkv),),
)
