"""ModernBERT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.bert import BERT
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import (
    ROPE_SCALING_NONE,
    TEXT,
    U32,
    VOCAB_SIZE,
    Key,
    computed,
    f32,
    replaced,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.pooling import POOLING
from mbuild.convert.vocabulary.rules import VocabRule
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper

_LAYOUT = TensorLayout(
    (
        *p.TIED,
        *slots("""
            token_embd_norm width
            ? cls width width
            ? cls.norm width
            ? cls.output width labels
            ? cls.output.bias labels
        """),
    ),
    (
        Group((*slots("ffn_norm width\nffn_up width 2*ff\nffn_down ff width"), *p.fused())),
        Group(p.ATTN_NORM, lambda sizes, layer: layer > 0),
    ),
    p.EPS,
)


def _classifier_pooling(hp: Hyper) -> int | None:
    return POOLING.get(str(hp.value("classifier_pooling")))


MODERN_BERT = replace(
    BERT,
    gguf="modern-bert",
    names=("ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"),
    layout=_LAYOUT,
    vocabulary=VocabRule(flags_before=(("bos", True), ("eos", True), ("sep", True))),
    keys=(
        # llama.cpp's converter does not know norm_eps alone, and its loader needs the key.
        *replaced(BERT.keys, f32("attention.layer_norm_epsilon", "layer_norm_eps", "norm_eps")),
        computed("classifier.pooling_type", U32, _classifier_pooling),
        u32("attention.sliding_window", "local_attention", required=True),
        u32("attention.sliding_window_pattern", "global_attn_every_n_layers"),
        ROPE_SCALING_NONE,
        VOCAB_SIZE,
        Key("hidden_activation", TEXT, ("hidden_activation",)),
    ),
    hf=HFConfig(
        "modernbert",
        values={
            "max_position_embeddings": 8192,
            "norm_eps": 1e-5,
            "vocab_size": 50368,
            "global_rope_theta": 160000.0,
            "local_rope_theta": 10000.0,
            "global_attn_every_n_layers": 3,
            "local_attention": 128,
            "classifier_pooling": "cls",
            "hidden_activation": "gelu",
        },
        theta=None,
    ),
    prefixes=(("model.", ""), *BERT.prefixes),
    skip=(r"^decoder\.(weight|bias)$", *BERT.skip),
)

ROWS = (MODERN_BERT,)
