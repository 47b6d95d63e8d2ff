"""Qwen 3.5 and 3.6, dense and with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.qwen import FUSED_EXPERTS
from mbuild.convert.families.qwen3_next import ATTENTION, EXPERTS, NORMS, QWEN3_NEXT
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import U32, computed
from mbuild.convert.rows.layout import Group, slots
from mbuild.convert.rows.recurrent import DELTA_NET, TILED_DELTA_NET_RULES
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _sections(hp: Hyper) -> list[int] | None:
    return None if "mrope_section" in hp.rope else [11, 11, 10, 0]


QWEN3_5 = replace(
    QWEN3_NEXT,
    gguf="qwen35",
    names=("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"),
    keys=(*QWEN3_NEXT.keys, computed("rope.dimension_sections", U32, _sections)),
    layout=replace(
        QWEN3_NEXT.layout,
        layers=(
            Group((*NORMS, *p.GATED)),
            Group(ATTENTION, p.none("recurrent")),
            Group(
                (*DELTA_NET, *slots("ssm_alpha width time\nssm_beta width time")),
                p.some("recurrent"),
            ),
            p.NEXTN,
        ),
        keys=(*p.RMS, "rope.dimension_sections"),
    ),
    hf=NO_HF_CONFIG,
    rules=(*TILED_DELTA_NET_RULES, *FUSED_EXPERTS),
    nextn="mtp_num_hidden_layers",
)

QWEN3_5_MOE = replace(
    QWEN3_5,
    gguf="qwen35moe",
    names=("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"),
    layout=replace(QWEN3_5.layout, layers=(Group((*NORMS, *EXPERTS)), *QWEN3_5.layout.layers[1:])),
)

MINICPM_V4_6 = replace(
    QWEN3_5,
    names=("MiniCPMV4_6ForConditionalGeneration",),
    renamed=None,
    skip=(r"^mtp", r"^model\.merger\."),
)
"""Its layer for multi-token prediction counts, and is left out."""

ROWS = (QWEN3_5, QWEN3_5_MOE, MINICPM_V4_6)
