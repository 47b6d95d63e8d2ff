"""Orion."""

from __future__ import annotations

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BLOCK_COUNT, TEXT, U32, computed, constant, f32, file_type, u32
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.row import Family
from mbuild.convert.vocabulary.rules import SPM

ORION = Family(
    gguf="orion",
    names=("OrionForCausalLM",),
    vocabulary=SPM,
    keys=(
        file_type,
        constant("tensor_data_layout", TEXT, "Meta AI original pth"),
        u32(
            "context_length",
            *("max_sequence_length", "max_position_embeddings", "model_max_length"),
            low=1,
            required=True,
        ),
        u32("embedding_length", "hidden_size", low=1, required=True),
        BLOCK_COUNT,
        u32("feed_forward_length", "intermediate_size", low=1, required=True),
        u32("attention.head_count", "num_attention_heads", low=1, required=True),
        computed("attention.head_count_kv", U32, lambda hp: hp.kv_heads),
        # The config calls it RMS, the model is trained with the other norm.
        f32("attention.layer_norm_epsilon", "rms_norm_eps", required=True),
    ),
    layout=TensorLayout(
        (*p.UNTIED, *p.OUTPUT_NORM_BIAS),
        (Group((*p.BIASED, *p.FFN_NORM, *p.FFN_NORM_BIAS, *p.GATED)),),
        p.EPS,
    ),
)

ROWS = (ORION,)
