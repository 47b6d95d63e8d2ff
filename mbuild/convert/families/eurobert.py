"""EuroBERT, a Llama that looks both ways."""

from __future__ import annotations

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON, NOT_CAUSAL, ROPE_SCALING_NONE
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.pooling import pooling
from mbuild.convert.rows.row import Family
from mbuild.convert.vocabulary.rules import VocabRule

EUROBERT = Family(
    gguf="eurobert",
    names=("EuroBertModel", "JinaEmbeddingsV5Model"),
    keys=(*COMMON, NOT_CAUSAL, ROPE_SCALING_NONE, pooling),
    layout=TensorLayout(p.TIED, (Group((*p.NORMS, *p.WIDE, *p.GATED)),), p.RMS),
    vocabulary=VocabRule(flags_before=(("bos", False),)),
    prefixes=(("model.", ""),),
)

ROWS = (EUROBERT,)
