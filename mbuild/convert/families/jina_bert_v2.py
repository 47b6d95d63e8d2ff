"""Jina's embedding models, version 2."""

from __future__ import annotations

from mbuild.convert.families.bert import BERT, BERT_LAYER, BERT_MODEL
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.vocabulary.rules import Reader, VocabRule
from mbuild.core.values import replace

_NORMS = slots("""
    ?q attn_q_norm width
    ?q attn_q_norm.bias width
    ?k attn_k_norm width
    ?k attn_k_norm.bias width
    ?second attn_norm_2 width
    ?second attn_norm_2.bias width
    ffn_down ff width
    ffn_down.bias width
""")

JINA_BERT_V2 = replace(
    BERT,
    gguf="jina-bert-v2",
    names=("JinaBertModel", "JinaBertForMaskedLM"),
    vocabulary=VocabRule((Reader.JINA,), default_segments=1),
    layout=TensorLayout(
        (*p.required(BERT_MODEL), *slots("?cls cls width 1\n?cls cls.bias 1")),
        (
            *BERT_LAYER,
            Group(_NORMS),
            Group(slots("ffn_up width 2*ff\n? ffn_up.bias 2*ff"), p.none("gated")),
            Group(slots("ffn_gate width ff\nffn_up width ff\n? ffn_up.bias ff"), p.some("gated")),
        ),
        p.EPS,
    ),
)

ROWS = (JINA_BERT_V2,)
