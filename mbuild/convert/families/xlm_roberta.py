"""XLM-RoBERTa, and CamemBERT, which is one by its config."""

from __future__ import annotations

from mbuild.convert.families.bert import BERT, VALUES
from mbuild.convert.families.roberta import ROBERTA
from mbuild.convert.vocabulary.rules import (
    XLM_ROBERTA_VOCABULARY,
)
from mbuild.core.values import replace

XLM_ROBERTA = replace(
    ROBERTA,
    names=("XLMRobertaModel", "XLMRobertaForSequenceClassification"),
    vocabulary=XLM_ROBERTA_VOCABULARY,
    hf=replace(BERT.hf, model_type="xlm-roberta", values={**VALUES, "pad_token_id": 1}),
)

CAMEMBERT = replace(
    BERT, names=("CamembertModel",), hf=replace(XLM_ROBERTA.hf, model_type="camembert")
)

ROWS = (XLM_ROBERTA, CAMEMBERT)
