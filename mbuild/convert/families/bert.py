"""Embedding models: BERT, DistilBERT, RoBERTa, XLM-RoBERTa."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    F32,
    TEXT,
    U32,
    computed,
    constant,
    replaced,
)
from mbuild.convert.rows.pooling import pooling
from mbuild.convert.rows.row import Architecture
from mbuild.convert.rows.rules import Rule, each
from mbuild.core.errors import FormatError

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named


def _labels(hp: Hyper) -> list[str] | None:
    """A classifier's labels by number, without the two that stand for none."""
    given = hp.value("id2label")
    if given is None:
        count = hp.integer("num_labels", default=2)
        if count > 100_000:
            raise FormatError(f"config.json: num_labels is {count}, more than 100000")
        given = {str(i): f"LABEL_{i}" for i in range(count)}
    if not isinstance(given, dict) or not all(key.isdecimal() for key in given):
        raise FormatError("config.json: id2label is not an object with numbers for names")
    labels = [label for _, label in sorted(given.items(), key=lambda item: int(item[0]))]
    return None if len(labels) == 2 and given.get("0") == "LABEL_0" else labels


def _classifier(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """The projection to labels, where there are labels."""
    return [(name.replace("classifier.", "classifier.out_proj.") if _labels(hp) else name, lazy)]


_TAIL = (
    constant("attention.causal", BOOL, False),
    pooling,
    computed("classifier.output_labels", TEXT, _labels),
)
_VALUES = {
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "vocab_size": 30522,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}

BERT = Architecture(
    gguf="bert",
    names=("BertModel", "BertForMaskedLM", "CamembertModel", "BertForSequenceClassification"),
    keys=(*COMMON, *_TAIL),
    hf=HFConfig("bert", values=_VALUES, theta=None),
    prefixes=(("bert.", ""),),
    replaced=((".gamma", ".weight"), (".beta", ".bias")),
    skip=(
        r"^embeddings\.position_ids$",
        r"^pooler\.dense\.(weight|bias)$",
        r"^cls\.(predictions|seq_relationship)",
    ),
    rules=(Rule(re.compile(r"^classifier\.(weight|bias)$"), _classifier),),
)

DISTILBERT = replace(
    BERT,
    names=(
        "DistilBertModel",
        "DistilBertForMaskedLM",
        "DistilBertForSequenceClassification",
    ),
    keys=(constant("attention.layer_norm_epsilon", F32, 1e-12), *COMMON, *_TAIL),
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


def _positions(hp: Hyper) -> int | None:
    pad = hp.optional_integer("pad_token_id")
    positions = hp.optional_integer("max_position_embeddings", low=1)
    return positions if pad is None or positions is None else positions - (pad + 1)


def _real_positions(hp: Hyper, lazy: Lazy) -> Lazy:
    pad = hp.optional_integer("pad_token_id")
    return lazy if pad is None else lazy.slice(0, pad + 1)


ROBERTA = replace(
    BERT,
    names=("RobertaModel", "RobertaForSequenceClassification"),
    keys=(*replaced(COMMON, computed("context_length", U32, _positions)), *_TAIL),
    hf=replace(
        BERT.hf, model_type="roberta", values={**_VALUES, "vocab_size": 50265, "pad_token_id": 1}
    ),
    prefixes=(("roberta.", ""), ("bert.", "")),
    rules=(
        each(r"^embeddings\.position_embeddings\.weight$", _real_positions),
        *BERT.rules,
    ),
)

XLM_ROBERTA = replace(
    ROBERTA,
    names=("XLMRobertaModel", "XLMRobertaForSequenceClassification"),
    hf=replace(BERT.hf, model_type="xlm-roberta", values={**_VALUES, "pad_token_id": 1}),
)

CAMEMBERT_HF = replace(XLM_ROBERTA.hf, model_type="camembert")
