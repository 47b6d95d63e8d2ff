"""Hunyuan, dense."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mbuild.convert.families.deepseek import tied_head
from mbuild.convert.families.qwen import QWEN3
from mbuild.convert.rows import parts as p
from mbuild.convert.rows.hyper import HFConfig, as_integer, heads
from mbuild.convert.rows.keys import COMMON, F32, TEXT, U32, Key, computed, entry, u32, without
from mbuild.convert.rows.layout import Group, TensorLayout
from mbuild.convert.rows.row import NO_HF_CONFIG, Family
from mbuild.convert.rows.rules import EXPERTS
from mbuild.convert.vocabulary.rules import VocabRule
from mbuild.core.errors import FormatError, UnsupportedError
from mbuild.core.values import replace
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
    width = hp.head_dim
    alpha = hp.rope_number("alpha", 50 if hp.arch != "hunyuan-moe" else 1000)
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


def _of_all(key: str, name: str) -> Key:
    """A number that config.json has once for each layer, the same for all."""

    def compute(hp: Hyper) -> int:
        found = hp.value(name)
        if isinstance(found, list) and found and set(map(repr, found)) == {repr(found[0])}:
            return as_integer(found[0], name)
        raise UnsupportedError(
            f"config.json: {name} is not a list of equal numbers", hint="llama.cpp has one for all"
        )

    return computed(key, U32, compute)


def _far(hp: Hyper) -> Iterator[KV]:
    """Dynamic RoPE of the model with experts, whose heads are 128 wide and whose alpha is 1000."""
    if hp.rope.get("rope_type") == "dynamic":
        alpha, width = hp.rope_number("alpha", 1000.0), hp.width // hp.heads
        if alpha != 1000.0 or width != 128:
            raise UnsupportedError(
                f"config.json: dynamic RoPE with the alpha {alpha:g} and heads of {width} is not"
                " supported",
                hint="supported: an alpha of 1000 and heads of 128",
            )
    yield from _stretched(hp)


HUNYUAN_MOE = replace(
    HUNYUAN_DENSE,
    gguf="hunyuan-moe",
    names=("HunYuanMoEV1ForCausalLM",),
    keys=(
        *COMMON,
        u32("expert_shared_feed_forward_length", "intermediate_size", required=True),
        _of_all("expert_feed_forward_length", "moe_intermediate_size"),
        _of_all("expert_used_count", "moe_topk"),
        _of_all("expert_shared_count", "num_shared_expert"),
        _far,
    ),
    layout=TensorLayout(
        p.USUAL,
        (
            Group(
                (*p.NORMS, *p.separate(), *p.QK_NORM, *p.experts(), *p.shared_experts("shared_ff"))
            ),
        ),
        (*p.RMS, "expert_feed_forward_length"),
    ),
    vocabulary=VocabRule(ids_after=(("bos", 127959),)),
    hf=HFConfig(
        "hunyuan_v1_moe",
        values={
            **{"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "vocab_size": 290943},
            "num_experts": 1,
        },
        fills={"num_key_value_heads": heads},
        untied=True,
    ),
    stacks=(EXPERTS,),
)

ROWS = (HUNYUAN_DENSE, HUNYUAN_VL, HUNYUAN_MOE)
