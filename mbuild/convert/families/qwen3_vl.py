"""Qwen3-VL (text), dense and with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.llama4 import JOINED_EXPERTS
from mbuild.convert.families.qwen import QWEN3, QWEN3_MOE
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import head_width
from mbuild.convert.rows.keys import U32, computed, constant
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.vocabulary.rules import CHATML, VocabRule
from mbuild.core.values import replace

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
    hf=replace(
        QWEN3.hf,
        model_type="qwen3_vl_text",
        values={**QWEN3.hf.values, "max_position_embeddings": 128000},
        theta=5000000.0,
    ),
)

QWEN3_VL_MOE = replace(
    QWEN3_MOE,
    gguf="qwen3vlmoe",
    names=("Qwen3VLMoeForConditionalGeneration",),
    keys=(*QWEN3_MOE.keys, _DEEP),
    layout=replace(QWEN3_MOE.layout, keys=QWEN3_VL.layout.keys),
    hf=replace(
        QWEN3_MOE.hf,
        model_type="qwen3_vl_moe_text",
        values={
            **QWEN3_MOE.hf.values,
            "max_position_embeddings": 128000,
            "num_key_value_heads": 16,
            "moe_intermediate_size": 1408,
            "num_experts_per_tok": 4,
            "num_local_experts": 60,
        },
        fills={**QWEN3_MOE.hf.fills, "head_dim": head_width},
        theta=5000000.0,
    ),
    rules=JOINED_EXPERTS,
)

_NO_DEEP = constant("n_deepstack_layers", U32, 0)
_CHAT_ENDS = VocabRule(both_ends="<|im_end|>")

QWEN3_OMNI = replace(
    QWEN3_VL_MOE,
    names=("Qwen3OmniMoeForConditionalGeneration",),
    keys=(*QWEN3_MOE.keys, _NO_DEEP),
    vocabulary=_CHAT_ENDS,
    hf=replace(QWEN3_MOE.hf, model_type="qwen3_omni_moe_text", theta=1000000.0),
    prefixes=(("thinker.", ""),),
    rules=(),
)

QWEN3_ASR = replace(
    QWEN3_VL,
    names=("Qwen3ASRForConditionalGeneration",),
    keys=(*QWEN3.keys, _NO_DEEP),
    vocabulary=replace(_CHAT_ENDS, template_instead=CHATML),
    hf=NO_HF_CONFIG,
    prefixes=(("thinker.", ""),),
)

ROWS = (QWEN3_VL, QWEN3_VL_MOE, QWEN3_OMNI, QWEN3_ASR)
