"""MiniCPM 3: latent attention, kept whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BLOCK_COUNT, U32, VOCAB_SIZE, computed, f32, file_type, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.rope import long_factors
from mbuild.convert.rows.row import Family
from mbuild.convert.vocabulary.rules import SPM

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named
    from mbuild.convert.rows.sizes import Sizes


def _factors(hp: Hyper, tensors: Mapping[str, Any]) -> Iterator[Named]:
    return long_factors(hp, hp.integer("qk_rope_head_dim"))


def _key(hp: Hyper) -> int:
    return hp.integer("qk_nope_head_dim", low=1) + hp.integer("qk_rope_head_dim", low=1)


def _values(sizes: Sizes, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """llama.cpp has no key for the width of a value, and takes the hidden size over the heads."""
    heads, wanted = sizes.value("heads", 0) or 1, sizes.value("width", 0)
    for name, axis, other in (("attn_output", 1, "0"), ("attn_kv_b", 0, "heads*key+-heads*rotary")):
        found = shapes.get(f"blk.0.{name}.weight", (0, 0))[axis] - (sizes.dim(other, 0) or 0)
        if found != wanted:
            yield (
                f"llama.cpp loads only a v_head_dim of {(wanted or 0) // heads}, which is"
                f" hidden_size over num_attention_heads, not {found // heads}"
            )
            return


MINICPM3 = Family(
    gguf="minicpm3",
    names=("MiniCPM3ForCausalLM",),
    vocabulary=SPM,
    keys=(
        file_type,
        u32("context_length", "max_position_embeddings", low=1, required=True),
        u32("embedding_length", "hidden_size", low=1, required=True),
        BLOCK_COUNT,
        u32("feed_forward_length", "intermediate_size", required=True),
        u32("attention.head_count", "num_attention_heads", low=1, required=True),
        u32("attention.head_count_kv", "num_key_value_heads", low=1, required=True),
        f32("attention.layer_norm_rms_epsilon", "rms_norm_eps", required=True),
        VOCAB_SIZE,
        u32("attention.q_lora_rank", "q_lora_rank"),
        u32("attention.kv_lora_rank", "kv_lora_rank", low=1, required=True),
        computed("attention.key_length", U32, _key),
        u32("rope.dimension_count", "qk_rope_head_dim", low=1, required=True),
    ),
    layout=TensorLayout(
        (*p.USUAL, *p.ROPE_FACTORS),
        (
            Group((*p.NORMS, *p.GATED)),
            Group(
                slots("""
                    attn_q_a_norm q_rank
                    attn_kv_a_norm kv_rank
                    attn_q_a width q_rank
                    attn_q_b q_rank heads*key
                    attn_kv_a_mqa width kv_rank+rotary
                    attn_kv_b kv_rank free
                    attn_output free width
                """)
            ),
        ),
        (*p.RMS, "attention.q_lora_rank", "attention.kv_lora_rank"),
        doubts=_values,
    ),
    extra=_factors,
)

ROWS = (MINICPM3,)
