"""Granite, dense and with experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.llama import LLAMA
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, heads
from mbuild.convert.rows.keys import (
    COMMON,
    U32,
    VOCAB_SIZE,
    Key,
    computed,
    f32,
    without,
)
from mbuild.convert.rows.layout import Group
from mbuild.convert.rows.row import TOWERS
from mbuild.convert.rows.rules import ROTARY, Rule, halves
from mbuild.core.patterns import regex
from mbuild.core.values import replace

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named

GRANITE_VALUES = {
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "vocab_size": 32000,
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
}

SHARED = Group(
    p.shared_experts(),
    lambda sizes, layer: p.some("experts")(sizes, layer) and p.some("shared_ff")(sizes, layer),
)

GRANITE = replace(
    LLAMA,
    gguf="granite",
    names=(
        *("GraniteForCausalLM", "GraniteSpeechForConditionalGeneration"),
        "GraniteSpeechPlusForConditionalGeneration",
    ),
    layout=replace(
        LLAMA.layout,
        one_head=False,
        layers=(*LLAMA.layout.layers, SHARED),
        keys=(*p.RMS, "logit_scale"),
    ),
    towers=regex(TOWERS.pattern + r"|^encoder\.|image_|layerwise_projectors|spatial_projectors"),
    hf=HFConfig(
        "granite", untied=True, values=GRANITE_VALUES, fills={"num_key_value_heads": heads}
    ),
    # Granite's heads have no width of their own: a head_dim in the config is not looked at.
    keys=(
        *without(COMMON, "attention.key_length", "attention.value_length"),
        VOCAB_SIZE,
        computed("rope.dimension_count", U32, lambda hp: hp.width // hp.heads),
        f32("attention.scale", "attention_multiplier", truthy=True),
        f32("embedding_scale", "embedding_multiplier", truthy=True),
        f32("residual_scale", "residual_multiplier", truthy=True),
        f32("logit_scale", "logits_scaling", truthy=True),
    ),
)


def _gate_up(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """A fused gate and up projection, of the experts or shared by all (then a dense layer's
    where there are no experts)."""
    layer = name.split(".")[2]
    dense = not hp.optional_integer("num_local_experts")
    tail = "_exps" if "block_sparse_moe" in name else "" if dense else "_shexp"
    gate, up = halves(-2)(hp, lazy)
    return [
        (f"blk.{layer}.ffn_gate{tail}.weight", gate),
        (f"blk.{layer}.ffn_up{tail}.weight", up),
    ]


def _shared_down(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    dense = not hp.optional_integer("num_local_experts")
    return [(f"blk.{name.split('.')[2]}.ffn_down.weight" if dense else name, lazy)]


GRANITE_MOE = replace(
    GRANITE,
    gguf="granitemoe",
    names=("GraniteMoeForCausalLM",),
    silu=False,
    hf=HFConfig(
        "granitemoe",
        untied=True,
        values={**GRANITE_VALUES, "num_local_experts": 8, "num_experts_per_tok": 2},
        fills={"num_key_value_heads": heads},
    ),
    keys=(
        *GRANITE.keys,
        Key("expert_shared_feed_forward_length", U32, ("shared_intermediate_size",), truthy=True),
    ),
    rules=(
        Rule(regex(r"^model\.layers\.\d+\.\w+\.input_linear\.weight$"), _gate_up),
        Rule(regex(r"^model\.layers\.\d+\.shared_mlp\.output_linear\.weight$"), _shared_down),
        *ROTARY,
    ),
)

GRANITE_MOE_SHARED = replace(
    GRANITE_MOE,
    names=("GraniteMoeSharedForCausalLM",),
    hf=replace(
        GRANITE_MOE.hf,
        model_type="granitemoeshared",
        values={**GRANITE_MOE.hf.values, "shared_intermediate_size": 0},
    ),
)

ROWS = (GRANITE, GRANITE_MOE, GRANITE_MOE_SHARED)
