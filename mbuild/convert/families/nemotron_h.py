"""Nemotron-H and Nemotron 3: each layer is one of state space, attention, and feed-forward."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mbuild.convert.families.granite import GRANITE
from mbuild.convert.families.granite_hybrid import TURNED
from mbuild.convert.rows import mamba as m
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, as_integer, main_layers
from mbuild.convert.rows.keys import BOOL, U32, computed, constant, f32, u32
from mbuild.convert.rows.layout import Group, TensorLayout, ahead, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import ROTARY, Stack, experts
from mbuild.convert.vocabulary.rules import VocabRule
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.keys import Key
    from mbuild.convert.rows.sizes import Sizes

_KINDS = {
    "M": "mamba",
    "*": "attention",
    "-": "mlp",
    "E": "moe",
    "linear_attention": "mamba",
    "full_attention": "attention",
}
"""Letters of the pattern and other names, and what they stand for."""


def _kinds(hp: Hyper) -> list[str]:
    pattern = hp.value("hybrid_override_pattern") or hp.value("layers_block_type")
    if not isinstance(pattern, str | list) or len(pattern) != hp.main:
        raise FormatError(
            "config.json: hybrid_override_pattern does not have one letter for each of"
            f" {hp.main} layers"
        )
    return [_KINDS.get(str(kind), str(kind)) for kind in pattern]


def _widths(kind: str, size: str) -> Key:
    """The feed-forward width of layers of that kind (and those ahead), 0 for all others."""

    def compute(hp: Hyper) -> list[int]:
        width = hp.integer(size, low=1)
        here = [width * (found == kind) for found in _kinds(hp)]
        return [*here, *[width] * hp.nextn]

    return computed("feed_forward_length", U32, compute)


def _kv_heads(hp: Hyper) -> list[int]:
    here = [hp.kv_heads * (kind == "attention") for kind in _kinds(hp)]
    return [*here, *[hp.kv_heads] * hp.nextn]


def _head(hp: Hyper) -> int:
    return hp.integer("head_dim", "attention_head_dim", low=1)


def _inner(hp: Hyper) -> int:
    return hp.integer("mamba_num_heads", low=1) * hp.integer("mamba_head_dim", low=1)


def _count(config: Mapping[str, Any]) -> Any:
    kinds = config.get("layers_block_type")
    return len(kinds) if isinstance(kinds, list) else config.get("num_hidden_layers")


def _variant(config: Mapping[str, Any]) -> Family:
    return NEMOTRON_H_MOE if "num_experts_per_tok" in config else NEMOTRON_H


def _recurrent(sizes: Sizes, layer: int) -> bool:
    return not sizes.value("kv", layer) and not sizes.value("ff", layer)


_SHARED = {
    "0.enorm.weight": "enorm.weight",
    "0.hnorm.weight": "hnorm.weight",
    "0.eh_proj.weight": "eh_proj.weight",
    "1.norm.weight": "post_attention_layernorm.weight",
    "1.final_layernorm.weight": "shared_head.norm.weight",
}
"""Two layers ahead, one with attention and one with experts, are one of llama.cpp's."""


def _one_ahead(config: Mapping[str, Any], name: str) -> str:
    match = re.match(r"mtp\.layers\.([01]\.(.+))$", name)
    if match is None or not config.get("num_nextn_predict_layers"):
        return name
    layer = main_layers({"num_hidden_layers": _count(config)})
    if match[1] in _SHARED:
        return f"model.layers.{layer}.{_SHARED[match[1]]}"
    return f"backbone.layers.{layer}.{match[2]}"


_ATTENTION = Group((*p.separate(out="heads*key"), *p.OUTPUT_BIAS), p.some("kv"))

NEMOTRON_H = replace(
    GRANITE,
    gguf="nemotron_h",
    names=("NemotronHForCausalLM",),
    keys=(
        *GRANITE.keys,
        u32("ssm.conv_kernel", "conv_kernel", low=1, required=True),
        u32("ssm.state_size", "ssm_state_size", low=1, required=True),
        computed("ssm.group_count", U32, m.groups),
        computed("ssm.inner_size", U32, _inner),
        u32("ssm.time_step_rank", "mamba_num_heads", low=1, required=True),
        TURNED,
        computed("attention.head_count_kv", U32, _kv_heads),
        constant("rope.scaling.finetuned", BOOL, False),
        constant("context_length", U32, m.LONGEST),
        computed("attention.key_length", U32, _head),
        computed("attention.value_length", U32, _head),
        _widths("mlp", "intermediate_size"),
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group(p.ATTN_NORM),
            Group(m.MAMBA2, _recurrent),
            _ATTENTION,
            Group((*p.PLAIN, *p.PLAIN_BIAS), p.some("ff")),
        ),
        p.RMS,
    ),
    vocabulary=VocabRule(multiple=8),
    hf=HFConfig("nemotron_h", forced={"num_hidden_layers": _count}, theta=None),
    prefixes=(("model.", "backbone."),),
    rules=(*m.MAMBA2_RULES, *ROTARY),
    padded=True,
    variant=_variant,
    silu=False,
)

