"""Mamba 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import mamba as m
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import U32, computed, file_type, u32
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.row import Family
from mbuild.convert.vocabulary.rules import Reader, VocabRule

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _inner(hp: Hyper) -> int:
    expand = hp.integer("mamba_expand", "expand", default=2)
    return hp.integer(
        "mamba_d_ssm",
        "intermediate_size",
        "d_inner",
        default=expand * hp.integer("hidden_size", "d_model", "dim"),
    )


def _heads(hp: Hyper) -> int:
    return _inner(hp) // hp.integer("mamba_d_head", "head_dim", low=1, default=64)


MAMBA2 = Family(
    gguf="mamba2",
    names=("Mamba2ForCausalLM",),
    vocabulary=VocabRule(
        (Reader.SENTENCEPIECE, Reader.BPE), multiple=16, multiple_name="pad_vocab_size_multiple"
    ),
    keys=(
        *m.alone(
            u32("ssm.conv_kernel", "conv_kernel", "d_conv", low=1, default=4),
            computed("ssm.inner_size", U32, _inner),
            u32("ssm.state_size", "state_size", "d_state", low=1, default=128),
            computed("ssm.time_step_rank", U32, _heads),
            computed("ssm.group_count", U32, m.groups),
        ),
        file_type,
    ),
    layout=TensorLayout(p.USUAL, (Group((*p.ATTN_NORM, *p.required(m.MAMBA2))),), p.RMS),
    prefixes=(("model.backbone", "backbone"), ("model.lm_head", "lm_head")),
    rules=m.MAMBA2_RULES,
    padded=True,
)

ROWS = (MAMBA2,)
