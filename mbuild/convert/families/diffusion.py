"""Models that fill in masked tokens instead of adding one after another: Dream, LLaDA, RND1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mbuild.convert.families.qwen import QWEN2, QWEN3_MOE
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    MASK_TOKEN,
    NOT_CAUSAL,
    U32,
    VOCAB_SIZE,
    computed,
    constant,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.pooling import pooling
from mbuild.convert.rows.row import NO_HF_CONFIG, Family
from mbuild.convert.rows.rules import ROTARY
from mbuild.convert.vocabulary.rules import BPE, SPM_OR_BPE, VocabRule
from mbuild.core.values import replace
from mbuild.gguf.model import KV

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _shift_logits(hp: Hyper) -> Iterator[KV]:
    yield KV("diffusion.shift_logits", BOOL, False)


def _rotary_width(hp: Hyper) -> int:
    return hp.integer("head_dim", default=hp.integer("hidden_size", "d_model") // hp.heads)


DREAM = replace(
    QWEN2,
    gguf="dream",
    names=("DreamModel",),
    keys=(*COMMON, pooling, NOT_CAUSAL, MASK_TOKEN),
    vocabulary=replace(SPM_OR_BPE, plain=True),
    hf=NO_HF_CONFIG,
    biased=False,
    silu=False,
)

LLADA = Family(
    gguf="llada",
    names=("LLaDAModelLM",),
    keys=(
        *COMMON,
        pooling,
        VOCAB_SIZE,
        computed("rope.dimension_count", U32, _rotary_width),
        u32("context_length", "max_sequence_length", default=4096, low=1),
        u32("embedding_length", "d_model", default=4096, low=1),
        u32("feed_forward_length", "mlp_hidden_size", default=12288, low=1),
        NOT_CAUSAL,
        _shift_logits,
    ),
    layout=TensorLayout(
        (*p.USUAL, *p.ROPE_FREQS),
        (Group((*p.NORMS, *p.separate(), *p.OUTPUT_BIAS, *p.GATED, *p.GATED_BIAS)),),
        p.RMS,
    ),
    vocabulary=VocabRule(flags_of_size={0: (("bos", True),)}, plain=True),
    rules=ROTARY,
)

RND1 = replace(
    QWEN3_MOE,
    gguf="rnd1",
    names=("RND1",),
    keys=(*QWEN3_MOE.keys, NOT_CAUSAL, MASK_TOKEN),
    vocabulary=BPE,
    hf=NO_HF_CONFIG,
    silu=False,
)

LLADA_MOE = replace(
    RND1,
    gguf="llada-moe",
    names=("LLaDAMoEModel", "LLaDAMoEModelLM"),
    keys=(
        *COMMON,
        u32("expert_feed_forward_length", "expert_intermediate_size"),
        constant("tokenizer.ggml.mask_token_id", U32, 156895),
        NOT_CAUSAL,
        _shift_logits,
    ),
    layout=replace(RND1.layout, model=p.UNTIED),
)

ROWS = (DREAM, LLADA, RND1, LLADA_MOE)
