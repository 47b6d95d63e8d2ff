"""GLM-5: DeepSeek V3.2 with GLM's vocabulary, and layers that share an indexer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.deepseek_v32 import DEEPSEEK_V32
from mbuild.convert.families.glm import GLM
from mbuild.convert.rows.keys import BOOL, U32, computed
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper


def _rotary(hp: Hyper) -> int:
    share = hp.rope_number("partial_rotary_factor", 1.0)
    return int(hp.integer("qk_rope_head_dim", low=1) * share)


def _own_indexer(hp: Hyper) -> list[bool] | None:
    kinds = hp.texts("indexer_types")
    return None if kinds is None else [kind == "full" for kind in kinds]


GLM_MOE_DSA = replace(
    DEEPSEEK_V32,
    gguf="glm-dsa",
    names=("GlmMoeDsaForCausalLM",),
    vocabulary=GLM,
    keys=(
        *DEEPSEEK_V32.keys,
        computed("rope.dimension_count", U32, _rotary),
        computed("attention.indexer.types", BOOL, _own_indexer),
    ),
)

ROWS = (GLM_MOE_DSA,)
