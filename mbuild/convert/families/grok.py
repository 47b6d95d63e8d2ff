"""Grok 1 and 2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig
from mbuild.convert.rows.keys import COMMON, F32, TEXT, U32, computed, f32, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import MIXTRAL_EXPERTS
from mbuild.convert.vocabulary.rules import SPM_OR_BPE
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.keys import Key
    from mbuild.gguf.types import ValueType


def _yarn(key: str, type_: ValueType, name: str) -> Key:
    """What stands at the root of config.json; "original" means YaRN there."""
    return computed(
        f"rope.scaling.{key}",
        type_,
        lambda hp: hp.value(name) if hp.value("rope_type") in ("yarn", "original") else None,
    )


def _output(hp: Hyper) -> float:
    return hp.number("attn_output_multiplier", default=hp.head_dim**-0.5)


def _kind(hp: Hyper) -> str | None:
    return "yarn" if hp.value("rope_type") in ("yarn", "original") else None


GROK = Family(
    gguf="grok",
    names=("GrokForCausalLM", "Grok1ForCausalLM"),
    vocabulary=SPM_OR_BPE,
    keys=(
        *COMMON,
        f32("attn_logit_softcapping", "attn_logit_softcapping", default=30.0),
        f32("router_logit_softcapping", "router_logit_softcapping", default=30.0),
        f32("final_logit_softcapping", "final_logit_softcapping", truthy=True),
        u32("expert_feed_forward_length", "moe_intermediate_size"),
        computed("rope.scaling.type", TEXT, _kind),
        _yarn("factor", F32, "scaling_factor"),
        _yarn("original_context_length", U32, "original_max_position_embeddings"),
        _yarn("yarn_ext_factor", F32, "extrapolation_factor"),
        _yarn("yarn_attn_factor", F32, "attn_factor"),
        _yarn("yarn_beta_fast", F32, "beta_fast"),
        _yarn("yarn_beta_slow", F32, "beta_slow"),
        u32("attention.temperature_length", "attn_temperature_len"),
        computed("attention.output_scale", F32, _output),
        f32("embedding_scale", "embedding_multiplier_scale", required=True),
        f32("logit_scale", "output_multiplier_scale", required=True),
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group((*p.NORMS, *p.WIDE, *slots("attn_output_norm width"))),
            Group(p.experts("routed_ff")),
            Group(
                slots("""
                    ?dense ffn_gate width ff
                    ?dense ffn_up width ff
                    ?dense ffn_down ff width
                    ?last layer_output_norm width
                    ?post post_ffw_norm width
                """)
            ),
        ),
        p.RMS,
    ),
    # The model_type of Grok 2 is that of an image captioner, whose defaults come with it.
    hf=HFConfig(
        "git",
        values={"layer_norm_eps": 1e-12, "max_position_embeddings": 1024, "vocab_size": 30522},
        theta=None,
    ),
    stacks=(
        replace(
            MIXTRAL_EXPERTS,
            pattern=regex(
                r"decoder_layer\.(?P<layer>\d+)\.moe\.(?P<index>\d+)\."
                r"(?P<part>linear|linear_1|linear_v)\.weight$"
            ),
            parts=("linear", "linear_1", "linear_v"),
            into="transformer.decoder_layer.{layer}.moe.{part}.weight",
        ),
        MIXTRAL_EXPERTS,
    ),
)

ROWS = (GROK,)