NEMOTRON_H_MOE = replace(
    NEMOTRON_H,
    gguf="nemotron_h_moe",
    names=(),
    keys=(
        *NEMOTRON_H.keys[:-1],
        _widths("moe", "moe_intermediate_size"),
        u32("expert_feed_forward_length", "moe_intermediate_size", required=True),
        u32(
            "expert_shared_feed_forward_length",
            "moe_shared_expert_intermediate_size",
            required=True,
        ),
        u32("expert_count", "n_routed_experts", required=True),
        u32("expert_shared_count", "n_shared_experts", required=True),
        computed("expert_weights_norm", BOOL, lambda hp: hp.flag("norm_topk_prob")),
        f32("expert_weights_scale", "routed_scaling_factor", required=True),
        u32("expert_group_count", "n_group", required=True),
        u32("moe_latent_size", "moe_latent_size"),
        computed("nextn_predict_layers", U32, lambda hp: hp.nextn or None),
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group(p.ATTN_NORM),
            Group(m.MAMBA2, _recurrent),
            _ATTENTION,
            Group(
                slots("ffn_gate_inp width experts F32"),
                lambda sizes, layer: p.some("ff")(sizes, layer) and not ahead(sizes, layer),
            ),
            # llama.cpp's converter does not know this router for one.
            Group(slots("ffn_gate_inp width experts"), ahead),
            Group(
                slots("""
                    exp_probs_b.bias experts
                    ffn_down_exps expert_ff expert_width experts
                    ffn_up_exps expert_width expert_ff experts
                    ffn_down_shexp shared_ff width
                    ffn_up_shexp width shared_ff
                """),
                p.some("ff"),
            ),
            Group(
                slots("ffn_latent_down width latent\nffn_latent_up latent width"),
                lambda sizes, layer: bool(
                    sizes.value("ff", layer) and sizes.value("latent", layer)
                ),
            ),
            Group(slots("post_attention_norm width"), ahead),
            p.NEXTN,
        ),
        p.RMS,
    ),
    renamed=_one_ahead,
    stacks=(
        Stack(
            regex(
                r"layers\.(?P<layer>\d+)\.mixer\.experts\.(?P<index>\d+)\."
                r"(?P<part>down_proj|up_proj)\.weight$"
            ),
            ("down_proj", "up_proj"),
            "model.layers.{layer}.mlp.experts.{part}.weight",
            experts,
        ),
    ),
    nextn="num_nextn_predict_layers",
    variant=None,
)


def _blocks(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    blocks = config.get("block_configs")
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise FormatError("config.json: block_configs is not a list of objects")
    return blocks


def _of_blocks(key: str, name: str) -> Key:
    """A number for each layer, 0 in those that have none."""

    def compute(hp: Hyper) -> list[int]:
        return [as_integer(block.get(name) or 0, name) for block in _blocks(hp.config)]

    return computed(key, U32, compute)


PUZZLE = replace(
    NEMOTRON_H_MOE,
    names=("NemotronHPuzzleForCausalLM",),
    keys=(
        *NEMOTRON_H.keys[:-1],
        _of_blocks("feed_forward_length", "moe_intermediate_size"),
        _of_blocks("expert_feed_forward_length", "moe_intermediate_size"),
        _of_blocks("expert_used_count", "num_experts_per_tok"),
        *NEMOTRON_H_MOE.keys[len(NEMOTRON_H.keys) + 1 : -1],
    ),
    settled={
        "num_hidden_layers": lambda config: len(_blocks(config)),
        "layers_block_type": lambda config: [b.get("block_type") for b in _blocks(config)],
        "hybrid_override_pattern": lambda config: None,
    },
    skip=(r"^mtp\.", *NEMOTRON_H_MOE.skip),
    renamed=None,
    nextn="",
)
"""Each layer says how many experts it uses, and how wide they are."""

ROWS = (NEMOTRON_H, NEMOTRON_H_MOE, PUZZLE)
