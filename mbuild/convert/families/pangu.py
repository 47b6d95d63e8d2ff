"""Pangu Embedded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.deepseek import tied_head
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON, ROPE_HEAD_DIM, U32, VOCAB_SIZE, computed
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.row import Family
from mbuild.convert.vocabulary.rules import SPM_PREFIX

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _head(hp: Hyper) -> int:
    return hp.head_dim


PANGU = Family(
    gguf="pangu-embedded",
    names=("PanguEmbeddedForCausalLM",),
    vocabulary=SPM_PREFIX,
    keys=(
        *COMMON,
        VOCAB_SIZE,
        ROPE_HEAD_DIM,
        computed("attention.key_length", U32, _head),
        computed("attention.value_length", U32, _head),
    ),
    layout=TensorLayout(
        (*p.USUAL, *p.ROPE_FREQS, *p.ROPE_FACTORS),
        (Group((*p.NORMS, *p.separate(), *p.required(p.OUTPUT_BIAS), *p.GATED)),),
        p.RMS,
    ),
    skip=(tied_head,),
)

ROWS = (PANGU,)
