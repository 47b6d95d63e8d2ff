"""DeepSeek V3.2: V3 with an indexer that chooses what attention sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.deepseek import DEEPSEEK_V3, tied_head
from mbuild.convert.rows.keys import NEXTN, u32
from mbuild.convert.rows.layout import Group, ahead, slots
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.sizes import Sizes

INDEXER_KEYS = (
    NEXTN,
    u32("attention.indexer.head_count", "index_n_heads", required=True),
    u32("attention.indexer.key_length", "index_head_dim", required=True),
    u32("attention.indexer.top_k", "index_topk", required=True),
)


def _indexed(sizes: Sizes, layer: int) -> bool:
    """Layers with an indexer of their own; the others use that of a layer before."""
    return ahead(sizes, layer) or bool(sizes.value("indexed", layer))


INDEXER = Group(
    slots("""
        indexer.k_norm index_key
        indexer.k_norm.bias index_key
        indexer.proj width index_heads F32
        indexer.attn_k width index_key
        indexer.attn_q_b q_rank index_heads*index_key
    """),
    _indexed,
)

DEEPSEEK_V32 = replace(
    DEEPSEEK_V3,
    gguf="deepseek32",
    names=("DeepseekV32ForCausalLM",),
    keys=(*DEEPSEEK_V3.keys, *INDEXER_KEYS),
    layout=replace(
        DEEPSEEK_V3.layout,
        layers=(*DEEPSEEK_V3.layout.layers, INDEXER),
        keys=(*DEEPSEEK_V3.layout.keys, "expert_gating_func"),
    ),
    hf=NO_HF_CONFIG,
    skip=(tied_head,),
    nextn="num_nextn_predict_layers",
)

ROWS = (DEEPSEEK_V32,)
