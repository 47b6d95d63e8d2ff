"""GLM-4 (0414)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import COMMON, U32, computed
from mbuild.convert.rows.row import Architecture

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _rotary_width(hp: Hyper) -> int:
    return int(hp.head_dim * hp.rope_number("partial_rotary_factor", 0.5))


GLM4 = Architecture(
    gguf="glm4",
    names=("Glm4ForCausalLM",),
    keys=(*COMMON, computed("rope.dimension_count", U32, _rotary_width)),
    hf=HFConfig(
        "glm4",
        values={
            "max_position_embeddings": 131072,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "rms_norm_eps": 1.5625e-7,
            "vocab_size": 151552,
        },
        partial=0.5,
    ),
)
