"""BERT, of which most embedding models are made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    TEXT,
    computed,
    constant,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.pooling import pooling
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import Rule
from mbuild.convert.vocabulary.rules import (
    WORDPIECE,
)
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex

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
        raise FormatError("config.json: id2label is not an object whose keys are numbers")
    labels = [label for _, label in sorted(given.items(), key=lambda item: int(item[0]))]
    return None if len(labels) == 2 and given.get("0") == "LABEL_0" else labels


def _classifier(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """The projection to labels, where there are labels."""
    return [(name.replace("classifier.", "classifier.out_proj.") if _labels(hp) else name, lazy)]


TAIL = (
    constant("attention.causal", BOOL, False),
    pooling,
    computed("classifier.output_labels", TEXT, _labels),
)
VALUES = {
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "vocab_size": 30522,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}

BERT_MODEL = slots("""
    token_embd width tokens
    ? token_types width types F32
    token_embd_norm width
    token_embd_norm.bias width
""")
_NORMS = slots("""
    attn_output_norm width
    attn_output_norm.bias width
    layer_output_norm width
    layer_output_norm.bias width
""")
BERT_LAYER = (*p.EITHER, Group((*p.OUTPUT_BIAS, *_NORMS)))

_LAYOUT = TensorLayout(
    (
        *BERT_MODEL,
        *p.POSITIONS,
        *slots("""
            ?cls cls width width
            ?cls cls.bias width
            ?cls.output cls.output width labels
            ?cls.output cls.output.bias labels
        """),
    ),
    (*BERT_LAYER, Group((*p.PLAIN, *p.PLAIN_BIAS))),
    p.EPS,
)

BERT = Family(
    gguf="bert",
    names=("BertModel", "BertForMaskedLM", "BertForSequenceClassification"),
    vocabulary=WORDPIECE,
    layout=_LAYOUT,
    keys=(*COMMON, *TAIL),
    hf=HFConfig("bert", values=VALUES, theta=None),
    prefixes=(("bert.", ""),),
    replaced=((".gamma", ".weight"), (".beta", ".bias")),
    skip=(
        r"^embeddings\.position_ids$",
        r"^pooler\.dense\.(weight|bias)$",
        r"^cls\.(predictions|seq_relationship)",
    ),
    rules=(Rule(regex(r"^classifier\.(weight|bias)$"), _classifier),),
)

ROWS = (BERT,)
