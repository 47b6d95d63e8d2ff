"""MiniMax M3 (text): M2 with dense layers first, a shared expert, and an indexer of blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.minimax import MINIMAX_M2
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BOOL, U32, Key, computed, constant, f32, u32, within
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.rules import MIXTRAL_EXPERTS, NORM_PLUS_ONE
from mbuild.core.errors import FormatError
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _indexer(key: str, name: str) -> Key:
    return within("sparse_attention_config", f"attention.indexer.{key}", U32, name)


def _dense(hp: Hyper) -> int:
    layers = hp.value("moe_layer_freq")
    if not isinstance(layers, list):
        raise FormatError("config.json: moe_layer_freq is not a list of one number per layer")
    return next((layer for layer, experts in enumerate(layers) if experts), len(layers))


MINIMAX_M3 = replace(
    MINIMAX_M2,
    gguf="minimax-m3",
    names=("MiniMaxM3SparseForCausalLM", "MiniMaxM3SparseForConditionalGeneration"),
    keys=(
        *MINIMAX_M2.keys,
        u32("expert_shared_count", "n_shared_experts", required=True),
        f32("expert_weights_scale", "routed_scaling_factor", required=True),
        constant("expert_weights_norm", BOOL, True),
        _indexer("head_count", "sparse_num_index_heads"),
        _indexer("key_length", "sparse_index_dim"),
        _indexer("top_k", "sparse_topk_blocks"),
        _indexer("block_size", "sparse_block_size"),
        _indexer("local_blocks", "sparse_local_block"),
        computed("leading_dense_block_count", U32, _dense),
    ),
    layout=TensorLayout(
        p.UNTIED,
        (
            Group((*p.NORMS, *p.separate(), *p.QK_NORM)),
            *p.dense_then_experts("exp_probs_b.bias experts"),
            Group(
                slots("""
                    indexer.q_proj width index_heads*index_key F32
                    indexer.k_proj width index_key F32
                    indexer.q_norm index_key
                    indexer.k_norm index_key
                """),
                p.following,
            ),
        ),
        (*p.RMS, "expert_feed_forward_length", "expert_shared_count", "expert_gating_func"),
    ),
    rules=(NORM_PLUS_ONE,),
    stacks=(MIXTRAL_EXPERTS,),
)

ROWS = (MINIMAX_M3,)
