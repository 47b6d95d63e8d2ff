"""MPT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BLOCK_COUNT, F32, U32, computed, constant, u32, within
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.keys import Key
    from mbuild.gguf.types import ValueType


def _alibi(hp: Hyper) -> float:
    """The largest bias of a distance, 0 without any; the class has one where nothing is said."""
    attention = hp.value("attn_config")
    settings = attention if isinstance(attention, dict) else {}
    if not settings.get("alibi", True):
        return 0.0
    return settings.get("alibi_bias_max", 8)  # type: ignore[no-any-return]


def _attention(key: str, type_: ValueType, name: str) -> Key:
    return within("attn_config", key, type_, name, required=False)


MPT = Family(
    gguf="mpt",
    names=("MPTForCausalLM",),
    # llama.cpp's converter writes no general.file_type for this family.
    keys=(
        u32("context_length", "max_seq_len", low=1, required=True),
        u32("embedding_length", "d_model", low=1, required=True),
        BLOCK_COUNT,
        computed("feed_forward_length", U32, lambda hp: 4 * hp.integer("d_model")),
        u32("attention.head_count", "n_heads", low=1, required=True),
        _attention("attention.head_count_kv", U32, "kv_n_heads"),
        constant("attention.layer_norm_epsilon", F32, 1e-5),
        _attention("attention.clamp_kqv", F32, "clip_qkv"),
        computed("attention.max_alibi_bias", F32, _alibi),
    ),
    layout=TensorLayout(
        (*p.USUAL, *slots("? output_norm.bias width\n? position_embd width context F32")),
        (
            Group((*p.NORMS, *p.fused(), *p.OUTPUT_BIAS, *p.PLAIN, *p.PLAIN_BIAS)),
            Group(
                slots("""
                    ?norms attn_norm.bias width
                    ?norms ffn_norm.bias width
                    ?qk attn_q_norm width
                    ?qk attn_k_norm width
                    ?qk_bias attn_q_norm.bias width
                    ?qk_bias attn_k_norm.bias width
                """)
            ),
        ),
        p.EPS,
    ),
)

ROWS = (MPT,)
