"""Llama as an embedding model, which looks both ways."""

from __future__ import annotations

from mbuild.convert.families.llama import LLAMA
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.core.values import replace

LLAMA_EMBED = replace(
    LLAMA,
    gguf="llama-embed",
    names=("LlamaBidirectionalModel",),
    hf=NO_HF_CONFIG,
)

ROWS = (LLAMA_EMBED,)
