"""Step 3.5 and 3.7: heads and RoPE that differ by layer, gates for each head."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import INCOMPLETE, as_integer, as_number, main_layers
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    KEY_LENGTH,
    U32,
    Key,
    clamps,
    computed,
    f32,
    replaced,
    rope_bases,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, ahead, slots
from mbuild.convert.rows.recurrent import squeezed
from mbuild.convert.rows.rope import llama3_share
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import each, plus_one
from mbuild.core.errors import FormatError
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named
    from mbuild.convert.rows.sizes import Sizes
    from mbuild.gguf.model import KV


def _kinds(hp: Hyper) -> list[bool]:
    """Which layers have a window; those that config.json says nothing of have none."""
    given = hp.value("layer_types") or []
    if not isinstance(given, list):
        raise FormatError("config.json: layer_types is not a list")
    kinds = [kind == "sliding_attention" for kind in given[: hp.blocks]]
    return [*kinds, *[False] * (hp.blocks - len(kinds))]


def _by_kind(name: str) -> Callable[[Hyper], list[int]]:
    def compute(hp: Hyper) -> list[int]:
        full, others = hp.integer(name, low=1), hp.value("attention_other_setting")
        other = others.get(name, full) if isinstance(others, dict) else full
        return [as_integer(other, name, 1) if kind else full for kind in _kinds(hp)]

    return compute


def _with_bases(hp: Hyper) -> Hyper:
    """A base for each layer: the first two are those of the two kinds."""
    bases = hp.value("rope_theta")
    if not isinstance(bases, list) or len(bases) < 2:
        return hp
    sliding = {"rope_theta": bases[1]}
    return replace(hp, rope={**hp.rope, "rope_theta": bases[0], "sliding_attention": sliding})


def _bases(hp: Hyper) -> Iterator[KV]:
    yield from rope_bases(_with_bases(hp))


def _factors(hp: Hyper, tensors: Mapping[str, Any]) -> Iterator[Named]:
    kinds, shares = hp.value("layer_types") or [], hp.value("partial_rotary_factors") or []
    if not isinstance(kinds, list) or not isinstance(shares, list):
        raise FormatError("config.json: layer_types or partial_rotary_factors is not a list")
    pairs = zip(kinds[: hp.blocks], shares, strict=False)
    full = next((share for kind, share in pairs if kind == "full_attention"), None)
    if full is None and str(hp.full_rope.get("rope_type")).lower() == "llama3":
        raise FormatError(
            "config.json: partial_rotary_factors has no number for a layer of full attention",
            hint=INCOMPLETE,
        )
    share = 1.0 if full is None else as_number(full, "partial_rotary_factors")
    yield from llama3_share(_with_bases(hp), share)


def _dense(hp: Hyper) -> int:
    numbers = str(hp.value("moe_layers_enum") or "")
    if not re.fullmatch(r"[\d, ]{0,4096}", numbers):
        raise FormatError("config.json: moe_layers_enum is not a list of numbers")
    return min((int(n) for n in re.findall(r"\d+", numbers)), default=0)


def _named(config: Mapping[str, Any], name: str) -> str:
    match = re.match(r"model\.layers\.(\d{1,6})\.", name)
    if match is not None and int(match[1]) >= main_layers(config):
        name = name.replace(".transformer.", ".").replace("shared_head.output", "shared_head.head")
    return f"{name}.bias" if name.endswith(".moe.router_bias") else name


def _sparse(sizes: Sizes, layer: int) -> bool:
    return p.following(sizes, layer) and not ahead(sizes, layer)


_EXPERTS = (
    *p.experts("expert_ff"),
    *p.shared_experts(),
    *slots("exp_probs_b.bias experts"),
)

STEP35 = Family(
    gguf="step35",
    names=("Step3p5ForCausalLM", "Step3p7ForConditionalGeneration"),
    keys=(
        *(
            _bases if rule is rope_bases else rule
            for rule in replaced(
                COMMON,
                computed("attention.head_count", U32, _by_kind("num_attention_heads")),
                f32("attention.layer_norm_rms_epsilon", "rms_norm_eps", default=1e-5),
            )
        ),
        computed("attention.head_count_kv", U32, _by_kind("num_attention_groups")),
        u32("attention.sliding_window", "sliding_window", required=True),
        computed("attention.sliding_window_pattern", BOOL, _kinds),
        replace(KEY_LENGTH, name="attention.value_length", required=True),
        u32("expert_count", "moe_num_experts", required=True),
        u32("expert_used_count", "moe_top_k", required=True),
        u32("expert_feed_forward_length", "moe_intermediate_size", required=True),
        u32("expert_shared_feed_forward_length", "share_expert_dim", required=True),
        f32("expert_weights_scale", "moe_router_scaling_factor"),
        Key("expert_weights_norm", BOOL, ("norm_expert_weight",)),
        computed("leading_dense_block_count", U32, _dense),
        u32("moe_every_n_layers", "moe_every_n_layer", default=1),
        clamps("swiglu_clamp_exp", "swiglu_limits"),
        clamps("swiglu_clamp_shexp", "swiglu_limits_shared"),
        computed("nextn_predict_layers", U32, lambda hp: hp.nextn or None),
    ),
    layout=TensorLayout(
        (*p.UNTIED, *p.ROPE_FREQS),
        (
            Group((*p.NORMS, *p.separate(), *p.QK_NORMS, *slots("?gate attn_gate width heads"))),
            Group(p.GATED, p.leading),
            Group(_EXPERTS, _sparse),
            Group(p.optional(p.GATED, "dense ahead"), ahead),
            Group(p.optional(_EXPERTS, "experts ahead"), ahead),
            p.NEXTN,
        ),
        (*p.RMS, "expert_feed_forward_length", "attention.sliding_window"),
    ),
    renamed=_named,
    rules=(
        each(r"norm\.weight$", plus_one),
        each(
            r"\.(self_attn\.g_proj|moe\.(gate|up|gate_proj|up_proj|down_proj))\.weight$", squeezed
        ),
    ),
    extra=_factors,
    nextn="num_nextn_predict_layers",
)

ROWS = (STEP35,)
