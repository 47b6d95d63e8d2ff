"""GPT-OSS: experts in bf16, or in the MXFP4 blocks that are published."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.read.mxfp4 import repacked
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, heads
from mbuild.convert.rows.keys import COMMON, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import Rule, rename, transposed
from mbuild.core.errors import FormatError
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mbuild.convert.read.lazy import Lazy, Packed
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named

_HALVES = ("gate_proj", "up_proj")
_SCALES = regex(r"mlp\.experts\.(down_proj|gate_up_proj)_scales$")


def _packed_experts(hp: Hyper, tensors: Mapping[str, Lazy]) -> Iterator[tuple[str, Packed]]:
    """MXFP4 experts: gate and up are the even and the odd rows of one tensor."""
    for name, scales in tensors.items():
        match = _SCALES.search(name)
        if match is None:
            continue
        blocks = tensors.get(name.removesuffix("_scales") + "_blocks")
        if blocks is None:
            raise FormatError(
                f"{scales.origin} of {scales.dtype} {list(scales.shape)} has no matching blocks"
            )
        base = name.removesuffix(match[0])
        if match[1] == "down_proj":
            yield f"{base}mlp.experts.down_proj.weight", repacked(blocks, scales)
            continue
        for part, *rows in zip(_HALVES, blocks.every(1, 2), scales.every(1, 2), strict=True):
            yield f"{base}mlp.experts.{part}.weight", repacked(*rows)


def _gate_up(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """Gate and up are the even and the odd columns of one matrix or bias."""
    if name.endswith("_bias"):
        suffix, source = ".bias", lazy
        axis = len(lazy.shape) - 1
    else:
        lazy.need_dims(3)
        suffix, source, axis = ".weight", transposed(hp, lazy), 1
    base = name[: name.index("gate_up_proj")]
    return [
        (f"{base}{part}{suffix}", half)
        for part, half in zip(_HALVES, source.every(axis, 2), strict=True)
    ]


_LAYOUT = TensorLayout(
    p.UNTIED,
    (
        Group(
            (
                *p.ATTN_NORM,
                *slots("post_attention_norm width\nattn_sinks heads"),
                *p.required(p.separate()),
                *slots("attn_output.bias width"),
                *p.experts("expert_ff"),
                *slots("""
                    ffn_gate_inp.bias experts
                    ffn_gate_exps.bias expert_ff experts
                    ffn_up_exps.bias expert_ff experts
                    ffn_down_exps.bias width experts
                """),
            )
        ),
    ),
    (*p.RMS, "attention.sliding_window"),
)

GPT_OSS = Family(
    gguf="gpt-oss",
    names=("GptOssForCausalLM",),
    layout=_LAYOUT,
    keys=(
        *COMMON,
        u32("attention.sliding_window", "sliding_window", required=True),
        u32("expert_feed_forward_length", "intermediate_size", required=True),
    ),
    hf=HFConfig(
        "gpt_oss",
        aliases={"num_experts": "num_local_experts"},
        values={
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "num_local_experts": 128,
            "num_experts_per_tok": 4,
            "rms_norm_eps": 1e-5,
            "sliding_window": 128,
            "vocab_size": 201088,
        },
        fills={"num_key_value_heads": heads},
        theta=150000.0,
        rope={
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
    ),
    skip=(r"_(blocks|scales)$",),
    extra=_packed_experts,
    rules=(
        rename(r"sinks$", "sinks", "sinks.weight"),
        rename(r"down_proj_bias$", "down_proj_bias", "down_proj.bias"),
        rename(r"experts\.down_proj$", "down_proj", "down_proj.weight", transposed),
        Rule(regex(r"gate_up_proj(_bias)?$"), _gate_up),
    ),
)

ROWS = (GPT_OSS,)
