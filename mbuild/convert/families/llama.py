"""Llama and the families that are Llama but for a flag: Mistral, Mixtral, Granite, SmolLM3, ..."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from mbuild.convert.families.xielu import xielu_keys
from mbuild.convert.rows.hyper import HFConfig, head_width, heads
from mbuild.convert.rows.keys import (
    COMMON,
    ROPE_HEAD_DIM,
    U32,
    VOCAB_SIZE,
    Key,
    KeyRule,
    computed,
    f32,
    without,
)
from mbuild.convert.rows.rope import llama3_factors
from mbuild.convert.rows.row import Architecture
from mbuild.convert.rows.rules import MIXTRAL_EXPERTS, ROTARY, Rule, halves

if TYPE_CHECKING:
    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named

LLAMA_KEYS: tuple[KeyRule, ...] = (*COMMON, VOCAB_SIZE, ROPE_HEAD_DIM)

LLAMA_HF = HFConfig(
    "llama",
    values={"max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "vocab_size": 32000},
    fills={"num_key_value_heads": heads, "head_dim": head_width},
)

LLAMA = Architecture(
    gguf="llama",
    names=("LlamaForCausalLM", "LLaMAForCausalLM", "IQuestCoderForCausalLM"),
    keys=LLAMA_KEYS,
    hf=LLAMA_HF,
    rules=ROTARY,
    extra=llama3_factors,
)

LLAMA_MODEL = replace(LLAMA, names=("LlamaModel",), prefixes=(("", "model."),))

MISTRAL = replace(
    LLAMA,
    names=("MistralForCausalLM",),
    hf=HFConfig(
        "mistral",
        values={
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "rms_norm_eps": 1e-6,
            "vocab_size": 32000,
        },
        fills={"num_key_value_heads": heads, "head_dim": head_width},
    ),
)

MIXTRAL = replace(
    LLAMA,
    names=("MixtralForCausalLM",),
    hf=HFConfig(
        "mixtral",
        aliases={"num_experts": "num_local_experts"},
        values={
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "num_experts_per_tok": 2,
            "num_local_experts": 8,
            "rms_norm_eps": 1e-5,
            "vocab_size": 32000,
        },
        fills={"num_key_value_heads": heads},
        theta=1e6,
    ),
    stacks=(MIXTRAL_EXPERTS,),
)

ARCEE = replace(
    LLAMA,
    gguf="arcee",
    names=("ArceeForCausalLM",),
    hf=replace(
        LLAMA_HF,
        model_type="arcee",
        values={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "vocab_size": 32000},
    ),
)

SMOLLM3 = replace(
    LLAMA,
    gguf="smollm3",
    names=("SmolLM3ForCausalLM",),
    hf=HFConfig(
        "smollm3",
        values={
            "max_position_embeddings": 32768,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6,
            "vocab_size": 128256,
        },
        fills={"num_key_value_heads": heads},
        theta=2e6,
    ),
)

APERTUS = replace(
    LLAMA,
    gguf="apertus",
    names=("ApertusForCausalLM",),
    hf=HFConfig(
        "apertus",
        values={"max_position_embeddings": 65536, "rms_norm_eps": 1e-5, "vocab_size": 131072},
        fills={"num_key_value_heads": heads},
        theta=12e6,
        rope={
            "rope_type": "llama3",
            "rope_theta": 12e6,
            "factor": 8.0,
            "original_max_position_embeddings": 8192,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    ),
    rules=(),
    skip=(r"\.act_fn\.(alpha_n|alpha_p|beta|eps)$",),
    early=xielu_keys,
)

GRANITE_VALUES = {
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "vocab_size": 32000,
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
}

GRANITE = replace(
    LLAMA,
    gguf="granite",
    names=("GraniteForCausalLM",),
    hf=HFConfig("granite", values=GRANITE_VALUES, fills={"num_key_value_heads": heads}),
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
    names=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    hf=HFConfig(
        "granitemoe",
        values={**GRANITE_VALUES, "num_local_experts": 8, "num_experts_per_tok": 2},
        fills={"num_key_value_heads": heads},
    ),
    keys=(
        *GRANITE.keys,
        Key("expert_shared_feed_forward_length", U32, ("shared_intermediate_size",), truthy=True),
    ),
    rules=(
        Rule(re.compile(r"^model\.layers\.\d+\.\w+\.input_linear\.weight$"), _gate_up),
        Rule(re.compile(r"^model\.layers\.\d+\.shared_mlp\.output_linear\.weight$"), _shared_down),
        *ROTARY,
    ),
)

GRANITE_MOE_SHARED_HF = replace(
    GRANITE_MOE.hf,
    model_type="granitemoeshared",
    values={**GRANITE_MOE.hf.values, "shared_intermediate_size": 0},
)
