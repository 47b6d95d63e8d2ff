"""Mamba and Falcon Mamba."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import mamba as m
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BOOL, U32, computed, constant, file_type, u32
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.row import Family
from mbuild.convert.vocabulary.rules import Reader, VocabRule
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _inner(hp: Hyper) -> int:
    return hp.integer(
        "intermediate_size", "d_inner", default=2 * hp.integer("hidden_size", "d_model")
    )


def _rank(hp: Hyper) -> int:
    default = -(hp.integer("hidden_size", "d_model") // -16)
    return hp.integer("time_step_rank", "dt_rank", default=default)


_KEYS = m.alone(
    u32("ssm.conv_kernel", "conv_kernel", "d_conv", low=1, default=4),
    computed("ssm.inner_size", U32, _inner),
    u32("ssm.state_size", "state_size", "d_state", low=1, default=16),
    computed("ssm.time_step_rank", U32, _rank),
)

MAMBA = Family(
    gguf="mamba",
    names=("MambaForCausalLM", "MambaLMHeadModel"),
    vocabulary=VocabRule(
        (Reader.BPE, Reader.SENTENCEPIECE), multiple=8, multiple_name="pad_vocab_size_multiple"
    ),
    keys=(*_KEYS, constant("ssm.dt_b_c_rms", BOOL, False), file_type),
    layout=TensorLayout(p.USUAL, (Group((*p.ATTN_NORM, *m.MAMBA)),), p.RMS),
    rules=m.MAMBA_RULES,
    padded=True,
    same_head="backbone.embeddings.weight",
)

FALCON_MAMBA = replace(
    MAMBA,
    names=("FalconMambaForCausalLM",),
    keys=(
        *_KEYS,
        computed("ssm.dt_b_c_rms", BOOL, lambda hp: hp.value("model_type") == "falcon_mamba"),
        file_type,
    ),
)

ROWS = (MAMBA, FALCON_MAMBA)
