"""Mistral 4 (text): DeepSeek's latent attention, experts as one tensor each way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families.deepseek import DEEPSEEK_V2, LATENT, tied_head
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping


def _with_ending(config: Mapping[str, Any], name: str) -> str:
    return f"{name}.weight" if name.endswith((".down_proj", ".gate_up_proj")) else name


MISTRAL4 = replace(
    DEEPSEEK_V2,
    gguf="mistral4",
    names=(),
    layout=TensorLayout(
        p.USUAL,
        (
            *LATENT,
            Group(p.GATED, p.leading),
            Group(
                slots("""
                    ffn_gate_inp width experts F32
                    ffn_gate_up_exps width 2*expert_ff experts
                    ffn_down_exps expert_ff width experts
                    ? exp_probs_b.bias experts
                """),
                p.following,
            ),
            Group(p.shared_experts("expert_ff*shared"), p.following),
        ),
        p.RMS,
    ),
    hf=NO_HF_CONFIG,
    skip=(tied_head,),
    renamed=_with_ending,
    stacks=(),
)

ROWS = (MISTRAL4,)
