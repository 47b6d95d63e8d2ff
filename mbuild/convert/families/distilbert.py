"""DistilBERT."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.bert import BERT, TAIL
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import (
    COMMON,
    F32,
    constant,
)
from mbuild.convert.vocabulary.rules import (
    Reader,
    VocabRule,
)
from mbuild.core.values import replace

if TYPE_CHECKING:
    pass


DISTILBERT = replace(
    BERT,
    names=(
        "DistilBertModel",
        "DistilBertForMaskedLM",
        "DistilBertForSequenceClassification",
    ),
    vocabulary=VocabRule((Reader.WORDPIECE,), default_segments=1),
    keys=(constant("attention.layer_norm_epsilon", F32, 1e-12), *COMMON, *TAIL),
    hf=HFConfig(
        "distilbert",
        aliases={
            "hidden_size": "dim",
            "num_attention_heads": "n_heads",
            "num_hidden_layers": "n_layers",
        },
        values={"max_position_embeddings": 512, "vocab_size": 30522, "pad_token_id": 0},
        theta=None,
    ),
    prefixes=(("distilbert.", ""), ("bert.", "")),
    skip=(r"^vocab_", *BERT.skip),
)

ROWS = (DISTILBERT,)
