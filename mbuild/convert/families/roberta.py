"""RoBERTa."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.bert import BERT, TAIL, VALUES
from mbuild.convert.rows.keys import (
    COMMON,
    U32,
    computed,
    replaced,
)
from mbuild.convert.rows.rules import each
from mbuild.convert.vocabulary.rules import (
    Reader,
    VocabRule,
)
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper


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
    vocabulary=VocabRule((Reader.BPE, Reader.WORDPIECE), segments=True),
    keys=(*replaced(COMMON, computed("context_length", U32, _positions)), *TAIL),
    hf=replace(
        BERT.hf, model_type="roberta", values={**VALUES, "vocab_size": 50265, "pad_token_id": 1}
    ),
    prefixes=(("roberta.", ""), ("bert.", "")),
    rules=(
        each(r"^embeddings\.position_embeddings\.weight$", _real_positions),
        *BERT.rules,
    ),
)

ROWS = (ROBERTA,)
