"""Gemma 1, 2 and 3 (text), and EmbeddingGemma."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.read.files import TOKENIZER_LIMIT
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import (
    BLOCK_COUNT,
    COMMON,
    F32,
    U32,
    Key,
    computed,
    f32,
    file_type,
    replaced,
    u32,
)
from mbuild.convert.rows.layout import Group
from mbuild.convert.rows.pooling import pooling
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import NORM_PLUS_ONE, each
from mbuild.convert.vocabulary.rules import (
    Prefix,
    Reader,
    VocabRule,
)
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper

_KEYS = (
    u32("context_length", "max_position_embeddings", low=1, required=True),
    u32("embedding_length", "hidden_size", low=1, required=True),
    BLOCK_COUNT,
    u32("feed_forward_length", "intermediate_size", low=1, required=True),
    u32("attention.head_count", "num_attention_heads", low=1, required=True),
    Key("attention.head_count_kv", U32, compute=lambda hp: hp.kv_heads),
    f32("attention.layer_norm_rms_epsilon", "rms_norm_eps", required=True),
    u32("attention.key_length", "head_dim", low=1, required=True),
    u32("attention.value_length", "head_dim", low=1, required=True),
    file_type,
)

_VALUES = {
    "max_position_embeddings": 8192,
    "head_dim": 256,
    "rms_norm_eps": 1e-6,
    "vocab_size": 256000,
    "tie_word_embeddings": True,
}

_NORMS = Group((*p.NORMS, *p.POST_NORMS))

_VOCABULARY = VocabRule(
    (Reader.SENTENCEPIECE,),
    Prefix.FALSE_LAST,
    second_pass={
        0: (("prefix", 67), ("suffix", 69), ("middle", 68), ("fsep", 70), ("eot", 107)),
    },
)

GEMMA = Family(
    gguf="gemma",
    names=("GemmaForCausalLM",),
    vocabulary=_VOCABULARY,
    layout=replace(p.DENSE, model=p.TIED),
    keys=_KEYS,
    hf=HFConfig("gemma", values={**_VALUES, "num_key_value_heads": 16}),
    rules=(NORM_PLUS_ONE,),
    skip=(r"^lm_head\.weight$",),
)

GEMMA2 = Family(
    gguf="gemma2",
    names=("Gemma2ForCausalLM",),
    vocabulary=replace(_VOCABULARY, second_pass={}),
    layout=replace(p.DENSE, model=p.TIED, layers=(_NORMS, Group((*p.separate(), *p.GATED)))),
    keys=(
        *_KEYS,
        f32("attn_logit_softcapping", "attn_logit_softcapping", required=True),
        f32("final_logit_softcapping", "final_logit_softcapping", required=True),
        u32("attention.sliding_window", "sliding_window", required=True),
    ),
    hf=HFConfig(
        "gemma2",
        values={
            **_VALUES,
            "num_key_value_heads": 4,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "sliding_window": 4096,
        },
    ),
    rules=(NORM_PLUS_ONE,),
    skip=(r"^lm_head\.weight$",),
)


def _sliding_window(hp: Hyper) -> int | None:
    if hp.config.get("attn_logit_softcapping") is not None:
        raise UnsupportedError("config.json: Gemma 3 with attn_logit_softcapping is not supported")
    if hp.value("sliding_window_pattern") == 1:
        return None
    return hp.integer("sliding_window")


def _real_rows(hp: Hyper, lazy: Lazy) -> Lazy:
    """The embedding without the rows beyond the tokenizer's tokens."""
    rows = lazy.shape[0]
    if "tokenizer.model" in hp.files:
        rows = hp.integer("vocab_size_per_layer_input", "vocab_size", default=rows)
    elif "tokenizer.json" in hp.files:
        tokenizer = hp.files.json_object("tokenizer.json", TOKENIZER_LIMIT) or {}
        model, added = tokenizer.get("model"), tokenizer.get("added_tokens")
        if not isinstance(model, dict) or not isinstance(added, list):
            raise FormatError("tokenizer.json has no model or no added_tokens")
        rows = len(model.get("vocab") or ()) + len(added)
    return lazy.slice(0, 0, rows) if rows < lazy.shape[0] else lazy


_GEMMA3_HF = HFConfig(
    "gemma3_text",
    values={
        "max_position_embeddings": 131072,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "rms_norm_eps": 1e-6,
        "vocab_size": 262208,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
    theta=1e6,
    sliding_theta=10000.0,
)

GEMMA3 = Family(
    gguf="gemma3",
    names=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    vocabulary=replace(_VOCABULARY, readers=(Reader.SENTENCEPIECE, Reader.BPE), second_pass={}),
    padded=True,
    layout=replace(p.DENSE, layers=(_NORMS, Group((*p.separate(), *p.QK_NORM, *p.GATED)))),
    keys=(
        *replaced(
            COMMON,
            u32("context_length", "max_position_embeddings", default=131072, low=1),
            u32("attention.head_count", "num_attention_heads", default=8, low=1),
            u32("attention.head_count_kv", "num_key_value_heads", default=4, low=1),
            f32("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-6),
            u32("attention.key_length", "head_dim", default=256, low=1),
            u32("attention.value_length", "head_dim", default=256, low=1),
        ),
        computed("rope.freq_base", F32, lambda hp: hp.rope_number("rope_theta", 1e6)),
        f32("final_logit_softcapping", "final_logit_softcapping", truthy=True),
        computed("attention.sliding_window", U32, _sliding_window),
    ),
    hf=_GEMMA3_HF,
    rules=(each(r"embed_tokens\.weight$", _real_rows), NORM_PLUS_ONE),
)

EMBEDDING_GEMMA = replace(
    GEMMA3,
    gguf="gemma-embedding",
    names=("Gemma3TextModel",),
    keys=(*GEMMA3.keys, pooling),
)

ROWS = (GEMMA, GEMMA2, GEMMA3, EMBEDDING_GEMMA)
