"""MiniCPM (1 and 2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mbuild.convert.families.llama import LLAMA
from mbuild.convert.rows.keys import COMMON, F32, computed, f32
from mbuild.convert.rows.rope import long_factors
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import ROTARY_WEIGHTS
from mbuild.convert.vocabulary.rules import (
    SPM,
)
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named


def _residual_scale(hp: Hyper) -> float:
    return hp.number("scale_depth") / math.sqrt(hp.blocks)


def _logit_scale(hp: Hyper) -> float:
    return hp.width / hp.integer("dim_model_base", low=1)


def _factors(hp: Hyper, tensors: Mapping[str, Any]) -> Iterator[Named]:
    return long_factors(hp, hp.width // hp.heads)


MINICPM = Family(
    gguf="minicpm",
    names=("MiniCPMForCausalLM",),
    vocabulary=SPM,
    layout=replace(LLAMA.layout, one_head=False),
    keys=(
        *COMMON,
        f32("embedding_scale", "scale_emb", required=True),
        computed("residual_scale", F32, _residual_scale),
        computed("logit_scale", F32, _logit_scale),
    ),
    rules=ROTARY_WEIGHTS,
    extra=_factors,
)

ROWS = (MINICPM,)
