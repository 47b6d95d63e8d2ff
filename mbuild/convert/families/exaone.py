"""EXAONE 3 and 4, and K-EXAONE with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    NEXTN,
    ROPE_SCALING_NONE,
    U32,
    VOCAB_SIZE,
    Key,
    computed,
    f32,
    sliding_pattern,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, ahead, slots
from mbuild.convert.rows.nextn import SHARED
from mbuild.convert.rows.rope import llama3_factors
from mbuild.convert.rows.row import NO_HF_CONFIG, Family
from mbuild.convert.rows.rules import EXPERTS, Rule
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named
    from mbuild.convert.rows.sizes import Sizes


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
        return [pattern[layer % len(pattern)] == "L" for layer in range(hp.main)]
    if type(pattern) is int and pattern > 0:
        return [(layer + 1) % pattern != 0 for layer in range(hp.main)]
    return None


EXAONE4 = Family(
    gguf="exaone4",
    names=("Exaone4ForCausalLM",),
    layout=TensorLayout(
        (*p.USUAL, *p.ROPE_FREQS),
        (Group((*p.separate(out="width"), *p.POST_NORMS, *p.QK_NORM, *p.GATED)), p.NEXTN),
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


def _ahead(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """A layer for multi-token prediction stands behind the others."""
    _, _, number, rest = name.split(".", 3)
    return [(f"model.layers.{hp.main + int(number)}.{rest}", lazy)]


def _shared(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    part = SHARED[name.split(".")[1]]
    return [(f"model.layers.{layer}.{part}.weight", lazy) for layer in range(hp.main, hp.blocks)]


def _shared_width(hp: Hyper) -> int:
    return hp.integer("moe_intermediate_size") * hp.integer("num_shared_experts")


def _dense(sizes: Sizes, layer: int) -> bool:
    return p.leading(sizes, layer) or ahead(sizes, layer)


def _with_experts(sizes: Sizes, layer: int) -> bool:
    return not _dense(sizes, layer)


EXAONE_MOE = replace(
    EXAONE4,
    gguf="exaone-moe",
    names=("ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM"),
    keys=(
        *EXAONE4.keys,
        u32("expert_feed_forward_length", "moe_intermediate_size", required=True),
        u32("expert_shared_count", "num_shared_experts", required=True),
        computed("expert_shared_feed_forward_length", U32, _shared_width),
        f32("expert_weights_scale", "routed_scaling_factor", required=True),
        Key("expert_weights_norm", BOOL, ("norm_topk_prob",), required=True),
        u32(
            "leading_dense_block_count",
            "first_k_dense_replace",
            "first_last_k_dense_replace",
            default=0,
        ),
        replace(NEXTN, default=0),
        ROPE_SCALING_NONE,
    ),
    layout=TensorLayout(
        (*p.UNTIED, *p.ROPE_FREQS),
        (
            Group((*p.NORMS, *p.separate(), *p.QK_NORM)),
            Group(p.GATED, _dense),
            Group(
                (
                    *p.experts("expert_ff"),
                    *p.shared_experts(),
                    *slots("? exp_probs_b.bias experts"),
                ),
                _with_experts,
            ),
            p.NEXTN,
        ),
        (
            *p.RMS,
            "attention.sliding_window",
            "expert_feed_forward_length",
            "expert_gating_func",
        ),
    ),
    hf=NO_HF_CONFIG,
    rules=(
        Rule(regex(r"^mtp\.layers\.\d{1,6}\."), _ahead),
        Rule(regex(rf"^mtp\.({'|'.join(SHARED)})\.weight$"), _shared),
    ),
    stacks=(EXPERTS,),
    nextn="num_nextn_predict_layers",
)


def _ahead_or_none(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """None where config.json has none of these layers; one for all where they share weights."""
    if not hp.nextn or not hp.flag("mtp_share_layers"):
        return _ahead(hp, name, lazy) if hp.nextn else []
    rest = name.split(".", 3)[3]
    return [(f"model.layers.{layer}.{rest}", lazy) for layer in range(hp.main, hp.blocks)]


EXAONE4_5 = replace(
    EXAONE4,
    names=("Exaone4_5_ForConditionalGeneration",),
    keys=(*EXAONE4.keys, replace(NEXTN, truthy=True)),
    hf=NO_HF_CONFIG,
    rules=(
        Rule(regex(r"^mtp\.layers\.\d{1,6}\."), _ahead_or_none),
        Rule(regex(rf"^mtp\.({'|'.join(SHARED)})\.weight$"), _shared),
    ),
    nextn="num_nextn_predict_layers",
)

ROWS = (EXAONE, EXAONE4, EXAONE_MOE, EXAONE4_5)
