"""Ling 3 (Bailing V3): delta attention, latent attention at intervals, experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.deepseek import LATENT_AT_KV, absorbed
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.keys import (
    BOOL,
    COMMON,
    NEXTN,
    U32,
    VOCAB_SIZE,
    Key,
    clamps,
    computed,
    entry,
    f32,
    replaced,
    u32,
)
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.names import placed
from mbuild.convert.rows.recurrent import KDA, four_dims, positive_exp
from mbuild.convert.rows.row import TOWERS, Family
from mbuild.convert.rows.rules import EXPERTS, Rule, each, parts
from mbuild.core.errors import UnsupportedError
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper, missing
    from mbuild.convert.rows.keys import KeyRule
    from mbuild.convert.rows.rules import Named
    from mbuild.gguf.model import KV

_ONLY = (
    ("no_kda_lora", True),
    ("kda_safe_gate", True),
    ("gated_attention_proj_granularity_type", "head_wise"),
)


def _kv_heads(hp: Hyper) -> list[int]:
    """One for layers with latent attention: the last of each group, and those behind the groups."""
    for name, value in _ONLY:
        if hp.value(name) != value:
            found = str(hp.value(name))[:40]
            raise UnsupportedError(f"config.json: {name} is {found}; llama.cpp has only {value}")
    size = hp.integer("layer_group_size", low=1)
    whole = hp.main // size * size
    return [int((layer + 1) % size == 0 or layer >= whole) for layer in range(hp.blocks)]


def _sum(*names: str) -> Any:
    return lambda hp: sum(hp.integer(name, low=1) for name in names)


def _gate(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """A gate for each head beside latent attention, one for each value beside the other."""
    layer = int(name.split(".")[2])
    full = layer < hp.blocks and _kv_heads(hp)[layer]
    return [(f"blk.{layer}.{'attn_gate' if full else 'ssm_g_a'}.weight", lazy)]


def _named(config: Mapping[str, Any], name: str) -> str:
    return _PLACES(config, f"{name}.bias" if name.endswith(".expert_bias") else name)


_PLACES = placed(
    {
        **{f"attention.{part}_proj": f"attn_{part}" for part in "qkv"},
        **{f"attention.{part}_conv1d": f"ssm_conv1d_{part}" for part in "qkv"},
        "attention.o_proj": "attn_output",
        "attention.dense": "attn_output",
        "attention.f_proj": "ssm_f_a",
        "attention.b_proj": "ssm_beta",
        "attention.A_log": "ssm_a.",
        "attention.dt_bias": "ssm_dt.bias.",
        "attention.o_norm": "ssm_norm",
        "attention.q_a_proj": "attn_q_a",
        "attention.q_a_layernorm": "attn_q_a_norm",
        "attention.q_b_proj": "attn_q_b",
        "attention.kv_a_proj_with_mqa": "attn_kv_a_mqa",
        "attention.kv_a_layernorm": "attn_kv_a_norm",
        "mlp.gate.expert_bias": "exp_probs_b",
        "final_layernorm": "layer_output_norm",
    }
)

_KEYS: tuple[KeyRule, ...] = (
    *replaced(COMMON, computed("attention.head_count_kv", U32, _kv_heads)),
    VOCAB_SIZE,
    u32("ssm.conv_kernel", "short_conv_kernel_size", low=1, required=True),
    u32("kda.head_dim", "head_dim", low=1, required=True),
    Key("kda.safe_gate", BOOL, ("kda_safe_gate",)),
    f32("kda.gate_lower_bound", "kda_lower_bound", required=True),
    u32("attention.q_lora_rank", "q_lora_rank"),
    u32("attention.kv_lora_rank", "kv_lora_rank", low=1, required=True),
    u32("rope.dimension_count", "qk_rope_head_dim", low=1, required=True),
    computed("attention.key_length", U32, _sum("kv_lora_rank", "qk_rope_head_dim")),
    computed("attention.key_length_mla", U32, _sum("qk_nope_head_dim", "qk_rope_head_dim")),
    u32("attention.value_length_mla", "v_head_dim", low=1, required=True),
    u32("expert_feed_forward_length", "moe_intermediate_size", required=True),
    u32("expert_shared_feed_forward_length", "moe_shared_expert_intermediate_size", required=True),
    u32("expert_shared_count", "num_shared_experts", default=1),
    u32("leading_dense_block_count", "first_k_dense_replace", required=True),
    f32("expert_weights_scale", "routed_scaling_factor", required=True),
    Key("expert_weights_norm", BOOL, ("norm_topk_prob",), required=True),
    clamps("swiglu_clamp_exp", "expert_swiglu_limit_list"),
    clamps("swiglu_clamp_shexp", "share_expert_swiglu_limit_list"),
    replace(NEXTN, truthy=True),
)


BAILING_MOE_V3 = Family(
    gguf="bailingmoe3",
    names=("BailingMoeV3ForCausalLM",),
    keys=_KEYS,
    layout=TensorLayout(
        p.USUAL,
        (
            Group(p.FFN_NORM),
            Group(
                (
                    *p.ATTN_NORM,
                    *KDA,
                    *slots("""
                        ssm_f_a width kda*heads
                        ssm_a. 1 heads
                        ssm_g_a width kda*heads
                    """),
                ),
                p.none("kv"),
            ),
            *LATENT_AT_KV,
            Group(p.GATED, p.leading),
            Group(
                (
                    *p.experts("expert_ff"),
                    *p.shared_experts(),
                    *slots("exp_probs_b.bias experts"),
                ),
                p.following,
            ),
            Group(slots("attn_gate width heads"), p.some("kv")),
            replace(p.NEXTN, slots=(*p.NEXTN.slots[:3], *slots("layer_output_norm width"))),
        ),
        (*p.RMS, "ssm.conv_kernel", "attention.kv_lora_rank", "kda.gate_lower_bound"),
    ),
    renamed=_named,
    rules=(
        each(r"ssm_conv1d_[qkv]\.weight$", four_dims),
        each(r"\.ssm_a$", lambda hp, lazy: positive_exp(hp, lazy).reshape(lazy.size, 1)),
        Rule(regex(r"attention\.g_proj\.weight$"), _gate),
        parts(
            r"attention\.kv_b_proj\.weight$",
            "attention.kv_b_proj",
            ("self_attn.k_b_proj", "self_attn.v_b_proj"),
            lambda hp, lazy: absorbed(hp, lazy, hp.heads),
        ),
    ),
    stacks=(EXPERTS,),
    nextn="num_nextn_predict_layers",
)


def _sections(hp: Hyper) -> Iterator[KV]:
    sections = hp.value("mrope_section")
    if not isinstance(sections, list):
        raise missing("mrope_section")
    yield entry(f"{hp.arch}.rope.dimension_sections", U32, [*sections[:3], 0], "mrope_section")


BAILING_MOE_V3_VL = replace(
    BAILING_MOE_V3,
    names=("BailingMoeV3VLForConditionalGeneration",),
    keys=(*_KEYS, _sections),
    towers=regex(rf"^linear_proj|{TOWERS.pattern}"),
)

ROWS = (BAILING_MOE_V3, BAILING_MOE_V3_VL)
