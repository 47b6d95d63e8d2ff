"""Nomic's embedding models, dense (v1) and with experts (v2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families.bert import BERT, BERT_LAYER, BERT_MODEL
from mbuild.convert.read.files import TOKENIZER_LIMIT
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import U32, Key, computed, replaced, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.rules import each, experts, rename, transposed
from mbuild.convert.vocabulary.rules import Reader, VocabRule
from mbuild.core.errors import UnsupportedError
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.row import Family

_TRAINED = {8192: 2048, 2048: 512}
"""Positions in the config and how many of them the model was trained for."""


def _positions(hp: Hyper) -> int:
    found = hp.integer("n_positions", "max_position_embeddings")
    if hp.value("n_positions") is None:
        return found
    if hp.integer("max_trained_positions", default=2048) != 2048 or found not in _TRAINED:
        raise UnsupportedError(f"config.json: n_positions {found} is not one of {[*_TRAINED]}")
    if "max_position_embeddings" not in hp.config:
        return _TRAINED[found]
    # With XLM-RoBERTa's tokenizer llama.cpp takes off the padding, as for that family.
    tokenizer = hp.files.json_object("tokenizer.json", TOKENIZER_LIMIT) or {}
    model = tokenizer.get("model")
    unigram = isinstance(model, dict) and model.get("type") == "Unigram"
    pad = hp.optional_integer("pad_token_id") if unigram else None
    return hp.integer("max_position_embeddings") - (0 if pad is None else pad + 1)


def _by_experts(config: Mapping[str, Any]) -> Family:
    return NOMIC_BERT_MOE if config.get("moe_every_n_layers") else NOMIC_BERT


def _experts(hp: Hyper, lazy: Lazy) -> Lazy:
    inner = hp.integer("n_inner", "intermediate_size", low=1)
    return lazy.reshape(experts(hp), inner, hp.width)


def _experts_down(hp: Hyper, lazy: Lazy) -> Lazy:
    return transposed(hp, _experts(hp, lazy))


_LAYOUT = TensorLayout(BERT_MODEL, (*BERT_LAYER, Group((*p.GATED, *p.PLAIN_BIAS))), p.EPS)
_MOE_LAYOUT = TensorLayout(
    BERT_MODEL,
    (
        *BERT_LAYER,
        Group((*p.PLAIN, *p.PLAIN_BIAS), p.not_alternate),
        Group(
            slots("""
                ffn_gate_inp width experts F32
                ffn_up_exps width ff experts
                ffn_down_exps ff width experts
            """),
            p.alternate,
        ),
    ),
    p.EPS,
)

NOMIC_BERT = replace(
    BERT,
    gguf="nomic-bert",
    variant=_by_experts,
    names=("NomicBertModel",),
    vocabulary=VocabRule((Reader.WORDPIECE, Reader.XLM_ROBERTA), mask_at=250001),
    layout=_LAYOUT,
    hf=HFConfig(
        "nomic_bert",
        aliases={
            "n_embd": "hidden_size",
            "n_head": "num_attention_heads",
            "n_layer": "num_hidden_layers",
            "n_inner": "intermediate_size",
            "layer_norm_epsilon": "layer_norm_eps",
            "rotary_emb_base": "rope_theta",
        },
        values={
            "layer_norm_eps": 1e-12,
            "vocab_size": 30528,
            "type_vocab_size": 2,
            "pad_token_id": 0,
        },
        theta=1000.0,
    ),
    keys=(
        *replaced(BERT.keys, computed("context_length", U32, _positions)),
        u32("moe_every_n_layers", "moe_every_n_layers"),
        Key("expert_used_count", U32, ("moe_top_k",)),
    ),
    skip=(r"mlp\.experts\.bias", *BERT.skip),
    rules=(
        rename(r"mlp\.experts\.mlp\.w1$", "w1", "w1.weight", _experts),
        rename(r"mlp\.experts\.mlp\.w2$", "w2", "w2.weight", _experts_down),
        each(r"mlp\.experts\.mlp\.w1\.weight$", _experts),
        *BERT.rules,
    ),
)

NOMIC_BERT_MOE = replace(
    NOMIC_BERT, gguf="nomic-bert-moe", names=(), layout=_MOE_LAYOUT, variant=None
)

ROWS = (NOMIC_BERT, NOMIC_BERT_MOE)
