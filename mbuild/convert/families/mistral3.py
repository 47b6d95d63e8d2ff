"""Mistral Small 3.1 and Ministral 3 (text)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families.llama import LLAMA
from mbuild.convert.families.mistral4 import MISTRAL4
from mbuild.convert.rows.keys import F32, computed
from mbuild.convert.rows.row import NO_HF_CONFIG, Family
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.rows.hyper import Hyper


def _by_type(config: Mapping[str, Any]) -> Family:
    """Three models share one class name; config.json's model_type of the text tells them apart."""
    kinds = {"ministral3": MINISTRAL3, "mistral4": MISTRAL4}
    return kinds.get(str(config.get("model_type")), MISTRAL3)


def _log_multiplier(hp: Hyper) -> float:
    return hp.rope_number("mscale_all_dim")


def _temperature(hp: Hyper) -> float:
    return hp.rope_number("llama_4_scaling_beta")


MISTRAL3 = replace(
    LLAMA,
    gguf="mistral3",
    names=("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"),
    layout=replace(LLAMA.layout, one_head=False),
    hf=NO_HF_CONFIG,
    variant=_by_type,
)

MINISTRAL3 = replace(
    MISTRAL3,
    names=(),
    keys=(
        *MISTRAL3.keys,
        computed("rope.scaling.yarn_log_multiplier", F32, _log_multiplier),
        computed("attention.temperature_scale", F32, _temperature),
    ),
    variant=None,
)

ROWS = (MISTRAL3, MINISTRAL3)
