"""ruGPT-3 XL: GPT-2 under other names."""

from __future__ import annotations

from mbuild.convert.families.gpt import GPT2
from mbuild.convert.read.lazy import Lazy
from mbuild.convert.rows.hyper import Hyper
from mbuild.convert.rows.keys import COMMON
from mbuild.convert.rows.row import NO_HF_CONFIG
from mbuild.convert.rows.rules import Stack
from mbuild.core.patterns import regex
from mbuild.core.values import replace


def _joined(hp: Hyper, lazy: Lazy) -> Lazy:
    """Queries, keys and values one behind the other, of a stack of the three."""
    return lazy.reshape(lazy.shape[0] * lazy.shape[1], *lazy.shape[2:])


RUGPT3_XL = replace(
    GPT2,
    names=("RuGPT3XLForCausalLM",),
    keys=COMMON,
    hf=NO_HF_CONFIG,
    rules=(),
    stacks=tuple(
        Stack(
            regex(rf"layers\.(?P<layer>\d+)\.self_attn\.(?P<index>[qkv])_proj\.{part}$"),
            ("",),
            f"blk.{{layer}}.attn_qkv.{part}",
            lambda hp: 3,
            labels=lambda hp: "qkv",
            change=_joined,
        )
        for part in ("weight", "bias")
    ),
)

ROWS = (RUGPT3_XL,)
