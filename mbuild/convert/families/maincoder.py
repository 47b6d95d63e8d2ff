"""Maincoder."""

from __future__ import annotations

from mbuild.convert.families.qwen import QWEN3
from mbuild.convert.rows.keys import COMMON, u32
from mbuild.convert.rows.row import Family

MAINCODER = Family(
    gguf="maincoder",
    names=("MaincoderForCausalLM",),
    keys=(*COMMON, u32("rope.dimension_count", "head_dim", low=1)),
    layout=QWEN3.layout,
)

ROWS = (MAINCODER,)
