"""Qwen2-VL and Qwen2.5-VL (text): Qwen2 with RoPE of several axes."""

from __future__ import annotations

from mbuild.convert.families.qwen import QWEN2
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import COMMON
from mbuild.core.values import replace

QWEN2_VL = replace(
    QWEN2,
    gguf="qwen2vl",
    names=(
        *("Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"),
        "Qwen2VLModel",
    ),
    keys=COMMON,
    layout=replace(QWEN2.layout, keys=(*p.RMS, "rope.dimension_sections")),
    hf=replace(QWEN2.hf, model_type="qwen2_vl_text", theta=1000000.0),
)


QWEN2_5_OMNI = replace(
    QWEN2_VL,
    names=("Qwen2_5OmniModel",),
    hf=replace(
        QWEN2_VL.hf,
        model_type="qwen2_5_omni_text",
        values={**QWEN2.hf.values, "num_key_value_heads": 4},
    ),
    prefixes=(("thinker.", ""),),
)

ROWS = (QWEN2_VL, QWEN2_5_OMNI)
