"""Nemotron."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, head_width
from mbuild.convert.rows.keys import COMMON, F32, TEXT, U32, VOCAB_SIZE, computed, f32
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import NORM_PLUS_ONE
from mbuild.convert.vocabulary.rules import (
    Reader,
    VocabRule,
)

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _rotary_width(hp: Hyper) -> int:
    return int(hp.rope_number("partial_rotary_factor", 0.5) * hp.width) // hp.heads


def _factor(hp: Hyper) -> float | None:
    if hp.config.get("factor"):
        return hp.number("factor")
    return None if hp.rope.get("factor") is None else hp.rope_number("factor")


_LAYOUT = TensorLayout(
    (*p.UNTIED, *p.OUTPUT_NORM_BIAS),
    (Group((*p.BIASED, *p.OUTPUT_BIAS, *p.FFN_NORM, *p.FFN_NORM_BIAS, *p.PLAIN, *p.PLAIN_BIAS)),),
    p.EPS,
)

NEMOTRON = Family(
    gguf="nemotron",
    names=("NemotronForCausalLM",),
    vocabulary=VocabRule((Reader.SENTENCEPIECE,), ids_after=(("pad", 0), ("unk", 1))),
    layout=_LAYOUT,
    keys=(
        *COMMON,
        VOCAB_SIZE,
        f32(
            "attention.layer_norm_epsilon",
            "layer_norm_eps",
            "layer_norm_epsilon",
            "norm_epsilon",
            "norm_eps",
            required=True,
        ),
        computed("rope.dimension_count", U32, _rotary_width),
        computed("rope.scaling.type", TEXT, lambda hp: "none" if _factor(hp) is None else "linear"),
        computed("rope.scaling.factor", F32, _factor),
    ),
    hf=HFConfig(
        "nemotron",
        untied=True,
        values={"max_position_embeddings": 4096, "norm_eps": 1e-5, "vocab_size": 256000},
        fills={"head_dim": head_width},
        partial=0.5,
    ),
    rules=(NORM_PLUS_ONE,),
)

ROWS = (NEMOTRON,)
