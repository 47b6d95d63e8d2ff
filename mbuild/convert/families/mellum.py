"""Mellum 2: Qwen 3's layers with experts, some with a sliding window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.qwen import QWEN3_MOE
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import BOOL, COMMON, U32, computed, sliding_pattern, u32
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _window(hp: Hyper) -> int | None:
    used = hp.flag("use_sliding_window", default=True)
    return hp.optional_integer("sliding_window") if used else None


def _pattern(hp: Hyper) -> list[bool] | None:
    return None if _window(hp) is None else sliding_pattern(hp)


MELLUM = replace(
    QWEN3_MOE,
    gguf="mellum",
    names=("MellumForCausalLM",),
    keys=(
        *COMMON,
        u32("expert_feed_forward_length", "moe_intermediate_size"),
        computed("attention.sliding_window", U32, _window),
        computed("attention.sliding_window_pattern", BOOL, _pattern),
    ),
    layout=replace(QWEN3_MOE.layout, model=p.UNTIED, keys=(*p.RMS, "expert_feed_forward_length")),
    hf=NO_HF_CONFIG,
    rules=(),
)

ROWS = (MELLUM,)
