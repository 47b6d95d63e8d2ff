"""Granite with sliding windows, dense and with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.granite import GRANITE
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BOOL, U32, Key, computed, sliding_pattern, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.rows.rules import rename
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _window_pattern(hp: Hyper) -> list[bool]:
    return sliding_pattern(hp) or [layer % 4 != 0 for layer in range(hp.blocks)]


def _turned(hp: Hyper) -> list[bool] | None:
    layers = hp.value("no_rope_layers")
    return [bool(layer) for layer in layers] if isinstance(layers, list) and layers else None


GRANITE_SWA = replace(
    GRANITE,
    gguf="granite_swa",
    names=("GraniteSWAForCausalLM",),
    keys=(
        *GRANITE.keys,
        u32("attention.sliding_window", "sliding_window", default=128),
        computed("attention.sliding_window_pattern", BOOL, _window_pattern),
        computed("attention.rope_pattern", BOOL, _turned),
    ),
    layout=TensorLayout(
        (*p.USUAL, *p.ROPE_FREQS),
        (
            Group((*p.NORMS, *p.separate(), *p.OUTPUT_BIAS, *slots("attn_sinks heads"))),
            Group((*p.GATED, *p.GATED_BIAS), p.none("experts")),
            Group(
                slots("""
                    ffn_gate_inp width experts F32
                    ffn_gate_up_exps width 2*ff experts
                    ffn_down_exps ff width experts
                """),
                p.some("experts"),
            ),
            Group(
                slots("ffn_up_shexp width 2*shared_ff\nffn_down_shexp shared_ff width"),
                p.some("shared_ff"),
            ),
        ),
        (*p.RMS, "logit_scale", "attention.sliding_window"),
    ),
    hf=NO_HF_CONFIG,
    rules=(*GRANITE.rules, rename(r"sinks$", "sinks", "sinks.weight")),
    silu=False,
)

GRANITE_MOE_SWA = replace(
    GRANITE_SWA,
    names=("GraniteMoeSWAForCausalLM",),
    keys=(
        *GRANITE_SWA.keys,
        Key("expert_shared_feed_forward_length", U32, ("shared_intermediate_size",), truthy=True),
    ),
)

ROWS = (GRANITE_SWA, GRANITE_MOE_SWA)
