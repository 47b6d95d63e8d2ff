"""Arcee's AFM."""

from __future__ import annotations

from mbuild.convert.families.llama import LLAMA, LLAMA_HF
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.core.values import replace

ARCEE = replace(
    LLAMA,
    gguf="arcee",
    names=("ArceeForCausalLM",),
    silu=False,
    layout=TensorLayout(
        (*p.USUAL, *p.ROPE_FREQS), (Group((*p.NORMS, *p.separate(), *p.PLAIN)),), p.RMS
    ),
    hf=replace(
        LLAMA_HF,
        model_type="arcee",
        values={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "vocab_size": 32000},
    ),
)

ROWS = (ARCEE,)
