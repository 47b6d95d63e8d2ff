"""RWKV: layers that mix a token with the one before, and what is done to their tensors."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mbuild.convert.rows.keys import BLOCK_COUNT, U32, constant, f32, file_type, u32
from mbuild.convert.rows.layout import slots
from mbuild.convert.rows.mamba import LONGEST
from mbuild.convert.rows.recurrent import squeezed
from mbuild.convert.rows.rules import Rule, Stack, each, transposed
from mbuild.core.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mbuild.convert.read.lazy import Lazy
    from mbuild.convert.rows.hyper import Hyper
    from mbuild.convert.rows.keys import KeyRule
    from mbuild.convert.rows.rules import Named

NORMS = slots("""
    token_embd_norm width
    token_embd_norm.bias width
    output_norm.bias width
""")
"""What models have outside their layers, besides what all have."""

LAYER_NORMS = slots("""
    attn_norm width
    attn_norm.bias width
    attn_norm_2 width
    attn_norm_2.bias width
""")

GROUP_NORM = slots("time_mix_ln width\ntime_mix_ln.bias width")

RWKV6 = slots("""
    time_mix_w1 width 5*mix_extra F32
    time_mix_w2 mix_extra width 5 F32
    time_mix_lerp_x width
    time_mix_lerp_fused width 1 1 5 F32
    time_mix_decay width
    time_mix_decay_w1 width decay_extra F32
    time_mix_decay_w2 decay_extra width F32
    time_mix_receptance width width
    time_mix_gate width width
    time_mix_output width width
""")

RWKV7 = slots("""
    time_mix_w0 width
    time_mix_w1 width decay_rank F32
    time_mix_w2 decay_rank width F32
    time_mix_a0 width
    time_mix_a1 width iclr_rank
    time_mix_a2 iclr_rank width
    time_mix_v0 width
    time_mix_k_k width
    time_mix_k_a width
    time_mix_r_k width
    time_mix_key width width
    time_mix_value width width
    time_mix_receptance width width
    time_mix_output width width
""")
FIRST_VALUES = slots("time_mix_v1 width iclr_rank\ntime_mix_v2 iclr_rank width")
"""Those of the first layer, which are not used; llama.cpp wants them all the same."""
OTHER_VALUES = slots("time_mix_v1 width value_rank\ntime_mix_v2 value_rank width")

RWKV7_NAMES = (
    ("blocks", "layers"),
    ("ffn", "feed_forward"),
    ("self_attn", "attention"),
    ("attn", "attention"),
    ("time_mixer.", ""),
    ("feed_forward_norm", "ln2"),
    ("g_norm", "ln_x"),
)
"""What RWKV 7's parts are called in one checkpoint and another."""

RWKV6_RULES: tuple[Rule, ...] = (
    each(r"\.time_(maa|decay)_w[12]\.weight$", transposed),
    each(r"\.time_(decay|maa_x)\.weight$|feed_forward\.time_maa_[kr]\.weight$", squeezed),
)


def _named_alike(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    """Low ranks of weight, rate, value and gate: matrices as they are or modules; the first layer
    has those of its rate in the place of its values'."""
    new = re.sub(r"_lora\.lora\.([02])\.weight$", lambda m: f"{1 + int(m[1]) // 2}.weight", name)
    new = new.replace("_lora.lora.2.bias", "0.weight")
    plain = new == name and len(squeezed(hp, lazy).shape) == 2
    flat = transposed(hp, squeezed(hp, lazy)) if plain else squeezed(hp, lazy)
    if ".layers.0." not in name:
        return [(new, flat)]
    if ".attention.v" in new:
        return []
    copies = [(new.replace(".attention.a", ".attention.v"), flat)] if ".attention.a" in new else []
    return [*copies, (new, flat)]


def _joined(hp: Hyper, name: str, lazy: Lazy) -> list[Named]:
    layer = re.findall(r"\.(\d+)\.", name)[0]
    return [(f"blk.{layer}.time_mix_lerp_fused.weight", fused(hp, lazy))]


RWKV7_RULES: tuple[Rule, ...] = (
    Rule(regex(r"\.attention\.[wavg](\d|_lora\.lora)"), _named_alike),
    Rule(regex(r"\.attention\.x_x\.weight$"), _joined),
    each(r"\.attention\.r_k\.weight$", lambda hp, lazy: lazy.reshape(lazy.size)),
    each(r"^(?!.*\.attention\.x_)", squeezed),
)


def keys(*inner: KeyRule) -> tuple[KeyRule, ...]:
    """The keys of a model that reads without end, with ``inner`` among them."""
    return (
        constant("context_length", U32, LONGEST),
        u32("embedding_length", "hidden_size", low=1, required=True),
        BLOCK_COUNT,
        *inner,
        file_type,
    )


NO_HEADS = constant("attention.head_count", U32, 0)
SHIFT = constant("token_shift_count", U32, 1)
EPSILON = f32("attention.layer_norm_epsilon", "layer_norm_epsilon", required=True)


def with_ending(config: Mapping[str, Any], name: str) -> str:
    """Parameters that are no modules have names without ``.weight``."""
    return name if name.endswith((".weight", ".bias")) else f"{name}.weight"


def fused(hp: Hyper, lazy: Lazy) -> Lazy:
    """Vectors of several kinds as (kinds, 1, 1, width)."""
    return lazy.reshape(lazy.size // hp.width, 1, 1, hp.width)


def lerps(pattern: str, labels: Callable[[Hyper], str]) -> Stack:
    """The share that the token before has in each kind of vector, all kinds in one tensor."""
    into = "blk.{layer}.time_mix_lerp_fused.weight"

    def count(hp: Hyper) -> int:
        return len(labels(hp))

    return Stack(re.compile(pattern), ("",), into, count, labels=labels, change=fused)
