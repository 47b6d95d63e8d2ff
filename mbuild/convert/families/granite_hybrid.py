"""Granite 4 and Bamba: state space layers between those with attention, or attention alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mbuild.convert.families.granite import GRANITE, GRANITE_MOE, SHARED
from mbuild.convert.rows import mamba as m
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import main_layers
from mbuild.convert.rows.keys import BOOL, U32, Key, computed, u32
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.row import NO_HF_CONFIG, Family
from mbuild.core.errors import FormatError
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.rows.hyper import Hyper


def _attention(config: Mapping[str, Any], layers: int) -> list[bool]:
    """Which layers have attention: from their kinds, their numbers, or a period and an offset."""
    kinds, chosen = config.get("layer_types"), config.get("attn_layer_indices")
    if isinstance(kinds, list) and kinds:
        return [kind == "attention" for kind in kinds]
    if isinstance(chosen, list) and chosen:
        return [layer in chosen for layer in range(layers)]
    period, offset = config.get("attn_layer_period"), config.get("attn_layer_offset")
    if type(period) is not int or type(offset) is not int or period < 1:
        raise FormatError(
            "config.json does not say which layers have attention: layer_types is missing"
        )
    return [layer % period == offset for layer in range(layers)]


def _kv_heads(hp: Hyper) -> list[int]:
    return [hp.kv_heads * there for there in _attention(hp.config, hp.blocks)]


def _rope(hp: Hyper) -> bool:
    return hp.hf_arch == "BambaForCausalLM" or all(_attention(hp.config, hp.blocks))


def _inner(hp: Hyper) -> int:
    return hp.integer("mamba_expand", "expand", low=1) * hp.width


def _variant(config: Mapping[str, Any]) -> Family:
    if not all(_attention(config, main_layers(config))):
        return GRANITE_HYBRID
    return ATTENTION_MOE if config.get("num_experts_per_tok") else ATTENTION


TURNED = Key("rope.dimension_count", U32, ("attn_rotary_emb",), truthy=True)
"""How much of a head turns, where a config says so apart."""

GRANITE_HYBRID = replace(
    GRANITE_MOE,
    gguf="granitehybrid",
    names=("GraniteMoeHybridForCausalLM", "BambaForCausalLM"),
    keys=(
        *GRANITE_MOE.keys,
        u32("ssm.conv_kernel", "mamba_d_conv", low=1, required=True),
        u32("ssm.state_size", "mamba_d_state", low=1, required=True),
        computed("ssm.group_count", U32, m.groups),
        computed("ssm.inner_size", U32, _inner),
        u32("ssm.time_step_rank", "mamba_n_heads", low=1, required=True),
        TURNED,
        computed("attention.head_count_kv", U32, _kv_heads),
        computed("rope.scaling.finetuned", BOOL, _rope),
        computed("context_length", U32, lambda hp: None if _rope(hp) else m.LONGEST),
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group(p.NORMS),
            Group((*p.separate(), *p.OUTPUT_BIAS), p.some("kv")),
            Group(m.MAMBA2, p.none("kv")),
            Group((*p.GATED, *p.GATED_BIAS), p.none("experts")),
            Group(p.experts(), p.some("experts")),
            SHARED,
        ),
        p.RMS,
    ),
    vocabulary=replace(GRANITE_MOE.vocabulary, multiple=8),
    hf=NO_HF_CONFIG,
    rules=(*m.MAMBA2_RULES, *GRANITE_MOE.rules),
    padded=True,
    variant=_variant,
)

ATTENTION = replace(
    GRANITE_HYBRID,
    gguf="granite",
    names=(),
    layout=GRANITE.layout,
    vocabulary=GRANITE.vocabulary,
    variant=None,
)
ATTENTION_MOE = replace(ATTENTION, gguf="granitemoe", layout=GRANITE_MOE.layout)

ROWS = (GRANITE_HYBRID, ATTENTION, ATTENTION_MOE)
