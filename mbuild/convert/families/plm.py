"""PLM: latent attention without a latent query."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON, U32, VOCAB_SIZE, computed, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _key(hp: Hyper) -> int:
    return hp.integer("qk_nope_head_dim", low=1) + hp.integer("qk_rope_head_dim", low=1)


PLM = Family(
    gguf="plm",
    names=("PLMForCausalLM",),
    keys=(
        *COMMON,
        VOCAB_SIZE,
        u32("attention.kv_lora_rank", "kv_lora_rank", low=1, required=True),
        computed("attention.key_length", U32, _key),
        u32("attention.value_length", "v_head_dim", low=1, required=True),
        u32("rope.dimension_count", "qk_rope_head_dim", low=1, required=True),
    ),
    layout=TensorLayout(
        p.TIED,
        (
            Group((*p.NORMS, *p.PLAIN)),
            Group(
                slots("""
                    attn_q width heads*key
                    attn_kv_a_mqa width kv_rank+rotary
                    attn_kv_a_norm kv_rank
                    attn_kv_b kv_rank heads*key+-heads*rotary+heads*value
                    attn_output heads*value width
                """)
            ),
        ),
        p.RMS,
    ),
)

ROWS = (PLM,)
