"""The layouts of embedding models: BERT and Nomic's."""

from __future__ import annotations

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.layout import Group, Layout, slots

EPS = (p.LAYER_EPSILON,)

_BERT_MODEL = slots("""
    token_embd width tokens
    ? token_types width types
    token_embd_norm width
    token_embd_norm.bias width
""")
_BERT_NORMS = slots("""
    attn_output_norm width
    attn_output_norm.bias width
    layer_output_norm width
    layer_output_norm.bias width
""")
_BERT_LAYER = (*p.EITHER, Group((*p.OUTPUT_BIAS, *_BERT_NORMS)))

BERT = Layout(
    (
        *_BERT_MODEL,
        *p.POSITIONS,
        *slots("""
            ?cls cls width width
            ?cls cls.bias width
            ?cls.output cls.output width labels
            ?cls.output cls.output.bias labels
        """),
    ),
    (*_BERT_LAYER, Group((*p.PLAIN, *p.PLAIN_BIAS))),
    EPS,
)
NOMIC = Layout(_BERT_MODEL, (*_BERT_LAYER, Group((*p.GATED, *p.PLAIN_BIAS))), EPS)
NOMIC_MOE = Layout(
    _BERT_MODEL,
    (
        *_BERT_LAYER,
        Group((*p.PLAIN, *p.PLAIN_BIAS), p.not_alternate),
        Group(
            slots("""
                ffn_gate_inp width experts
                ffn_up_exps width ff experts
                ffn_down_exps ff width experts
            """),
            p.alternate,
        ),
    ),
    EPS,
)
