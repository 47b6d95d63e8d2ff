"""InternLM 2 and 3."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.llama import LLAMA, LLAMA_KEYS
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import ROTARY, parts, rotary
from mbuild.convert.vocabulary.rules import (
    Prefix,
    Reader,
    VocabRule,
)

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper


def _separate(hp: Hyper, lazy: Lazy) -> list[Lazy]:
    """wqkv has groups of (queries, key, value); the queries and keys are permuted for RoPE."""
    lazy.need_dims(2)
    groups, columns = hp.kv_heads, lazy.shape[1]
    per_group = hp.heads // groups
    head = hp.width // hp.heads
    grouped = lazy.reshape(groups, (per_group + 2) * head, columns)
    q, k, v = (
        part.reshape(part.size // max(columns, 1), columns)
        for part in grouped.split(1, (per_group * head, head, head))
    )
    return [rotary(q, hp.heads), rotary(k, groups), v]


INTERNLM2 = Family(
    gguf="internlm2",
    names=("InternLM2ForCausalLM",),
    head="output",
    vocabulary=VocabRule((Reader.INTERNLM2,), Prefix.MODEL_MIDDLE, eos_in_chat="<|im_end|>"),
    layout=TensorLayout(p.UNTIED, (Group((*p.NORMS, *p.WIDE, *p.GATED)),), p.RMS),
    keys=COMMON,
    rules=(parts(r"attention\.wqkv\.weight$", "wqkv", ("wq", "wk", "wv"), _separate),),
)

INTERNLM3 = Family(
    gguf="llama",
    names=("InternLM3ForCausalLM",),
    silu=True,
    vocabulary=VocabRule((Reader.SENTENCEPIECE,), Prefix.SETTINGS_MIDDLE, eos_in_chat="<|im_end|>"),
    layout=LLAMA.layout,
    keys=LLAMA_KEYS,
    rules=ROTARY,
)

ROWS = (INTERNLM2, INTERNLM3)
