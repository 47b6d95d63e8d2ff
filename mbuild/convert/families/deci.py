"""DeciLM and Nemotron Super and Ultra (1.x): layers that a search has made smaller one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families.llama import LLAMA
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import as_integer, as_number
from mbuild.convert.rows.keys import (
    BLOCK_COUNT,
    COMMON,
    F32,
    ROPE_HEAD_DIM,
    U32,
    VOCAB_SIZE,
    computed,
    f32,
    file_type,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import NO_HF_CONFIG, Family
from mbuild.convert.rows.rules import Rule, rotary
from mbuild.convert.vocabulary.rules import Reader, VocabRule
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named
    from mbuild.convert.rows.sizes import Sizes


def _blocks(hp: Hyper, part: str) -> list[dict[str, Any]]:
    """One part of each layer's own config."""
    blocks = hp.value("block_configs")
    found = [b.get(part) for b in blocks if isinstance(b, dict)] if isinstance(blocks, list) else []
    if len(found) != hp.blocks or not all(isinstance(item, dict) for item in found):
        raise FormatError(f"config.json: block_configs does not have one {part} per layer")
    return found  # type: ignore[return-value]


def _kv_heads(hp: Hyper) -> list[int]:
    own = hp.value("num_key_value_heads_per_layer")
    if isinstance(own, list) and len(own) == hp.blocks:
        return [as_integer(count, "num_key_value_heads_per_layer") for count in own]
    if "block_configs" not in hp.config:
        return [hp.kv_heads] * hp.blocks
    shared = [attention.get("n_heads_in_group") for attention in _blocks(hp, "attention")]
    return [
        0 if count is None else hp.heads // as_integer(count, "n_heads_in_group", low=1)
        for count in shared
    ]


def _heads(hp: Hyper) -> list[int]:
    return [
        0
        if a.get("n_heads_in_group") is None and a.get("replace_with_linear") is not True
        else hp.heads
        for a in _blocks(hp, "attention")
    ]


def _feed_forward(hp: Hyper) -> list[int]:
    """Two thirds of the width times a factor, up to a multiple of 256."""
    factors = [as_number(ffn.get("ffn_mult") or 0, "ffn_mult") for ffn in _blocks(hp, "ffn")]
    return [-(int(2 * factor * hp.width / 3) // -256) * 256 for factor in factors]


def _rotary(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    layer = int(name.split(".")[2])
    heads = hp.heads if "q_proj" in name else (_kv_heads(hp)[layer] or hp.heads)
    return [(name, rotary(lazy, heads))]


def _head_width(hp: Hyper) -> int:
    return hp.width // hp.heads


def _linear(sizes: Sizes, layer: int) -> bool:
    return p.some("heads")(sizes, layer) and p.none("kv")(sizes, layer)


def _variant(config: Mapping[str, Any]) -> Family:
    return NEMOTRON_NAS if "block_configs" in config else DECI


DECI = replace(
    LLAMA,
    gguf="deci",
    names=("DeciLMForCausalLM",),
    keys=(*COMMON, computed("attention.head_count_kv", U32, _kv_heads), VOCAB_SIZE, ROPE_HEAD_DIM),
    layout=TensorLayout(
        (*p.USUAL, *p.ROPE_FREQS, *p.ROPE_FACTORS),
        (
            Group((*p.ATTN_NORM, *p.OUTPUT_BIAS), p.some("heads")),
            Group(p.separate(), p.some("kv")),
            Group(slots("attn_output width width"), _linear),
            Group((*p.FFN_NORM, *p.GATED, *p.GATED_BIAS), p.some("ff")),
        ),
        p.RMS,
    ),
    vocabulary=VocabRule((Reader.LLAMA_HF, Reader.BPE)),
    hf=NO_HF_CONFIG,
    rules=(Rule(regex(r"^model\.layers\.\d+\.self_attn\.[qk]_proj\.(weight|bias)$"), _rotary),),
    variant=_variant,
)

NEMOTRON_NAS = replace(
    DECI,
    names=(),
    keys=(
        computed(
            "rope.freq_base",
            F32,
            lambda hp: hp.rope_number("rope_theta") if hp.full_rope.get("rope_theta") else None,
        ),
        computed("attention.head_count_kv", U32, _kv_heads),
        computed("attention.head_count", U32, _heads),
        computed("feed_forward_length", U32, _feed_forward),
        BLOCK_COUNT,
        u32("context_length", "max_position_embeddings", low=1, required=True),
        u32("embedding_length", "hidden_size", low=1, required=True),
        f32("attention.layer_norm_rms_epsilon", "rms_norm_eps", required=True),
        computed("attention.key_length", U32, _head_width),
        computed("attention.value_length", U32, _head_width),
        file_type,
        VOCAB_SIZE,
        ROPE_HEAD_DIM,
    ),
    variant=None,
)

ROWS = (DECI, NEMOTRON_NAS)
