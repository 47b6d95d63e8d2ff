"""Hunyuan, dense."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mbuild.convert.families.deepseek import tied_head
from mbuild.convert.families.qwen import QWEN3
from mbuild.convert.rows.hyper import HFConfig, heads
from mbuild.convert.rows.keys import COMMON, F32, TEXT, U32, entry, without
from mbuild.convert.rows.row import NO_HF_CONFIG, Family
from mbuild.convert.vocabulary.rules import VocabRule
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.gguf.model import KV

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mbuild.convert.rows.hyper import Hyper

_CONTEXT = 262144


def _stretched(hp: Hyper) -> Iterator[KV]:
    """Dynamic RoPE: its alpha raises the base, for a context of 256k whatever config.json says."""
    kind = hp.rope.get("rope_type")
    if kind != "dynamic":
        return
    base, longest = hp.rope_number("rope_theta", 10000.0), hp.integer("max_position_embeddings")
    if base != 10000.0 or longest not in (32768, _CONTEXT):
        raise UnsupportedError(
            f"config.json: dynamic RoPE with the base {base:g} and {longest} positions is not"
            " supported",
            hint="supported: a rope_theta of 10000, and 32768 or 262144 positions",
        )
    width = hp.integer("head_dim", low=3)
    alpha = hp.rope_number("alpha", 50)
    if not 0 < alpha < 1e6:
        raise FormatError(
            f"config.json: the alpha of rope_parameters is {alpha:g}, not between 0 and 1e6"
        )
    yield KV(f"{hp.arch}.rope.freq_base", F32, base * alpha ** (width / (width - 2)))
    yield KV(f"{hp.arch}.rope.scaling.type", TEXT, "none")
    yield KV(f"{hp.arch}.rope.scaling.factor", F32, 1.0)
    yield KV(f"{hp.arch}.rope.scaling.original_context_length", U32, _CONTEXT)
    yield KV(f"{hp.arch}.context_length", U32, _CONTEXT)


HUNYUAN_DENSE = Family(
    gguf="hunyuan-dense",
    names=("HunYuanDenseV1ForCausalLM",),
    keys=(*without(COMMON, "expert_count"), _stretched),
    layout=QWEN3.layout,
    vocabulary=VocabRule(eos_name="eod_token_id", eot_first=True),
    hf=HFConfig(
        "hunyuan_v1_dense",
        values={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "vocab_size": 290943},
        fills={"num_key_value_heads": heads},
        untied=True,
    ),
    skip=(tied_head,),
)


def _by_axes(hp: Hyper) -> Iterator[KV]:
    """RoPE of several axes, which names what it multiplies the base by."""
    yield from _stretched(hp)
    if hp.rope.get("rope_type") != "xdrope":
        return
    scaling, longest = f"{hp.arch}.rope.scaling", hp.integer("max_position_embeddings")
    yield KV(f"{hp.arch}.rope.freq_base", F32, hp.rope_number("rope_theta"))
    yield KV(f"{scaling}.type", TEXT, "none")
    yield KV(f"{scaling}.factor", F32, hp.rope_number("factor", 1.0))
    yield KV(f"{scaling}.alpha", F32, hp.rope_number("alpha"))
    yield KV(f"{scaling}.original_context_length", U32, longest)
    yield KV(f"{hp.arch}.context_length", U32, longest)
    sections = hp.rope.get("xdrope_section")
    yield entry(f"{hp.arch}.rope.dimension_sections", U32, sections, "xdrope_section")


HUNYUAN_VL = replace(
    HUNYUAN_DENSE,
    gguf="hunyuan_vl",
    names=("HunYuanVLForConditionalGeneration",),
    keys=(*without(COMMON, "expert_count"), _by_axes),
    hf=NO_HF_CONFIG,
)

ROWS = (HUNYUAN_DENSE, HUNYUAN_VL)
