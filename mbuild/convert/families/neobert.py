"""NeoBERT."""

from __future__ import annotations

from mbuild.convert.families.bert import BERT
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import F32, ROPE_SCALING_NONE, U32, computed, constant, f32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.core.values import replace

NEO_BERT = replace(
    BERT,
    gguf="neo-bert",
    names=("NeoBERT", "NeoBERTLMHead", "NeoBERTForSequenceClassification"),
    keys=(
        *BERT.keys,
        computed("feed_forward_length", U32, lambda hp: 2 * hp.integer("intermediate_size") // 3),
        constant("rope.freq_base", F32, 10000.0),
        ROPE_SCALING_NONE,
        f32("attention.layer_norm_rms_epsilon", "norm_eps", default=1e-6),
        constant("pooling_type", U32, 2),
    ),
    layout=TensorLayout(
        slots("""
            token_embd width tokens
            enc.output_norm width
            ?cls cls width width
            ?cls cls.bias width
            ?cls.output cls.output width labels
            ?cls.output cls.output.bias labels
        """),
        (Group((*p.NORMS, *p.fused(), *slots("ffn_up width 2*ff\nffn_down ff width"))),),
        p.RMS,
    ),
    hf=NO_HF_CONFIG,
    vocabulary=replace(BERT.vocabulary, default_segments=1),
    prefixes=(("model.", ""), *BERT.prefixes),
    skip=(r"^decoder\.", *BERT.skip),
)

ROWS = (NEO_BERT,)
