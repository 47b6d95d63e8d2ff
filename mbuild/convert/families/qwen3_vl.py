"""Qwen3-VL (text), dense and with experts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mbuild.convert.families.llama4 import JOINED_EXPERTS
from mbuild.convert.families.qwen import QWEN3, QWEN3_MOE
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import U32, computed

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _deep_layers(hp: Hyper) -> int:
    """How many layers take something of the image as well."""
    vision = hp.value("vision_config")
    found = vision.get("deepstack_visual_indexes") if isinstance(vision, dict) else None
    return len(found) if isinstance(found, list) else 0


_DEEP = computed("n_deepstack_layers", U32, _deep_layers)

QWEN3_VL = replace(
    QWEN3,
    gguf="qwen3vl",
    names=("Qwen3VLForConditionalGeneration",),
    keys=(*QWEN3.keys, _DEEP),
    layout=replace(QWEN3.layout, keys=(*p.RMS, "rope.dimension_sections")),
    hf=replace(QWEN3.hf, model_type="qwen3_vl_text", theta=5000000.0),
)

QWEN3_VL_MOE = replace(
    QWEN3_MOE,
    gguf="qwen3vlmoe",
    names=("Qwen3VLMoeForConditionalGeneration",),
    keys=(*QWEN3_MOE.keys, _DEEP),
    layout=replace(QWEN3_MOE.layout, keys=QWEN3_VL.layout.keys),
    hf=replace(QWEN3_MOE.hf, model_type="qwen3_vl_moe_text", theta=5000000.0),
    rules=JOINED_EXPERTS,
)

ROWS = (QWEN3_VL, QWEN3_VL_MOE)
