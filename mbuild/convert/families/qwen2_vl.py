"""Qwen2-VL and Qwen2.5-VL (text): Qwen2 with RoPE of several axes."""

from __future__ import annotations

from dataclasses import replace

from mbuild.convert.families.qwen import QWEN2
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON

QWEN2_VL = replace(
    QWEN2,
    gguf="qwen2vl",
    names=(
        *("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"),
        *("Qwen2VLModel", "Qwen2_5OmniModel"),
    ),
    prefixes=(("thinker.", ""),),
    keys=COMMON,
    layout=replace(QWEN2.layout, keys=(*p.RMS, "rope.dimension_sections")),
    hf=replace(QWEN2.hf, model_type="qwen2_vl_text", theta=1000000.0),
)


ROWS = (QWEN2_VL,)
