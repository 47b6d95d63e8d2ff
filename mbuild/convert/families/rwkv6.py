"""RWKV 6, and Qwen 2 with its layers in the place of attention."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mbuild.convert.rows import parts as p
from mbuild.convert.rows import rwkv
from mbuild.convert.rows.keys import KV_HEADS, RMS_EPS, U32, computed, u32
from mbuild.convert.rows.layout import Group, TensorLayout, slots
from mbuild.convert.rows.row import Family
from mbuild.convert.rows.rules import Rule, each, transposed
from mbuild.convert.vocabulary.rules import RWKV, SPM_OR_BPE
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Callable

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.rules import Named


def _kinds(hp: Hyper) -> str:
    return "wkvrg"


def _inner(hp: Hyper) -> int:
    return hp.integer("intermediate_size", default=int(hp.width * 3.5) // 32 * 32)


def _scaled(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """Halved once more every few layers, so that sums stay in the range of F16."""
    every, layer = hp.integer("rescale_every", default=0), int(re.findall(r"\.(\d+)\.", name)[0])
    by = 2 ** (layer // every) if every else 1
    return [(name, lazy.compute(lambda values: values / by))]


RWKV6 = Family(
    gguf="rwkv6",
    names=("Rwkv6ForCausalLM",),
    vocabulary=RWKV,
    keys=(
        *rwkv.keys(
            rwkv.EPSILON,
            u32("rescale_every_n_layers", "rescale_every", required=True),
            u32("wkv.head_size", "head_size", low=1, required=True),
            computed("time_mix_extra_dim", U32, lambda hp: 64 if hp.width == 4096 else 32),
            computed("time_decay_extra_dim", U32, lambda hp: 128 if hp.width == 4096 else 64),
            computed("feed_forward_length", U32, _inner),
        ),
        rwkv.NO_HEADS,
    ),
    layout=TensorLayout(
        (*p.UNTIED, *rwkv.NORMS),
        (
            Group((*rwkv.LAYER_NORMS, *rwkv.RWKV6, *rwkv.GROUP_NORM)),
            Group(
                slots("""
                    time_mix_first wkv width/wkv F32
                    time_mix_key width width
                    time_mix_value width width
                    channel_mix_lerp_k width
                    channel_mix_lerp_r width
                    channel_mix_key width ff
                    channel_mix_value ff width
                    channel_mix_receptance width width
                """)
            ),
        ),
        (*p.EPS, "wkv.head_size"),
    ),
    renamed=rwkv.with_ending,
    rules=(
        *rwkv.RWKV6_RULES,
        Rule(regex(r"attention\.output\.weight$|feed_forward\.value\.weight$"), _scaled),
    ),
    stacks=(
        rwkv.lerps(
            r"blocks\.(?P<layer>\d+)\.attention\.time_maa_(?P<index>[a-z])\.weight$", _kinds
        ),
    ),
    head="head",
)


def _reordered(hp: Hyper, lazy: Lazy) -> Lazy:
    """Five matrices from the order r, k, v, w, g to llama.cpp's w, k, v, r, g."""
    turned = transposed(hp, lazy)
    rows = turned.reshape(5, turned.size // 5 // turned.shape[-1], turned.shape[-1])
    return rows.move(rows.shape, lambda values: values[[3, 1, 2, 0, 4]]).reshape(*turned.shape)


def _rank(name: str, narrow: int) -> Callable[[Hyper], int]:
    return lambda hp: hp.integer(name, default=narrow * (1 + (hp.width >= 4096)))


RWKV6_QWEN2 = Family(
    gguf="rwkv6qwen2",
    names=("RWKV6Qwen2ForCausalLM",),
    vocabulary=SPM_OR_BPE,
    keys=(
        *rwkv.keys(
            computed("wkv.head_size", U32, lambda hp: hp.width // hp.heads),
            computed("time_mix_extra_dim", U32, _rank("lora_rank_tokenshift", 32)),
            computed("time_decay_extra_dim", U32, _rank("lora_rank_decay", 64)),
            u32("feed_forward_length", "intermediate_size", required=True),
        ),
        RMS_EPS,
        rwkv.SHIFT,
        KV_HEADS,
        rwkv.NO_HEADS,
    ),
    layout=TensorLayout(
        (*p.UNTIED, *slots("? output_norm.bias width")),
        (
            Group((*p.NORMS, *rwkv.RWKV6, *p.GATED)),
            Group(
                slots("""
                    ? time_mix_first wkv width/wkv F32
                    time_mix_key width kv*wkv
                    time_mix_value width kv*wkv
                    ?qkv time_mix_key.bias kv*wkv
                    ?qkv time_mix_value.bias kv*wkv
                    ?qkv time_mix_receptance.bias width
                """)
            ),
        ),
        (*p.RMS, "wkv.head_size"),
    ),
    renamed=rwkv.with_ending,
    rules=(
        each(r"\.time_maa_w[12]\.weight$", _reordered),
        *rwkv.RWKV6_RULES,
        Rule(regex(r"self_attn\.o_proj\.weight$"), _scaled),
    ),
    stacks=(
        rwkv.lerps(
            r"layers\.(?P<layer>\d+)\.self_attn\.time_maa_(?P<index>[a-z])\.weight$", _kinds
        ),
    ),
)

ROWS = (RWKV6, RWKV6_QWEN2)
