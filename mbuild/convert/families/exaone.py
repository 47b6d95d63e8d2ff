"""EXAONE 3 and 4."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import BOOL, COMMON, U32, VOCAB_SIZE, computed, sliding_pattern, u32
from mbuild.convert.rows.layout import Group, Layout
from mbuild.convert.rows.rope import llama3_factors
from mbuild.convert.rows.row import Family

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _rotary_width(hp: Hyper) -> int:
    share = hp.rope.get("partial_rotary_factor")
    factor = 1.0 if share is None else hp.rope_number("partial_rotary_factor")
    return int(factor * (hp.width // hp.heads))


EXAONE = Family(
    gguf="exaone",
    names=("ExaoneForCausalLM",),
    layout=replace(p.DENSE, model=(*p.USUAL, *p.ROPE_FREQS)),
    keys=(*COMMON, computed("rope.dimension_count", U32, _rotary_width)),
    extra=llama3_factors,
)


def _window_pattern(hp: Hyper) -> list[bool] | None:
    if hp.value("sliding_window") is None:
        return None
    if "layer_types" in hp.config:
        return sliding_pattern(hp)
    pattern = hp.value("sliding_window_pattern")
    if isinstance(pattern, str) and pattern:  # such as LLLG
        return [pattern[layer % len(pattern)] == "L" for layer in range(hp.blocks)]
    if type(pattern) is int and pattern > 0:
        return [(layer + 1) % pattern != 0 for layer in range(hp.blocks)]
    return None


EXAONE4 = Family(
    gguf="exaone4",
    names=("Exaone4ForCausalLM",),
    layout=Layout(
        (*p.USUAL, *p.ROPE_FREQS),
        (Group((*p.separate(out="width"), *p.POST_NORMS, *p.QK_NORM, *p.GATED)),),
        p.RMS,
    ),
    keys=(
        *COMMON,
        VOCAB_SIZE,
        u32("attention.sliding_window", "sliding_window"),
        computed("attention.sliding_window_pattern", BOOL, _window_pattern),
    ),
    hf=HFConfig(
        "exaone4",
        untied=True,
        values={
            "max_position_embeddings": 2048,
            "num_key_value_heads": 32,
            "rms_norm_eps": 1e-5,
            "sliding_window": 4096,
            "sliding_window_pattern": 4,
            "vocab_size": 102400,
        },
    ),
    extra=llama3_factors,
)

ROWS = (EXAONE, EXAONE4)
