"""Qwen 1."""

from __future__ import annotations

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON, f32, replaced
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.vocabulary.rules import BPE

QWEN_1 = Family(
    gguf="qwen",
    names=("QWenLMHeadModel",),
    vocabulary=BPE,
    keys=replaced(
        COMMON,
        # llama.cpp's converter writes the other epsilon alone, and its loader needs this one.
        f32(
            "attention.layer_norm_rms_epsilon", "rms_norm_eps", "layer_norm_epsilon", required=True
        ),
    ),
    layout=TensorLayout(
        p.UNTIED,
        (
            Group((*p.NORMS, *p.required(p.fused()))),
            Group(slots("ffn_gate width ff/2\nffn_up width ff/2\nffn_down ff/2 width")),
        ),
        p.RMS,
    ),
)

ROWS = (QWEN_1,)
